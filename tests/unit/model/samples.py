"""Small models for the tests of loading, checking and saving."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.analysis.analyse import load
from onnxprune.errors import ModelError, OnnxPruneError


def floats(name: str, *shape: int) -> TensorProto:
    values = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


def info(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def build(
    nodes: list[onnx.NodeProto],
    tensors: list[TensorProto],
    shape: tuple[int | str, ...] = ("N", 3, 8, 8),
    opset: int = 17,
) -> onnx.ModelProto:
    output = onnx.ValueInfoProto(name="y")
    output.type.tensor_type.elem_type = TensorProto.FLOAT
    graph = helper.make_graph(nodes, "g", [info("x", *shape)], [output], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def conv_model() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["h"], name="conv"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["y"], name="conv2"),
    ]
    return build(nodes, [floats("w", 16, 3, 3, 3), floats("b", 16), floats("w2", 8, 16, 3, 3)])


def dump(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


def refused(given: object, *parts: str) -> str:
    """The message of the ModelError, which is one line and holds the parts."""
    with pytest.raises(ModelError) as caught:
        load(given)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    assert caught.value.exit_code == 3
    for part in parts:
        assert part in message, message
    return message


def assert_one_line(message: str) -> None:
    assert "\n" not in message


def outcome(action: Callable[[], object]) -> type[OnnxPruneError] | None:
    """The class of our error that the action ends with, None where it succeeds."""
    try:
        action()
    except OnnxPruneError as error:
        assert_one_line(str(error))
        return type(error)
    return None
