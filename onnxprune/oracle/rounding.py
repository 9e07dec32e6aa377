"""Roundings in the middle of a graph: how far a coarser type or an integer code moves what comes after it.

Behind a cast to float16 a difference of the last place of float32 is one of float16, where a number stands
next to the border of two roundings; and onnxruntime leaves out a cast and its way back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxprune.model.graph import opsets_of
from onnxprune.model.mapped import MappedModel
from onnxprune.model.patch import Patch
from onnxprune.model.runtime import open_session, run, with_outputs
from onnxprune.rules.registry import facets_of

FLOATS: dict[int, float] = {
    TensorProto.FLOAT: 1e-5,
    TensorProto.DOUBLE: 1e-5,
    TensorProto.FLOAT16: 2e-3,
    TensorProto.BFLOAT16: 1e-2,
}


def encodes(node: onnx.NodeProto, opsets: Mapping[str, int]) -> bool:
    """Tell whether a node makes codes of real numbers."""
    found = facets_of(node, opsets).quantisation
    return found is not None and not found.decodes


def inexact(model: onnx.ModelProto, sums: Sequence[str], dtypes: Mapping[str, int]) -> frozenset[str]:
    """Return the tensors that depend on a float sum over a pruned axis: they need not be equal to the bit."""
    found = {name for name in sums if dtypes.get(name) in FLOATS}
    for node in model.graph.node:
        if found.intersection(node.input):
            found.update(node.output)
    return frozenset(found)


def nudged(
    model: onnx.ModelProto,
    moved: frozenset[str],
    tensors: Mapping[str, tuple[tuple[int, ...], int]],
    seed: int,
) -> onnx.ModelProto | None:
    """Return a copy in which what is quantised is nudged by a share of itself, None where nothing is.

    moved: the tensors that may be nudged; tensors: shape and element type by name.
    """
    rng, opsets = np.random.default_rng(seed), opsets_of(model)
    patch = Patch(model)
    for place, node in enumerate(model.graph.node):
        if not encodes(node, opsets):
            continue
        if node.input[0] in moved and node.output[0] in tensors:
            shape, kind = tensors[node.output[0]][0], tensors.get(node.input[0], ((), TensorProto.FLOAT))[1]
            share = FLOATS.get(kind, 0.0)
            factor = 1 + np.where(rng.random(shape) < 0.5, -share, share)
            name, result = f"{node.output[0]}__nudge", f"{node.output[0]}__nudged"
            patch.initializer(name, factor.astype(helper.tensor_dtype_to_np_dtype(kind)))
            patch.insert(place, before=[helper.make_node("Mul", [node.input[0], name], [result])])
            patch.set_input(place, 0, result)
    return patch.written() if patch.added else None


HALF_PLACE: dict[int, float] = {TensorProto.FLOAT16: 2.0**-11, TensorProto.BFLOAT16: 2.0**-8}
Feeds = Mapping[str, np.ndarray]


def run_nudged(given: MappedModel, feeds: Feeds) -> dict[str, Any] | None:
    """Run a model in which what is cast to a coarser type moves by half a unit in its last place.

    Returns None for a model without such casts. Raises UnprovedError where onnxruntime refuses it.
    """
    model = given.model
    made = {name for node in model.graph.node for name in node.output}
    shares = {node.input[0]: share for _, node, share in _casts(model) if node.input[0] in made}
    if not shares:
        return None
    before = run(open_session(with_outputs(given, list(shares))), feeds)
    steps = {name: _steps(a, shares[name]) for name, a in before.items() if a.dtype == np.float32}
    fed = {_step_of(name): step for name, step in steps.items()}
    return run(open_session(replace(given, model=_with_steps(model, steps))), {**feeds, **fed})


def _casts(model: onnx.ModelProto) -> Iterator[tuple[int, onnx.NodeProto, float]]:
    """Yield the casts to a coarser type: place, node, and half a unit in its last place, per number."""
    opsets = opsets_of(model)
    for place, node in enumerate(model.graph.node):
        name = facets_of(node, opsets).element_type
        to = next((a.i for a in node.attribute if name and a.name == name), 0)
        share = HALF_PLACE.get(to, 0.0)
        if share and node.input and node.input[0]:
            yield place, node, share


def _steps(array: np.ndarray, share: float) -> np.ndarray:
    signs = np.random.default_rng(0).choice([-share, share], array.shape)
    return np.multiply(array, signs, out=np.zeros(array.shape), where=np.isfinite(array)).astype(array.dtype)


def _step_of(name: str) -> str:
    return f"__oracle_step_{name}"


def _with_steps(model: onnx.ModelProto, steps: Feeds) -> onnx.ModelProto:
    """Add an input to every tensor that is cast, in front of the cast."""
    patch = Patch(model)
    for place, node, _ in _casts(model):
        if node.input[0] in steps:
            source, moved = node.input[0], f"__oracle_moved_{node.output[0]}"
            patch.insert(place, before=[helper.make_node("Add", [source, _step_of(source)], [moved])])
            patch.set_input(place, 0, moved)
    for name, step in steps.items():
        patch.add_input(helper.make_tensor_value_info(_step_of(name), TensorProto.FLOAT, step.shape))
    return patch.written()
