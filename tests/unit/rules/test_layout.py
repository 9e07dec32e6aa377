"""Shapes that a node is given: followed where they can be repaired, and frozen where not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxprune
from onnxprune.errors import NothingToPrune
from tests.unit.rules.graphs import HALF, graph, halved, reasons


def test_a_target_that_is_cast_from_a_stored_float_is_followed() -> None:
    """A table of positions that is reshaped to [1, n, n, C], the n cast from a stored 4.0."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], strides=[4, 4]),
        helper.make_node("Reshape", ["h", "rows"], ["r"]),
        helper.make_node("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Cast", ["n"], ["whole"], to=7),
        helper.make_node("Unsqueeze", ["whole", "zero"], ["side"]),
        helper.make_node("Concat", ["one", "side", "side", "channels"], ["target"], axis=0),
        helper.make_node("Reshape", ["places", "target"], ["grid"]),
        helper.make_node("Reshape", ["grid", "flat"], ["p"]),
        helper.make_node("Add", ["t", "p"], ["s"]),
        helper.make_node("MatMul", ["s", "v"], ["y"]),
    ]
    params = {
        "w": (8, 3, 4, 4), "v": (8, 5), "places": (1, 16, 8), "n": np.float32(4), "zero": [0], "one": [1],
        "channels": [8], "rows": [1, 8, 16], "flat": [1, 16, 8],
    }  # fmt: skip
    _, kept = halved(graph(nodes, {"x": (1, 3, 16, 16)}, params, opset=17))
    assert (kept["w"].shape[0], kept["v"].shape[0], kept["places"].shape[2]) == (4, 4, 4)


def shaped_by_data(op: str) -> onnx.ModelProto:
    """A Conv whose output gets a shape that is read off the values of an input."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"]),
        helper.make_node("ReduceMax", ["k"], ["zero"], keepdims=1),
        helper.make_node("Mul", ["zero", "nothing"], ["none"]),
        helper.make_node("Add", ["sizes", "none"], ["target"]),
        helper.make_node(op, ["h", "target"], ["s"], name="shaped"),
        helper.make_node("Conv", ["s", "v"], ["y"]),
    ]
    params = {"w": (8, 3, 1, 1), "v": (5, 8, 1, 1), "sizes": [1, 8, 4, 4], "nothing": [0]}
    return graph(nodes, {"x": (1, 3, 4, 4), "k": (2,)}, params, integers=["k"])


@pytest.mark.parametrize("op", ["Reshape", "Expand"])
def test_a_shape_that_is_computed_from_data_freezes_what_it_shapes(op: str) -> None:
    model = shaped_by_data(op)
    assert (op, f"{op} to a shape that is computed from data") in reasons(model)
    with pytest.raises(NothingToPrune):
        onnxprune.prune(model, HALF)
