"""A quantised graph: weights behind DequantizeLinear, activations through pairs of nodes, codes in between.

Scales follow the output channels, as quantisers write them, and activations of a MatMul are uint8:
onnxruntime 1.31 fuses other forms into nodes that it then refuses.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, helper

from .core import Net

SHARE = 0.1
INTEGERS = 0.6  # share of these with operators on codes
INTEGER = {"Conv": "QLinearConv", "MatMul": "QLinearMatMul"}
CONTRACTING = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def quantised(net: Net) -> bool:
    """Quantise some of the weights and what they meet; the draws are its own, so that other graphs stay."""
    rng = np.random.default_rng([net.seed, 77])
    if rng.random() >= SHARE or net.opset < 13 or net.style.dtype != np.float32:
        return False
    front = [
        node
        for name, axis, apart in _weights(net)
        if rng.random() < 0.8
        for node in _decoded(net, name, axis, apart, rng)
    ]
    integers = np.random.default_rng([net.seed, 174]).random() < INTEGERS
    decoders = {node.output[0]: node for node in front if integers}
    made: list[NodeProto] = []
    for node in net.nodes:
        if node.op_type in CONTRACTING and node.input[0] not in net.params and rng.random() < 0.7:
            made += _through_codes(net, node, rng)
            decoder = decoders.get(node.input[1])
            if decoder is not None and node.op_type in INTEGER and rng.random() < 0.7:
                made += _in_integers(net, node, decoder, made)
                continue
        made.append(node)
    read = {name for node in made for name in node.input}
    net.nodes[:] = [*(node for node in front if node.output[0] in read), *made]
    return bool(front)


def _weights(net: Net) -> list[tuple[str, int, bool]]:
    """List the weights with the axis of their output channels, and whether each may have a scale."""
    places = {name: node for node in net.nodes for name in node.input[1:2] if node.op_type in CONTRACTING}
    uses = [name for node in net.nodes for name in node.input]
    result = []
    for name, node in places.items():
        if name in net.params and net.params[name].ndim > 1 and net.params[name].size:
            rank = net.params[name].ndim
            alone = uses.count(name) == 1 and (node.op_type.startswith("Conv") or rank == 2)
            result.append((name, _output_axis(node, rank), alone))
    return result


def _output_axis(node: NodeProto, rank: int) -> int:
    turned = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if node.op_type == "Conv" or turned else 1 if node.op_type == "ConvTranspose" else rank - 1


def _stored(net: Net, array: np.ndarray, hint: str) -> str:
    """Store an array in its own type."""
    name = net.param_name(hint)
    net.params[name] = array
    return name


def _decoded(net: Net, name: str, axis: int, apart: bool, rng: np.random.Generator) -> list[NodeProto]:
    """Store codes, for a tensor or for each index of an axis, and decode them under the old name."""
    values = net.params.pop(name)
    rest = tuple(i for i in range(values.ndim) if i != axis)
    each = bool(rng.random() < 0.6) and apart
    largest = np.abs(values).max(axis=rest) if each else np.abs(values).max()
    scale = (np.maximum(largest, 1e-3) / 120).astype(np.float32)
    wide = scale.reshape([-1 if i == axis else 1 for i in range(values.ndim)]) if each else scale
    dtype, middle = ((np.int8, 0), (np.uint8, 128))[int(rng.integers(2))]
    limits = np.iinfo(dtype)
    codes = np.clip(np.round(values / wide) + middle, limits.min, limits.max).astype(dtype)
    inputs = [_stored(net, codes, "codes"), _stored(net, scale, "scale")]
    if middle or rng.random() < 0.5:
        inputs.append(_stored(net, np.full(scale.shape, middle, dtype), "zero"))
    return [helper.make_node("DequantizeLinear", inputs, [name], name=f"decode_{name}", axis=axis)]


def _through_codes(net: Net, node: NodeProto, rng: np.random.Generator) -> list[NodeProto]:
    forms = ((np.uint8, 120), (np.int8, 3))
    dtype, middle = forms[int(rng.integers(2)) if node.op_type.startswith("Conv") else 0]
    scale = net.param(np.asarray(rng.uniform(0.02, 0.06), np.float32), "scale")
    zero = _stored(net, np.asarray(middle, dtype), "zero")
    codes, values = net.fresh("Quantize"), net.fresh("Dequantize")
    source, node.input[0] = node.input[0], values
    return [
        helper.make_node("QuantizeLinear", [source, scale, zero], [codes], name=f"code_{codes}"),
        helper.make_node("DequantizeLinear", [codes, scale, zero], [values], name=f"decode_{values}"),
    ]


def _in_integers(net: Net, node: NodeProto, decoder: NodeProto, made: list[NodeProto]) -> list[NodeProto]:
    """Write a node between codes as the operator on codes; or leave it, where there is no such form.

    made: the nodes so far, of which the last decodes what the node reads; it goes where this is done.
    """
    source = made[-1]
    given, weight, own = list(source.input), list(decoder.input), list(node.input[2:])
    stored = bool(own) and own[0] in net.params
    if net.params[given[2]].dtype != np.uint8 or (own and not stored):
        return [node]
    made.pop()
    scale = net.params[weight[1]]
    if len(weight) < 3:
        weight.append(_stored(net, np.zeros(scale.shape, net.params[weight[0]].dtype), "zero"))
    made_scale = _stored(net, np.asarray(0.05, np.float32), "scale")
    made_zero = _stored(net, np.asarray(124, np.uint8), "zero")
    inputs = [*given, *weight, made_scale, made_zero]
    if stored:
        steps = net.params[own[0]].reshape(-1) / (net.params[given[1]] * scale)
        inputs.append(_stored(net, np.round(steps).astype(np.int32), "bias"))
    codes = net.fresh(INTEGER[node.op_type])
    whole = helper.make_node(INTEGER[node.op_type], inputs, [codes], name=f"integer_{codes}")
    whole.attribute.extend(node.attribute)
    net.note("quantised.integers")
    return [
        whole,
        helper.make_node(
            "DequantizeLinear", [codes, made_scale, made_zero], list(node.output), name=f"whole_{codes}"
        ),
    ]
