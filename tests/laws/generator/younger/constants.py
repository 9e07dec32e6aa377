"""Layers whose weight the graph computes from stored tensors: norms, layouts, products."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import ops
from ..activations import act
from ..core import Net, T
from ..table import block


def reduced(net: Net, op: str, name: str, axes: Sequence[int]) -> str:
    """A reduction of a stored tensor that keeps its axes."""
    if net.opset < ops.REDUCE_INPUT_SINCE.get(op, 18):
        return net.node(op, [name], axes=list(axes), keepdims=1)
    return net.node(op, [name, net.ints(list(axes), "axes")], keepdims=1)


def normed(net: Net, array: np.ndarray, axis: int) -> str:
    """g * v / |v|, the norm over all axes but one, written as ReduceL2 or in steps."""
    rest = tuple(i for i in range(array.ndim) if i != axis)
    g = np.sqrt((array**2).sum(axis=rest, keepdims=True))
    v = net.param(array * net.uniform(0.5, 2.0, *g.shape), "weight_v")
    if net.chance(0.6):
        norm = reduced(net, "ReduceL2", v, rest)
    else:
        norm = net.node("Sqrt", [reduced(net, "ReduceSum", net.node("Mul", [v, v]), rest)])
    g_name = net.param(g, "weight_g")
    if net.chance(0.5):
        return net.node("Mul", [v, net.node("Div", [g_name, norm])])
    return net.node("Mul", [net.node("Div", [v, norm]), g_name])


def standard(net: Net, array: np.ndarray, axis: int) -> str:
    """(w - mean) / deviation for every output channel, times a gain for each."""
    rest = tuple(i for i in range(array.ndim) if i != axis)
    w = net.param(array + 0.1 * array.std(), "weight")
    centred = net.node("Sub", [w, reduced(net, "ReduceMean", w, rest)])
    variance = reduced(net, "ReduceMean", net.node("Mul", [centred, centred]), rest)
    deviation = net.node("Sqrt", [net.node("Add", [variance, net.param(1e-6, "epsilon")])])
    unit = net.node("Div", [centred, deviation])
    gain = array.std(axis=rest, keepdims=True) * net.uniform(
        0.7, 1.3, *array.mean(axis=rest, keepdims=True).shape
    )
    return net.node("Mul", [unit, net.param(gain, "gain")])


def transposed(net: Net, array: np.ndarray, _axis: int) -> str:
    perm = list(range(array.ndim))[::-1] if net.chance(0.5) else [1, 0, *range(2, array.ndim)]
    stored = net.param(array.transpose(np.argsort(perm)), "weight_t")
    return net.node("Transpose", [stored], perm=perm)


def reshaped(net: Net, array: np.ndarray, _axis: int) -> str:
    """Stored flat but for its first axis, or without its last one."""
    flat = array.reshape(array.shape[0], -1) if array.ndim > 2 else array.reshape(1, *array.shape)
    return net.node("Reshape", [net.param(flat, "weight_flat"), net.ints(list(array.shape))])


def multiplied(net: Net, array: np.ndarray, _axis: int) -> str:
    """The product of two stored tensors, one of them a mask or a scale along some axes."""
    kept = [size if net.chance(0.5) else 1 for size in array.shape]
    if net.chance(0.4):
        mask = np.where(net.uniform(0.0, 1.0, *array.shape) < 0.2, 0.0, 1.0)
        pair = [net.param(array, "weight"), net.param(mask, "mask")]
    else:
        scale = net.uniform(0.5, 1.5, *kept)
        pair = [net.param(array / scale, "weight"), net.param(scale, "scale")]
    return net.node("Mul", pair if net.chance(0.5) else pair[::-1])


KINDS: dict[str, Callable[[Net, np.ndarray, int], str]] = {
    "norm": normed,
    "standard": standard,
    "transpose": transposed,
    "reshape": reshaped,
    "product": multiplied,
}


def computed_weight(net: Net, array: np.ndarray, axis: int) -> str:
    """A weight, output channels along `axis`, behind nodes that read stored tensors alone."""
    kind = net.pick(list(KINDS))
    net.note(f"computed_weight.{kind}")
    name = KINDS[kind](net, array, axis)
    if net.chance(0.2):
        net.note("computed_weight.twice")
        return net.node("Mul", [name, net.param(0.9, "factor")])
    return name


@block("map seq vec", weight=6, draw="structures", notes=(
    *(f"computed_weight.{kind}" for kind in KINDS), "computed_weight.twice", "computed_weight.tied",
    "computed_weight.gemm", "computed_weight.groups", "computed_weight.conv_transpose",
))  # fmt: skip
def computed_layer(net: Net, x: T) -> T | None:
    """A Conv, Gemm or MatMul whose weight is computed; at times two of one width read the same weight."""
    if x.c < 2:
        return None
    tied = net.chance(0.25) and x.c >= 4
    out = x.c if tied else net.width()
    layer = _convolution(net, x, out) if x.form == "map" else _linear(net, x, out)
    if not tied:
        return layer(x)
    net.note("computed_weight.tied")
    return layer(act(net, layer(x)))


def _linear(net: Net, x: T, out: int) -> Callable[[T], T]:
    axis = 0 if x.form == "vec" and net.chance(0.6) else 1
    array = net.weight([out, x.c], [1], x)
    weight = computed_weight(net, array if axis == 0 else np.ascontiguousarray(array.T), axis)
    gemm = x.form == "vec" and (axis == 0 or net.chance(0.5))
    if gemm:
        net.note("computed_weight.gemm")
    bias = net.bias(out)

    def layer(y: T) -> T:
        shape = (*y.shape[:-1], out)
        if gemm:
            name = net.node("Gemm", [y, weight, bias], transB=1 - axis)
        else:
            name = net.node("Add", [net.node("MatMul", [y, weight]), bias])
        return net.out(name, y, shape=shape, std=1.0, mean=0.0)

    return layer


def _convolution(net: Net, x: T, out: int) -> Callable[[T], T]:
    kernel = [net.pick([1, 3])] * len(x.spatial)
    attributes: dict[str, Any] = {"kernel_shape": kernel, "pads": [k // 2 for k in kernel] * 2}
    op, group = "Conv", 1
    groups = [g for g in (2, 3, 4) if x.c % g == 0 and out % g == 0]
    if net.chance(0.2):
        net.note("computed_weight.conv_transpose")
        op = "ConvTranspose"
        array = net.weight([x.c, out, *kernel], [0, *range(2, x.rank)], x)
    else:
        if groups and net.chance(0.3):
            net.note("computed_weight.groups")
            group = net.pick(groups)
            attributes["group"] = group
        array = net.weight([out, x.c // group, *kernel], range(1, x.rank), x)
    if math.prod(array.shape[1:]) < 2:
        array = np.sign(array) * (0.5 + np.abs(array))
    weight = computed_weight(net, array, 0 if op == "Conv" else 1)
    extra = [net.bias(out)] if net.chance(0.6) else []

    def layer(y: T) -> T:
        shape = (y.shape[0], out, *y.spatial)
        return net.out(net.node(op, [y, weight, *extra], **attributes), y, shape=shape, std=1.0, mean=0.0)

    return layer
