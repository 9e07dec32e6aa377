"""Sizes that are guessed: how large tensors would get is known before anything runs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxprune.errors import UsageError
from onnxprune.model.feeds import find_feeds
from onnxprune.model.inference import Inference
from tests.laws.test_regressions import model_of

node = helper.make_node


def attention(*more: onnx.NodeProto) -> onnx.ModelProto:
    """Every pixel looks at every other one."""
    nodes = [
        node("Reshape", ["x", "flat"], ["q"]),
        node("Transpose", ["q"], ["k"], perm=[0, 2, 1]),
        node("MatMul", ["k", "q"], ["s"]),
        node("ReduceMax", ["s"], ["m"], keepdims=0),
        *(more or (node("Identity", ["m"], ["o"]),)),
    ]
    inputs = {"x": [1, 2, "H", "W"]}
    return model_of(nodes, inputs, {"o": []}, {"flat": np.array([1, 2, -1]), "wrong": np.zeros(2)})


def test_the_largest_tensor_is_inferred() -> None:
    inference = Inference(attention())
    assert inference.largest({"x": (1, 2, 8, 8)}) == 4 * 64 * 64
    assert inference.largest({"x": (1, 2, 224, 224)}) == 4 * 50176**2


def test_sizes_at_which_a_tensor_would_be_huge_are_not_tried() -> None:
    """The model runs at no size; after the first one only those are tried that stay small."""
    tried = []

    def runner(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        tried.append(feeds["x"].shape[2])
        raise RuntimeError("no")

    with pytest.raises(UsageError, match="no input found"):
        find_feeds(attention(), runner=runner)
    assert set(tried) == {64, 32, 96, 48, 16}


def test_pads_that_are_made_up_are_narrow() -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node("Pad", ["x", "pads"], ["o"])], "g",
        [value("x", 1, [1, 4, 8, 8]), value("pads", onnx.TensorProto.INT64, [8])],
        [value("o", 1, [None] * 4)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert int(find_feeds(model)["pads"].max()) <= 1
