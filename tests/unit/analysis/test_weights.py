"""Weights are found where no shape is known: behind foreign operators, in loops, behind movement."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.analysis.weights import Weight, find_weights


def build(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def found(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> dict[str, Weight]:
    return {w.constant.name: w for w in find_weights(build(nodes, constants), tables=False)}


def numbered(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_behind_an_operator_of_another_domain() -> None:
    nodes = [
        helper.make_node("Own", ["x"], ["a"], domain="own"),
        helper.make_node("Conv", ["a", "w"], ["b"]),
        helper.make_node("Own", ["b", "v"], ["y"], domain="own"),
    ]
    weights = found(nodes, {"w": numbered(2, 4, 1, 1), "v": numbered(4, 4)})
    assert list(weights) == ["w"]
    np.testing.assert_array_equal(weights["w"].uses[0].lines(), [[0, 1, 2, 3], [4, 5, 6, 7]])


@pytest.mark.parametrize("op", ["Loop", "Scan"])
def test_in_the_body_of_a_loop(op: str) -> None:
    step = helper.make_tensor_value_info("s", TensorProto.FLOAT, None)
    go, count = (helper.make_tensor_value_info(n, TensorProto.INT64, []) for n in ("go", "i"))
    inner = [helper.make_node("MatMul", ["s", "w"], ["t"])]
    made = [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)]
    body = helper.make_graph(inner, "body", [count, go, step] if op == "Loop" else [step], made)
    more = {} if op == "Loop" else {"num_scan_inputs": 1}
    loop = helper.make_node(op, ["n", "", "x"] if op == "Loop" else ["x"], ["y"], body=body, **more)
    weights = found([loop], {"w": numbered(4, 2), "n": np.array(2)})
    np.testing.assert_array_equal(weights["w"].uses[0].lines(), [[0, 2, 4, 6], [1, 3, 5, 7]])


def test_one_of_several_that_are_stored_together() -> None:
    """Layers stacked in one tensor: each use sees its own, picked by an index that is stored."""
    nodes = [
        helper.make_node("Gather", ["w", "one"], ["m"]),
        helper.make_node("MatMul", ["x", "m"], ["y"]),
    ]
    weights = found(nodes, {"w": numbered(3, 2, 2), "one": np.array(1)})
    np.testing.assert_array_equal(weights["w"].uses[0].lines(), [[4, 6], [5, 7]])


def test_elements_of_elsewhere_are_marked() -> None:
    nodes = [
        helper.make_node("Pad", ["w", "pads"], ["m"]),
        helper.make_node("MatMul", ["x", "m"], ["y"]),
    ]
    weights = found(nodes, {"w": numbered(2, 2), "pads": np.array([1, 0, 0, 0])})
    np.testing.assert_array_equal(weights["w"].uses[0].lines(), [[-1, 0, 2], [-1, 1, 3]])


def test_two_axes_that_are_summed_over_are_one() -> None:
    nodes = [helper.make_node("Einsum", ["x", "w"], ["y"], equation="bhd,hdo->bo")]
    weights = found(nodes, {"w": numbered(2, 2, 3)})
    np.testing.assert_array_equal(weights["w"].uses[0].lines(), [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]])


def test_the_shape_of_a_weight_is_no_weight() -> None:
    nodes = [
        helper.make_node("Shape", ["w"], ["s"]),
        helper.make_node("Reshape", ["x", "s"], ["a"]),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    assert found(nodes, {"w": numbered(2, 2)}) == {}


def test_names() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["y"], name="n"),
    ]
    weight = found(nodes, {"w": numbered(2, 2)})["w"]
    assert list(weight.names()) == [("w", ""), ("a", "MatMul"), ("a", ""), ("n", "MatMul"), ("y", "")]
