"""The plan: a third party can rebuild slices and masks from it, and roles are those of the uses."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import PruneSettings
from onnxprune.errors import UsageError

node = helper.make_node
RANDOM = PruneSettings(ratio=0.5, criterion="random", align=1, bench=False)


def built(
    nodes: list[onnx.NodeProto], stored: dict[str, np.ndarray], shape: list[int | str]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, n) for n, v in stored.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def lstm() -> onnx.ModelProto:
    """Two directions, each with units of its own."""
    nodes = [
        node("LSTM", ["x", "w", "r"], ["s"], "lstm", hidden_size=8, direction="bidirectional"),
        node("Transpose", ["s"], ["t"], perm=[0, 2, 1, 3]),
        node("Reshape", ["t", "flat"], ["f"]),
        node("MatMul", ["f", "u"], ["y"], "dense"),
    ]
    stored = {"w": drawn(2, 32, 5), "r": drawn(2, 32, 8), "u": drawn(16, 3),
              "flat": np.array([0, 0, -1])}  # fmt: skip
    return built(nodes, stored, [4, 2, 5])


def grouped() -> onnx.ModelProto:
    """A Conv of two groups: its weight keeps other input channels in each of them."""
    nodes = [
        node("Conv", ["x", "w"], ["h"], "first"),
        node("Conv", ["h", "v"], ["k"], "second", group=2),
        node("Conv", ["k", "u"], ["y"], "third"),
    ]
    stored = {"w": drawn(12, 3, 1, 1), "v": drawn(8, 6, 1, 1), "u": drawn(4, 8, 1, 1)}
    return built(nodes, stored, ["n", 3, 4, 4])


def rebuilt(values: np.ndarray, slices: list[dict[str, Any]]) -> np.ndarray:
    """Cut a tensor as the plan says, by its JSON alone."""
    keep = {s["axis"]: s for s in slices}
    shape = [
        size if axis not in keep else len(np.ravel(keep[axis]["keep"][0]) if nested(keep[axis])
                                          else keep[axis]["keep"])
        for axis, size in enumerate(values.shape)
    ]  # fmt: skip
    result = np.zeros(shape, values.dtype)
    for index in itertools.product(*(range(size) for size in shape)):
        source = list(index)
        for axis, part in keep.items():
            row = 0
            for over in part.get("over", []):
                row = row * over["count"] + index[over["axis"]] // over.get("stride", 1) % over["count"]
            places = part["keep"][row] if nested(part) else part["keep"]
            source[axis] = places[index[axis]]
        result[index] = values[tuple(source)]
    return result


def nested(part: dict[str, Any]) -> bool:
    return isinstance(part["keep"][0], list)


@pytest.mark.parametrize("model", [lstm(), grouped()], ids=["lstm", "grouped"])
def test_the_slices_can_be_rebuilt_from_the_json_of_the_plan(model: onnx.ModelProto) -> None:
    result = onnxprune.prune(model, RANDOM)
    plan = json.loads(result.plan.to_json())
    assert any(nested(part) for part in plan["slices"])
    assert all(nested(part) == ("over" in part) for part in (*plan["slices"], *plan["masks"]))
    before = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for tensor in result.model.graph.initializer:
        parts = [s for s in plan["slices"] if s["tensor"] == tensor.name]
        if parts:
            np.testing.assert_array_equal(
                rebuilt(before[tensor.name], parts), numpy_helper.to_array(tensor), tensor.name
            )


def test_a_plan_from_before_nested_lists_said_what_they_run_over_is_read() -> None:
    model = lstm()
    result = onnxprune.prune(model, RANDOM)
    plan = json.loads(result.plan.to_json())
    for part in (*plan["slices"], *plan["masks"]):
        part.pop("over", None)
    assert onnxprune.apply(model, json.dumps(plan).encode()).report.after == result.report.after
    plan["slices"][0]["over"] = [{"axis": 2, "count": 2}]
    with pytest.raises(UsageError, match="do not follow"):
        onnxprune.apply(model, json.dumps(plan).encode())


def test_the_input_channels_of_a_weight_with_two_uses_are_consumed() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Relu", ["h"], ["a"]),
        node("MatMul", ["a", "v"], ["b"]),
        node("Relu", ["b"], ["c"]),
        node("MatMul", ["c", "v"], ["d"]),
        node("MatMul", ["d", "u"], ["y"]),
    ]
    stored = {"w": drawn(5, 8), "v": drawn(8, 8), "u": drawn(8, 3)}
    result = onnxprune.prune(built(nodes, stored, ["n", 5]), RANDOM)
    roles = {s.axis: s.role for s in result.plan.slices if s.tensor == "v"}
    assert roles == {0: "consumes", 1: "produces"}
