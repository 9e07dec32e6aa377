"""Channels and heads go around what carries a state along a sequence, and around experts."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

import onnxprune
from tests.unit.rules.graphs import graph, halved, reasons

MICROSOFT = "com.microsoft"


def test_a_causal_convolution_loses_channels_with_its_kernels() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"]),
        helper.make_node(
            "CausalConvWithState", ["h", "k", "b"], ["s", "state"], domain=MICROSOFT, activation="silu"
        ),
        helper.make_node("Conv", ["s", "v"], ["y"]),
    ]
    params = {"w": (8, 3, 1), "k": (8, 1, 4), "b": (8,), "v": (5, 8, 1)}
    _, kept = halved(graph(nodes, {"x": ("n", 3, 6)}, params))
    assert [kept[name].shape for name in "wkbv"] == [(4, 3, 1), (4, 1, 4), (4,), (5, 4, 1)]


def test_heads_of_linear_attention_go_whole_and_its_scale_stays() -> None:
    layers = {"q": 16, "k": 8, "v": 12}
    nodes = [helper.make_node("MatMul", ["x", f"w{name}"], [name]) for name in layers]
    nodes += [
        helper.make_node("MatMul", ["x", "wd"], ["rates"]),
        helper.make_node("Softplus", ["rates"], ["pace"]),
        helper.make_node("Neg", ["pace"], ["d"]),
    ]
    nodes.append(
        helper.make_node("LinearAttention", ["q", "k", "v", "", "d"], ["a", "state"], domain=MICROSOFT,
                         q_num_heads=4, kv_num_heads=2, update_rule="gated")
    )  # fmt: skip
    nodes.append(helper.make_node("MatMul", ["a", "u"], ["y"]))
    params = {f"w{name}": (6, size) for name, size in layers.items()} | {"wd": (6, 2), "u": (24, 5)}
    result, kept = halved(graph(nodes, {"x": (1, 3, 6)}, params))
    (node,) = (n for n in result.model.graph.node if n.op_type == "LinearAttention")
    heads = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert heads["q_num_heads"] == 2 * heads["kv_num_heads"]
    assert kept["u"].shape[0] == 2 * kept["wv"].shape[1] == 12
    if kept["wk"].shape[1] // heads["kv_num_heads"] != 4:
        assert np.isclose(heads["scale"], 0.5)


def experts() -> onnx.ModelProto:
    """h + MoE(h), the routing by a layer of h."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("MatMul", ["h", "route"], ["r"]),
        helper.make_node("MoE", ["h", "r", "w1", "b1", "w2", "b2"], ["m"], domain=MICROSOFT, k=2,
                         activation_type="relu"),
        helper.make_node("Add", ["h", "m"], ["s"]),
        helper.make_node("MatMul", ["s", "v"], ["y"]),
    ]  # fmt: skip
    params = {
        "w": (6, 8), "route": (8, 4), "w1": (4, 16, 8), "b1": (4, 16), "w2": (4, 8, 16), "b2": (4, 8),
        "v": (8, 5),
    }  # fmt: skip
    return graph(nodes, {"x": (3, 6)}, params)


def test_the_channels_around_experts_go_and_the_experts_stay() -> None:
    model = experts()
    _, kept = halved(model)
    assert [kept[name].shape for name in ("w", "w1", "w2", "b2", "v")] == [
        (6, 4), (4, 16, 4), (4, 4, 16), (4, 4), (4, 5),
    ]  # fmt: skip
    assert ("MoE", "MoE routes by this axis") in reasons(model)
    assert onnxprune.inspect(model).without_rule == ()
