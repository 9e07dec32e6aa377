"""Linear layers on the last axis: Gemm and MatMul, the weight either way round."""

from __future__ import annotations

from typing import Any

from .convs import conv
from .core import Net, T

GEMM_NOTES = (
    "gemm.alpha",
    "gemm.trans_b",
    "gemm.plain",
    "gemm.no_bias",
    "gemm.matmul",
    "gemm.transposed_weight",
)


def gemm(net: Net, x: T, out: int) -> T:
    """Gemm on [N, C], the weight either way round, with or without bias, alpha and beta."""
    trans = net.chance(0.5)
    attributes: dict[str, Any] = {"transB": 1} if trans else ({"transB": 0} if net.chance(0.3) else {})
    array = net.weight([out, x.c], [1], x)
    if net.chance(0.25):
        net.note("gemm.alpha")
        attributes |= {"alpha": 0.5, "beta": net.pick([1.0, 0.5])}
        array = array * 2
    inputs = [x, net.param(array if trans else array.T)]
    net.note("gemm.trans_b" if trans else "gemm.plain")
    if net.opset < 11 or net.chance(0.75):
        inputs.append(net.bias(out) if net.chance(0.8) else net.param(net.normal(1, out) * 0.2, "bias"))
    else:
        net.note("gemm.no_bias")
    return net.out(net.node("Gemm", inputs, **attributes), x, shape=(x.shape[0], out), std=1.0, mean=0.0)


def matmul(net: Net, x: T, out: int) -> T:
    """MatMul with the weight on the right, stored [in, out] or [out, in] behind a Transpose."""
    array = net.weight([x.c, out], [0], x)
    if net.chance(0.15):
        net.note("gemm.transposed_weight")
        weight = net.node("Transpose", [net.param(array.T)], perm=[1, 0])
    else:
        weight = net.param(array)
    return net.out(net.node("MatMul", [x, weight]), x, shape=(*x.shape[:-1], out), std=1.0, mean=0.0)


def linear(net: Net, x: T, out: int) -> T:
    """Gemm (on vectors), or MatMul and usually Add."""
    if x.form == "vec" and net.chance(0.55):
        return gemm(net, x, out)
    net.note("gemm.matmul")
    y = matmul(net, x, out)
    if net.chance(0.25):
        return y
    pair = [y, net.bias(out)] if net.chance(0.7) else [net.bias(out), y]
    return net.out(net.node("Add", pair), y)


def mix(net: Net, x: T, out: int, kernel: int = 1) -> T:
    """A new width, in any form: a Conv for images, a linear layer for the rest."""
    return conv(net, x, out, kernel) if x.form == "map" else linear(net, x, out)
