"""What a quantisation makes of rounding: a code that lies between two integers falls to either side.

A float sum over fewer channels is rounded differently, and where it is quantised behind, a code may
move by one. How far such steps reach is measured on the masked original: what is quantised behind a
float sum over a pruned axis is nudged by as much as the oracle allows a float to differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxprune.model.domains import opsets_of
from onnxprune.model.patch import Patch
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
