"""Small models on which targets used to be missed or passed under by far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def _model(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, np.ndarray],
    given: Sequence[int],
    made: Sequence[int],
) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, given)], [value("y", TensorProto.FLOAT, made)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def depth_multipliers() -> onnx.ModelProto:
    """12 channels, twice as many by a depthwise Conv, three times as many by another one."""
    weights = {"s": _normal(12, 3, 3, 3), "d": _normal(24, 1, 3, 3), "e": _normal(72, 1, 3, 3)}
    weights |= {"q": _normal(20, 72, 1, 1), "o": _normal(5, 20, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["x", "s"], ["a"], pads=[1] * 4),
        helper.make_node("Conv", ["a", "d"], ["b"], pads=[1] * 4, group=12),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "e"], ["f"], pads=[1] * 4, group=24),
        helper.make_node("Relu", ["f"], ["g"]),
        helper.make_node("Conv", ["g", "q"], ["h"]),
        helper.make_node("Relu", ["h"], ["i"]),
        helper.make_node("Conv", ["i", "o"], ["y"]),
    ]
    return _model(nodes, weights, [1, 3, 6, 6], [1, 5, 6, 6])


def one_hidden_layer(width: int = 48) -> onnx.ModelProto:
    """MACs are proportional to one width."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "u"], ["y"]),
    ]
    return _model(nodes, {"w": _normal(64, width), "u": _normal(width, 64)}, [1, 64], [1, 64])


def baked_table() -> onnx.ModelProto:
    """Three quarters of the parameters are a table that is added to the output."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "u"], ["c"]),
        helper.make_node("Add", ["c", "table"], ["y"]),
    ]
    weights = {"w": _normal(8, 32), "u": _normal(32, 8), "table": _normal(192, 8)}
    return _model(nodes, weights, [192, 8], [192, 8])


def grouped_queries(heads: int = 8, groups: int = 4, size: int = 16) -> onnx.ModelProto:
    """Attention in one node whose heads of K and V are shared by two of Q, with a bias per head."""
    wide, narrow = heads * size, groups * size
    weights = {"q": _normal(32, wide), "k": _normal(32, narrow), "v": _normal(32, narrow)}
    weights |= {"bias": _normal(1, heads, 6, 6), "o": _normal(wide, 8)}
    weights |= {"lengths": np.full(1, 5, np.int32), "total": np.array(6, np.int32)}
    nodes = [helper.make_node("MatMul", ["x", name], [f"{name}x"]) for name in "qkv"]
    given = ["qx", "kx", "vx", "", "", "lengths", "total", "", "", "", "bias"]
    attention = helper.make_node(
        "GroupQueryAttention", given, ["a", "pk", "pv"], domain="com.microsoft",
        num_heads=heads, kv_num_heads=groups,
    )  # fmt: skip
    nodes += [attention, helper.make_node("MatMul", ["a", "o"], ["y"])]
    return _model(nodes, weights, [1, 6, 32], [1, 6, 8])


def mixed_experts(size: int = 16) -> onnx.ModelProto:
    """A kernel [size, size, 1, 1] that is mixed of four: every element has two parents."""
    weights = {"c": _normal(size, 3, 1, 1), "r": _normal(size, 4), "p": _normal(4, size * size)}
    weights |= {"o": _normal(5, size, 1, 1), "shape": np.array([size, size, 1, 1], np.int64)}
    nodes = [
        helper.make_node("Conv", ["x", "c"], ["a"]),
        helper.make_node("GlobalAveragePool", ["a"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "r"], ["t"]),
        helper.make_node("Sigmoid", ["t"], ["s"]),
        helper.make_node("MatMul", ["s", "p"], ["k"]),
        helper.make_node("Reshape", ["k", "shape"], ["kernel"]),
        helper.make_node("Conv", ["a", "kernel"], ["b"]),
        helper.make_node("Relu", ["b"], ["d"]),
        helper.make_node("Conv", ["d", "o"], ["y"]),
    ]
    return _model(nodes, weights, [1, 3, 4, 4], [1, 5, 4, 4])


def shared_head(heads: int = 4, size: int = 8) -> onnx.ModelProto:
    """Attention written out whose heads of Q share one head of K and V."""
    weights = {"q": _normal(16, heads * size), "k": _normal(16, size), "v": _normal(16, size)}
    weights |= {"o": _normal(heads * size, 6), "many": np.array([0, 0, heads, size], np.int64)}
    weights |= {"one": np.array([0, 0, 1, size], np.int64), "flat": np.array([0, 0, heads * size], np.int64)}
    nodes = []
    for name, shape in (("q", "many"), ("k", "one"), ("v", "one")):
        nodes += [
            helper.make_node("MatMul", ["x", name], [f"{name}x"]),
            helper.make_node("Reshape", [f"{name}x", shape], [f"{name}r"]),
            helper.make_node("Transpose", [f"{name}r"], [f"{name}t"], perm=[0, 2, 1, 3]),
        ]
    nodes += [
        helper.make_node("Transpose", ["kt"], ["turned"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["qt", "turned"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "vt"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["heads"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["heads", "flat"], ["merged"], name="merge"),
        helper.make_node("MatMul", ["merged", "o"], ["y"]),
    ]
    return _model(nodes, weights, [1, 5, 16], [1, 5, 6])
