"""Units: what `inspect` offers is what `prune` may take."""

from __future__ import annotations

import onnx
from onnx import helper

import onnxprune
from tests.unit.rules.graphs import graph, halved


def grouped_deviation() -> onnx.ModelProto:
    """x over its deviation in groups of three channels, which is spread out again, as in EvoNorm."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["h"]),
        helper.make_node("Reshape", ["h", "groups"], ["g"]),
        helper.make_node("ReduceMean", ["g", "within"], ["mean"]),
        helper.make_node("Sub", ["g", "mean"], ["c"]),
        helper.make_node("Mul", ["c", "c"], ["c2"]),
        helper.make_node("ReduceMean", ["c2", "within"], ["var"]),
        helper.make_node("Sqrt", ["var"], ["std"]),
        helper.make_node("Shape", ["g"], ["wide"]),
        helper.make_node("Expand", ["std", "wide"], ["spread"]),
        helper.make_node("Shape", ["h"], ["back"]),
        helper.make_node("Reshape", ["spread", "back"], ["d"]),
        helper.make_node("Div", ["h", "d"], ["n"]),
        helper.make_node("Conv", ["n", "v"], ["y"]),
    ]
    params = {
        "w": (24, 3, 1, 1), "b": (24,), "v": (4, 24, 1, 1), "groups": [0, 8, -1, 4, 4], "within": [2, 3, 4],
    }  # fmt: skip
    return graph(nodes, {"x": ("n", 3, 4, 4)}, params)


def test_a_row_that_is_tied_to_one_unit_is_a_unit_of_channels() -> None:
    model = grouped_deviation()
    (offered,) = onnxprune.inspect(model).groups
    assert (offered.channels, offered.kind) == (8, "channels")
    result, kept = halved(model)
    assert (kept["w"].shape[0], kept["v"].shape[1], kept["groups"].tolist()[1]) == (12, 12, 4)
    (group,) = result.report.groups
    assert (group.channels, group.kept) == (8, 4)
