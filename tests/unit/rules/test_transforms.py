"""What runs over an axis keeps that axis, and lets channels on the others go."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests.unit.rules.graphs import graph, halved

LENGTHS = np.asarray([4, 2])


def test_a_reversed_sequence_loses_channels() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("ReverseSequence", ["h", "lengths"], ["s"], batch_axis=0, time_axis=1),
        helper.make_node("MatMul", ["s", "v"], ["y"]),
    ]
    _, kept = halved(graph(nodes, {"x": (2, 4, 6)}, {"w": (6, 8), "v": (8, 5), "lengths": LENGTHS}))
    assert (kept["w"].shape, kept["v"].shape) == ((6, 4), (4, 5))


@pytest.mark.parametrize("axis", [1, -2])
def test_the_spectrum_along_time_loses_channels(axis: int) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Transpose", ["h"], ["t"], perm=[0, 2, 1] if axis == -2 else [0, 1, 2]),
        helper.make_node("Unsqueeze", ["t", "last"], ["p"]),
        helper.make_node("DFT", ["p", "", "axis"], ["f"]),
        helper.make_node("ReduceSum", ["f", "parts"], ["s"], keepdims=0),
        helper.make_node(
            "Einsum", ["s", "v"], ["y"], equation="bct,ck->btk" if axis == -2 else "btc,ck->btk"
        ),
    ]
    params = {"w": (6, 8), "v": (8, 5), "last": [-1], "parts": [-1], "axis": np.asarray(axis)}
    _, kept = halved(graph(nodes, {"x": (2, 4, 6)}, params))
    assert (kept["w"].shape, kept["v"].shape) == ((6, 4), (4, 5))


def test_heads_go_behind_a_triangle() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"]),
        helper.make_node("Trilu", ["h"], ["s"]),
        helper.make_node("Conv", ["s", "v"], ["y"]),
    ]
    _, kept = halved(graph(nodes, {"x": (1, 3, 4, 4)}, {"w": (8, 3, 1, 1), "v": (5, 8, 1, 1)}))
    assert (kept["w"].shape[0], kept["v"].shape[1]) == (4, 4)


def test_repeats_out_of_a_one_hot_are_known() -> None:
    """repeat_interleave as PyTorch's older exporter writes it: [1, K, 1] out of OneHot([1], 3, [1, K])."""
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"]),
        helper.make_node("Shape", ["i"], ["sizes"]),
        helper.make_node("Slice", ["sizes", "one", "two"], ["k"]),
        helper.make_node("Concat", ["one", "k"], ["pair"], axis=0),
        helper.make_node("OneHot", ["one", "depth", "pair"], ["hot"]),
        helper.make_node("Reshape", ["hot", "flat"], ["repeats"]),
        helper.make_node("Unsqueeze", ["h", "one"], ["u"]),
        helper.make_node("Tile", ["u", "repeats"], ["t"]),
        helper.make_node("MatMul", ["t", "v"], ["y"]),
    ]
    params = {"w": (6, 8), "v": (8, 5), "one": [1], "two": [2], "depth": np.asarray(3), "flat": [-1]}
    _, kept = halved(graph(nodes, {"x": ("n", 6), "i": ("n", 2)}, params, integers=["i"]))
    assert (kept["w"].shape, kept["v"].shape) == ((6, 4), (4, 5))
