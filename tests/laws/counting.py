"""Counting parameters and MACs from the file alone: no code of the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

FLOATS = {
    onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16,
}  # fmt: skip
RECURRENT = ("GRU", "LSTM", "RNN")
ATTENTION = ("Attention", "MultiHeadAttention")
INTEGER = {"QLinearConv": "Conv", "QLinearMatMul": "MatMul"}
CODES = {"DequantizeLinear": (0,), "QLinearConv": (3, 8), "QLinearMatMul": (3,)}  # inputs that count
CONVOLUTIONS = ("Conv", "DeformConv")
COUNTED = (*CONVOLUTIONS, "ConvTranspose", "Gemm", "MatMul", "Einsum", *RECURRENT, *ATTENTION, *INTEGER)
Feeds = Mapping[str, np.ndarray]


def count_params(model: onnx.ModelProto) -> int:
    """Elements of float initializers, of the values of Constant nodes, and of codes that are decoded."""
    quantized = {
        node.input[place]
        for node in model.graph.node
        for place in CODES.get(node.op_type, ())
        if place < len(node.input)
    }
    aliases = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Identity"}
    for _ in range(3):
        quantized |= {aliases[name] for name in quantized if name in aliases}

    def counts(name: str, tensor: onnx.TensorProto) -> bool:
        return tensor.data_type in FLOATS or name in quantized

    total = sum(prod(t.dims) for t in model.graph.initializer if counts(t.name, t))
    for node in model.graph.node:
        if node.op_type == "Constant":
            for attr in node.attribute:
                total += prod(attr.t.dims) if attr.name == "value" and counts(node.output[0], attr.t) else 0
                total += len(attr.floats) if attr.name == "value_floats" else attr.name == "value_float"
    return total


def count_all_params(model: onnx.ModelProto) -> int:
    """`count_params`, those that are stored in the bodies of nodes included."""
    total, left = count_params(model), [model.graph]
    while left:
        bodies = [a.g for node in left.pop().node for a in node.attribute if a.HasField("g")]
        total += sum(count_params(onnx.ModelProto(graph=body)) for body in bodies)
        left += bodies
    return total


def exposed(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy with these outputs instead of its own."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {o.name: o for o in model.graph.output}
    del copy.graph.output[:]
    copy.graph.output.extend(known.get(name, onnx.ValueInfoProto(name=name)) for name in names)
    return copy


def run_once(model: onnx.ModelProto, feeds: Feeds) -> dict[str, np.ndarray]:
    """Run a model in onnxruntime with optimisation off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def count_macs(model: onnx.ModelProto, feeds: Feeds) -> int:
    """Multiply-accumulates of contractions and recurrent layers, from the shapes of a run."""
    nodes = [n for n in model.graph.node if n.op_type in COUNTED]
    made = {name for node in model.graph.node for name in node.output}
    wanted = {name for n in nodes for name in (*n.input[:4], n.output[0]) if name in made and name}
    shapes: dict[str, tuple[int, ...]] = {t.name: tuple(t.dims) for t in model.graph.initializer}
    shapes |= {name: array.shape for name, array in feeds.items()}
    if wanted:
        shapes |= {k: v.shape for k, v in run_once(exposed(model, sorted(wanted)), feeds).items()}
    return sum(_node_macs(n, shapes) for n in nodes)


def recurrent_macs(x: Sequence[int], w: Sequence[int], r: Sequence[int]) -> int:
    """X [seq, batch, in] times W [dirs, gates x hidden, in], and at every step h times R [.., hidden]."""
    return x[0] * x[1] * (prod(w) + prod(r))


def attention_macs(shapes: Sequence[Sequence[int]], attrs: Mapping[str, Any]) -> int:
    """Q times K and scores times V, of [B, S, heads x dim]; with packed weights their product, too."""
    q, k, v = shapes
    if len(k) == 2:  # x [B, S, in], weight [in, 3 x heads x dim], bias
        return prod(q) * k[1] + 2 * prod(q[:2]) * q[1] * (k[1] // 3)
    heads, few = (attrs.get(name, attrs.get("num_heads")) for name in ("q_num_heads", "kv_num_heads"))
    return q[0] * q[1] * k[1] * heads * (q[2] // heads + v[2] // few)


def _node_macs(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    if node.op_type in RECURRENT:
        return recurrent_macs(*(shapes[name] for name in node.input[:3]))
    attrs = {attr.name: onnx.helper.get_attribute_value(attr) for attr in node.attribute}
    if node.op_type in ATTENTION:
        return attention_macs([shapes[name] for name in node.input[:3]], attrs)
    op, other = INTEGER.get(node.op_type, node.op_type), 3 if node.op_type in INTEGER else 1
    a, b, out = shapes[node.input[0]], shapes[node.input[other]], shapes[node.output[0]]
    if op in CONVOLUTIONS:
        return prod(out) * prod(b[1:])
    if node.op_type == "ConvTranspose":
        return prod(a) * prod(b[1:])
    if node.op_type == "Gemm":
        return prod(out) * (a[0] if attrs.get("transA") else a[1])
    if op == "MatMul":
        return prod(out) * a[-1]
    equation = attrs["equation"].decode().replace(" ", "").split("->")[0].split(",")
    sizes = {
        x: n for term, shape in zip(equation, (a, b), strict=True) for x, n in zip(term, shape, strict=True)
    }
    return prod(sizes.values())
