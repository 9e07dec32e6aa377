"""Roundings in the middle of a graph: how far a coarser type moves what comes after it.

Behind a cast to float16 a difference of the last place of float32 is one of float16, where a number
stands next to the border of two roundings; and onnxruntime leaves out a cast and its way back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxprune.model.mapped import MappedModel
from onnxprune.model.patch import Patch
from onnxprune.model.runtime import open_session, run, with_outputs

HALF_PLACE = {TensorProto.FLOAT16: 2.0**-11, TensorProto.BFLOAT16: 2.0**-8}
Feeds = Mapping[str, np.ndarray]


def run_nudged(given: MappedModel, feeds: Feeds) -> dict[str, Any] | None:
    """Run a model in which what is cast to a coarser type moves by half a unit in its last place.

    Returns None for a model without such casts. Raises UnprovedError where onnxruntime refuses it.
    """
    model = given.model
    made = {name for node in model.graph.node for name in node.output}
    shares = {n.input[0]: s for n in model.graph.node if n.input and n.input[0] in made and (s := _share(n))}
    if not shares:
        return None
    before = run(open_session(with_outputs(given, list(shares))), feeds)
    steps = {name: _steps(a, shares[name]) for name, a in before.items() if a.dtype == np.float32}
    fed = {_step_of(name): step for name, step in steps.items()}
    return run(open_session(replace(given, model=_with_steps(model, steps))), {**feeds, **fed})


def _share(node: onnx.NodeProto) -> float:
    """Return half a unit in the last place, per number, of the type that a node casts to; 0 for others."""
    to = [a.i for a in node.attribute if a.name == "to"] if node.op_type == "Cast" else []
    return HALF_PLACE.get(to[0], 0.0) if to else 0.0


def _steps(array: np.ndarray, share: float) -> np.ndarray:
    signs = np.random.default_rng(0).choice([-share, share], array.shape)
    return np.multiply(array, signs, out=np.zeros(array.shape), where=np.isfinite(array)).astype(array.dtype)


def _step_of(name: str) -> str:
    return f"__oracle_step_{name}"


def _with_steps(model: onnx.ModelProto, steps: Feeds) -> onnx.ModelProto:
    """Add an input to every tensor that is cast, in front of the cast."""
    patch = Patch(model)
    for place, node in enumerate(model.graph.node):
        if _share(node) and node.input[0] in steps:
            source, moved = node.input[0], f"__oracle_moved_{node.output[0]}"
            patch.insert(place, before=[helper.make_node("Add", [source, _step_of(source)], [moved])])
            patch.set_input(place, 0, moved)
    for name, step in steps.items():
        patch.add_input(helper.make_tensor_value_info(_step_of(name), TensorProto.FLOAT, step.shape))
    return patch.written()
