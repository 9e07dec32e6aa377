"""Units: what `inspect` offers is what `prune` may take."""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper

import onnxprune
from tests.unit.rules.graphs import HALF, graph, halved


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


def routed() -> onnx.ModelProto:
    """CondConv: two Convs whose weights are mixed of four experts' by a routing, with a residual sum."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["h"]),
        helper.make_node("GlobalAveragePool", ["h"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "r"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["routing"]),
        helper.make_node("MatMul", ["routing", "up"], ["mixed_up"]),
        helper.make_node("Reshape", ["mixed_up", "up_shape"], ["weight_up"]),
        helper.make_node("Conv", ["h", "weight_up"], ["wide"]),
        helper.make_node("Relu", ["wide"], ["active"]),
        helper.make_node("MatMul", ["routing", "down"], ["mixed_down"]),
        helper.make_node("Reshape", ["mixed_down", "down_shape"], ["weight_down"]),
        helper.make_node("Conv", ["active", "weight_down"], ["narrow"]),
        helper.make_node("Add", ["h", "narrow"], ["s"]),
        helper.make_node("Conv", ["s", "v"], ["y"]),
    ]
    params = {
        "w": (8, 3, 1, 1), "b": (8,), "r": (8, 4), "up": (4, 12 * 8), "down": (4, 8 * 12),
        "up_shape": [12, 8, 1, 1], "down_shape": [8, 12, 1, 1], "v": (5, 8, 1, 1),
    }  # fmt: skip
    return graph(nodes, {"x": (1, 3, 4, 4)}, params)


def test_weights_that_are_computed_go_with_the_channels_along_their_sides() -> None:
    model = routed()
    groups = onnxprune.inspect(model).groups
    assert sorted((group.channels, group.kind) for group in groups) == [
        (4, "channels"), (8, "channels"), (12, "channels"),
    ]  # fmt: skip
    _, kept = halved(model)
    assert [kept[name].tolist()[:2] for name in ("up_shape", "down_shape")] == [[6, 4], [4, 6]]
    assert [kept[name].shape for name in ("w", "r", "up", "down")] == [(4, 3, 1, 1), (4, 2), (2, 24), (2, 24)]


def test_a_computed_weight_that_is_an_output_too_keeps_its_channels() -> None:
    model = routed()
    model.graph.output.append(helper.make_tensor_value_info("weight_up", 1, [12, 8, 1, 1]))
    result, kept = halved(model)
    assert kept["w"].shape[0] == 8
    assert kept["up_shape"].tolist() == [12, 8, 1, 1]
    assert [group.kept for group in result.report.groups] == [2]


def test_a_channel_that_only_computed_weights_hold_is_ranked_by_their_elements() -> None:
    model = routed()
    (up,) = (t for t in model.graph.initializer if t.name == "up")
    values = numpy_helper.to_array(up).reshape(4, 12, 8).copy()
    values[:, ::2] *= 1e-3
    up.CopyFrom(numpy_helper.from_array(values.reshape(4, 96), "up"))
    (down,) = (t for t in model.graph.initializer if t.name == "down")
    thin = numpy_helper.to_array(down).reshape(4, 8, 12).copy()
    thin[:, :, ::2] *= 1e-3
    down.CopyFrom(numpy_helper.from_array(thin.reshape(4, 96), "down"))
    result = onnxprune.prune(model, HALF)
    (group,) = (group for group in result.plan.groups if group.channels == 12)
    assert list(group.keep) == [1, 3, 5, 7, 9, 11]
