"""Operators without a rule are named with their domain, and what to give instead where that is known."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import NodeProto, helper

import onnxprune
from onnxprune.errors import NothingToPrune
from tests.unit.rules.graphs import HALF, graph, halved, reasons

WEIGHTS = {"w": (8, 3, 1, 1), "v": (5, 8, 1, 1)}


def between(*nodes: NodeProto) -> list[NodeProto]:
    first = helper.make_node("Conv", ["x", "w"], ["h"])
    return [first, *nodes, helper.make_node("Conv", ["s", "v"], ["y"])]


@pytest.mark.parametrize(
    ("domain", "part"),
    [
        ("com.microsoft.extensions", "give the model without its pre- and post-processing"),
        ("ai.onnx.contrib", "give the model without its pre- and post-processing"),
        ("com.microsoft.nchwc", "give the model it was made from"),
        ("acme", "no rule for Mixed of 'acme'"),
    ],
)
def test_a_model_of_foreign_nodes_is_refused_with_what_to_give(domain: str, part: str) -> None:
    nodes = between(helper.make_node("Mixed", ["h"], ["s"], domain=domain))
    with pytest.raises(NothingToPrune, match=part) as caught:
        onnxprune.prune(graph(nodes, {"x": (1, 3, 4, 4)}, WEIGHTS), HALF)
    assert f"no rule for Mixed of '{domain}'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_foreign_node_touches_is_frozen_by_name_and_the_rest_goes() -> None:
    nodes = between(
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "u"], ["i"]),
        helper.make_node("ExpandDims", ["i", "axis"], ["e"], domain="com.microsoft"),
        helper.make_node("Squeeze", ["e", "first"], ["s"]),
    )
    params = {**WEIGHTS, "u": (8, 8, 1, 1), "axis": np.int32(0), "first": [0]}
    model = graph(nodes, {"x": (1, 3, 4, 4)}, params)
    _, kept = halved(model)
    assert (kept["w"].shape[0], kept["u"].shape, kept["v"].shape[1]) == (4, (8, 4, 1, 1), 8)
    assert ("ExpandDims", "no rule for this operator of 'com.microsoft'") in reasons(model)
