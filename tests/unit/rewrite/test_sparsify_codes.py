"""Zeros in quantised weights: the zero point is the zero, and magnitudes are those of the real numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import SparsifySettings
from onnxprune.errors import NothingToPrune
from onnxprune.model.constant import CodedConstant

node = helper.make_node
SHAPE = (6, 8, 3, 3)
CODES = np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8)
ZEROS = np.arange(100, 106).astype(np.uint8)
SCALES = np.linspace(0.01, 0.06, 6).astype(np.float32)


def built(nodes: list[NodeProto], stored: dict[str, np.ndarray]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6, 3, 3])],
        [numpy_helper.from_array(v, n) for n, v in stored.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def decoded_weight() -> onnx.ModelProto:
    """A scale and zero point for each output channel, behind DequantizeLinear."""
    nodes = [node("DequantizeLinear", ["w", "s", "z"], ["f"], axis=0), node("Conv", ["x", "f"], ["y"])]
    return built(nodes, {"w": CODES, "s": SCALES, "z": ZEROS})


def linear_operator() -> onnx.ModelProto:
    """The same weight in QLinearConv."""
    nodes = [
        node("QuantizeLinear", ["x", "one", "middle"], ["q"]),
        node("QLinearConv", ["q", "one", "middle", "w", "s", "z", "one", "middle"], ["r"]),
        node("DequantizeLinear", ["r", "one", "middle"], ["y"]),
    ]
    one, middle = np.array(0.1, np.float32), np.array(128, np.uint8)
    return built(nodes, {"w": CODES, "s": SCALES, "z": ZEROS, "one": one, "middle": middle})


def moved() -> onnx.ModelProto:
    """A weight that is decoded by input channel and then transposed."""
    nodes = [
        node("DequantizeLinear", ["w", "s", "z"], ["f"], axis=1),
        node("Transpose", ["f"], ["t"], perm=[1, 0, 2, 3]),
        node("Conv", ["x", "t"], ["y"]),
    ]
    return built(nodes, {"w": CODES.transpose(1, 0, 2, 3).copy(), "s": SCALES, "z": ZEROS})


def codes_of(model: onnx.ModelProto) -> np.ndarray:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "w"))


@pytest.mark.parametrize("build", [decoded_weight, linear_operator, moved])
def test_two_of_every_four_codes_become_the_zero_point(build: object) -> None:
    model = build()  # type: ignore[operator]
    result = onnxprune.sparsify(model, SparsifySettings(pattern="2:4"))
    (report,) = result.report.tensors
    assert (report.name, report.ungrouped) == ("w", 0)
    found, before = codes_of(result.model), codes_of(model)
    if build is moved:
        found, before = (codes.transpose(1, 0, 2, 3) for codes in (found, before))
    zero, scale = ZEROS[:, None, None, None], SCALES[:, None, None, None]
    gone = found == zero
    assert (found[~gone] == before[~gone]).all()
    groups = gone.transpose(0, 2, 3, 1).reshape(-1, 4)
    assert (groups.sum(axis=1) >= 2).all()
    numbers = np.abs((before.astype(float) - zero) * scale).transpose(0, 2, 3, 1).reshape(-1, 4)
    least = np.sort(numbers, axis=1)[:, 2:].sum()
    assert np.abs(numbers[~groups]).sum() == pytest.approx(least)
    assert report.zeros_after == gone.sum()
    onnx.checker.check_model(result.model)


def test_a_share_of_codes_goes_by_magnitude() -> None:
    result = onnxprune.sparsify(decoded_weight(), SparsifySettings(sparsity=0.25))
    gone = codes_of(result.model) == ZEROS[:, None, None, None]
    assert gone.sum() == CODES.size // 4
    numbers = np.abs((CODES - ZEROS[:, None, None, None].astype(float)) * SCALES[:, None, None, None])
    assert numbers[gone].max() <= numbers[~gone].min() + 1e-6


def test_codes_whose_zero_point_is_computed_stay() -> None:
    model = decoded_weight()
    model.graph.node.insert(0, node("Relu", ["z0"], ["z"]))
    next(t for t in model.graph.initializer if t.name == "z").name = "z0"
    with pytest.raises(NothingToPrune):
        onnxprune.sparsify(model, SparsifySettings(pattern="2:4"))


def test_codes_are_read_as_numbers_and_stored_as_codes() -> None:
    graph = onnx.GraphProto()
    graph.initializer.append(numpy_helper.from_array(np.array([[1, 5], [7, 9]], np.int8), "w"))
    zero, scale = np.full((2, 2), 5, np.int8), np.full((2, 2), 0.5, np.float32)
    constant = CodedConstant("w", graph, graph.initializer[0], zero=zero, scale=scale)
    assert constant.load().tolist() == [[-2.0, 0.0], [1.0, 2.0]]
    constant.store(np.array([[-2.0, 0.0], [0.0, 2.0]]))
    assert numpy_helper.to_array(graph.initializer[0]).tolist() == [[1, 5], [5, 9]]
    assert numpy_helper.to_array(constant.as_sparse().values).tolist() == [1, 5, 5, 9]
