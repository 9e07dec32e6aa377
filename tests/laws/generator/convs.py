"""Convolutions: plain, grouped, depthwise, transposed, shared, and the composites built of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import ops
from .activations import act
from .core import Net, Shape, T, each, root, smallest
from .norms import batch_norm
from .table import block

CONV_NOTES = (
    "conv.stride", "conv.dilated", "conv.no_bias", "conv.auto_pad", "conv.valid", "conv.mixed_kernel",
    "conv.asymmetric_pad", "conv.computed_bias", "conv.computed_weight",
)  # fmt: skip


def conv_sizes(spatial: Shape, kernel: list[int], stride: int, dilation: int, pads: list[int]) -> Shape:
    n = len(kernel)
    return tuple(
        each(lambda d, i=i: (d + pads[i] + pads[n + i] - dilation * (kernel[i] - 1) - 1) // stride + 1, dim)
        for i, dim in enumerate(spatial)
    )


def conv(
    net: Net,
    x: T,
    out: int,
    kernel: int = 1,
    stride: int = 1,
    *,
    group: int = 1,
    dilation: int = 1,
    bias: bool | None = None,
    weight: str | None = None,
) -> T:
    """A Conv that keeps the spatial sizes where stride is 1; `weight` reuses a parameter."""
    rank = len(x.spatial)
    pads = [dilation * (kernel // 2)] * (2 * rank)
    if weight is None:
        shape = [out, x.c // group] + [kernel] * rank
        weight = net.param(net.weight(shape, range(1, rank + 2), x))
    attributes: dict[str, Any] = {}
    if stride != 1:
        net.note("conv.stride")
    if stride != 1 or net.chance(0.5):
        attributes["strides"] = [stride] * rank
    if dilation != 1 or net.chance(0.3):
        attributes["dilations"] = [dilation] * rank
    if group != 1 or net.chance(0.5):
        attributes["group"] = group
    if kernel != 1 or net.chance(0.5):
        attributes["kernel_shape"] = [kernel] * rank
        attributes["pads"] = pads
    has_bias = net.chance(0.6) if bias is None else bias
    extra = [net.bias(out)] if has_bias else []
    if not has_bias:
        net.note("conv.no_bias")
    shape = (x.shape[0], out, *conv_sizes(x.spatial, [kernel] * rank, stride, dilation, pads))
    return net.out(net.node("Conv", [x, weight, *extra], **attributes), x, shape=shape, std=1.0, mean=0.0)


def computed(net: Net, name: str, size: int) -> str:
    """A vector parameter behind arithmetic on constants, as unfused exports have it."""
    net.note("conv.computed_bias")
    scaled = net.node("Mul", [name, net.param(net.uniform(0.5, 1.5, size), "scale")])
    return net.node("Add", [scaled, net.param(net.normal(size) * 0.1, "shift")])


def standardised(net: Net, weight: np.ndarray) -> str:
    """A weight behind arithmetic: g * v, with g per output channel."""
    net.note("conv.computed_weight")
    g = net.uniform(0.5, 1.5, *weight.shape[:1], *(1,) * (weight.ndim - 1))
    return net.node("Mul", [net.param(weight / g, "weight_v"), net.param(g, "weight_g")])


@block("map", weight=9, notes=CONV_NOTES)
def conv_plain(net: Net, x: T) -> T | None:
    """A Conv with any geometry."""
    rank = len(x.spatial)
    small = smallest(x.spatial) < 6
    kernel = [net.pick([1, 3, 3])] * rank
    if rank > 1 and net.chance(0.25):
        kernel = [net.pick([1, 3, 5]) for _ in range(rank)]
        net.note("conv.mixed_kernel")
    stride = 2 if net.chance(0.25) and not small else 1
    dilation = 2 if net.chance(0.15) and not small else 1
    half = [dilation * (k - 1) // 2 for k in kernel]
    pads = half + half
    attributes: dict[str, Any] = {
        "strides": [stride] * rank,
        "dilations": [dilation] * rank,
        "kernel_shape": kernel,
    }
    if net.chance(0.15) and not small:
        pads = [0] * (2 * rank)
        net.note("conv.valid")
    elif net.chance(0.15):
        pads = [0] * rank + [2 * h for h in half]
        net.note("conv.asymmetric_pad")
    elif net.chance(0.12) and dilation == 1:
        attributes["auto_pad"] = net.pick(["SAME_UPPER", "SAME_LOWER"])
        net.note("conv.auto_pad")
    if smallest(conv_sizes(x.spatial, kernel, stride, dilation, pads)) < 1:
        return None
    if "auto_pad" not in attributes:
        attributes["pads"] = pads
    sizes = conv_sizes(x.spatial, kernel, stride, dilation, pads)
    if "auto_pad" in attributes:
        sizes = tuple(each(lambda d: -(-d // stride), dim) for dim in x.spatial)
    if stride > 1:
        net.note("conv.stride")
    if dilation > 1:
        net.note("conv.dilated")
    return finish_conv(net, x, kernel, sizes, attributes)


def finish_conv(net: Net, x: T, kernel: list[int], sizes: Shape, attributes: dict[str, Any]) -> T:
    out = net.width()
    array = net.weight([out, x.c, *kernel], range(1, len(kernel) + 2), x)
    weight = standardised(net, array) if net.chance(0.1) else net.param(array)
    extra = []
    if net.chance(0.6):
        extra = [net.bias(out)]
        if net.chance(0.2):
            extra = [computed(net, extra[0], out)]
    else:
        net.note("conv.no_bias")
    name = net.node("Conv", [x, weight, *extra], **attributes)
    return net.out(name, x, shape=(x.shape[0], out, *sizes), std=1.0, mean=0.0)


@block("map", weight=6)
def conv_bn_act(net: Net, x: T) -> T | None:
    stride = 2 if net.chance(0.2) and smallest(x.spatial) >= 8 else 1
    y = conv(net, x, net.width(), net.pick([1, 3]), stride, bias=net.chance(0.2))
    return act(net, batch_norm(net, y))


@block("map", weight=3, notes=("conv_group.equal",))
def conv_group(net: Net, x: T) -> T | None:
    groups = [g for g in (2, 3, 4, 8) if x.c % g == 0 and x.c // g >= 2]
    if not groups:
        return None
    group = net.pick(groups)
    same = net.chance(0.4)
    out = x.c if same else net.width(group)
    if same:
        net.note("conv_group.equal")
    return conv(net, x, out, net.pick([1, 3]), group=group)


@block("map", weight=3)
def conv_depthwise(net: Net, x: T) -> T | None:
    stride = 2 if net.chance(0.15) and smallest(x.spatial) >= 8 else 1
    return conv(net, x, x.c, 3, stride, group=x.c)


@block("map", weight=2.5)
def conv_depthwise_multiplied(net: Net, x: T) -> T | None:
    if x.c > 28:
        return None
    return conv(net, x, x.c * 2, net.pick([1, 3]), group=x.c)


@block(
    "map",
    weight=3.5,
    notes=("conv_transpose.group", "conv_transpose.depthwise", "conv_transpose.output_padding"),
)
def conv_transpose(net: Net, x: T) -> T | None:
    rank = len(x.spatial)
    kernel, stride, padding, extra = net.pick(
        [(2, 2, 0, 0), (3, 2, 1, 1), (3, 2, 1, 1), (3, 1, 1, 0), (4, 2, 1, 0)]
    )
    if stride > 1 and max(max(d) if isinstance(d, tuple) else d for d in x.spatial) > (60, 24, 6)[rank - 1]:
        return None
    groups = [g for g in (2, 3, 4) if x.c % g == 0]
    group = net.pick(groups) if groups and net.chance(0.6) else 1
    each_out = max(1, net.width() // group)
    if net.chance(0.25):
        group, each_out = x.c, 1
        net.note("conv_transpose.depthwise")
    elif group > 1:
        net.note("conv_transpose.group")
    weight = net.weight([x.c, each_out] + [kernel] * rank, [0, *range(2, rank + 2)], x)
    weight *= math.sqrt(group * stride**rank)
    out = each_out * group
    attributes: dict[str, Any] = {"strides": [stride] * rank, "group": group, "kernel_shape": [kernel] * rank,
                                  "pads": [padding] * (2 * rank)}  # fmt: skip
    if extra:
        attributes["output_padding"] = [extra] * rank
        net.note("conv_transpose.output_padding")
    inputs = [x, net.param(weight)] + ([net.bias(out)] if net.chance(0.6) else [])
    sizes = tuple(each(lambda d: (d - 1) * stride - 2 * padding + kernel + extra, d) for d in x.spatial)
    shape = (x.shape[0], out, *sizes)
    return net.out(net.node("ConvTranspose", inputs, **attributes), x, shape=shape, std=1.0, mean=0.0)


@block("map", weight=4, notes=("residual.projected", "residual.post_act"))
def residual_block(net: Net, x: T) -> T | None:
    """conv-bn-act-conv-bn plus a shortcut, projected by a 1x1 Conv where width or stride changes."""
    stride = 2 if net.chance(0.25) and smallest(x.spatial) >= 8 else 1
    out = net.width() if net.chance(0.4) or x.c > 64 else x.c
    y = act(net, batch_norm(net, conv(net, x, net.width(), net.pick([1, 3]), stride)))
    y = batch_norm(net, conv(net, y, out, 3))
    shortcut = x
    if stride != 1 or out != x.c:
        net.note("residual.projected")
        shortcut = conv(net, x, out, 1, stride)
    pair = [y, shortcut] if net.chance(0.5) else [shortcut, y]
    y = net.out(net.node("Add", pair), y, std=root(y.std, shortcut.std), mean=y.mean + shortcut.mean)
    if net.chance(0.6):
        net.note("residual.post_act")
        y = act(net, y)
    return y


@block("map", weight=3)
def inverted_residual(net: Net, x: T) -> T | None:
    """Expand, depthwise, project, add (MobileNetV2)."""
    if x.c > 32:
        return None
    y = act(net, batch_norm(net, conv(net, x, x.c * 2, 1)))
    y = act(net, batch_norm(net, conv(net, y, x.c * 2, 3, group=x.c * 2)))
    y = batch_norm(net, conv(net, y, x.c, 1))
    return net.out(net.node("Add", [x, y]), y, std=root(y.std, x.std), mean=y.mean + x.mean)


@block("map", weight=2.5)
def siamese(net: Net, x: T) -> T | list[T] | None:
    """One Conv weight over two tensors of equal width, and perhaps one bias."""
    others = [t for t in net.live if t.form == "map" and t.c == x.c and t.name != x.name and t.rank == x.rank]
    other = net.pick(others) if others and net.chance(0.6) else act(net, x)
    out, kernel = net.width(), net.pick([1, 3])
    weight = net.param(net.weight([out, x.c] + [kernel] * len(x.spatial), range(1, x.rank), x), "tied")
    a = conv(net, x, out, kernel, weight=weight)
    b = conv(net, other, out, kernel, weight=weight).but(
        std=root(other.std, other.mean / 3) / root(x.std, x.mean / 3)
    )
    if a.shape == b.shape and net.chance(0.5):
        return net.out(net.node("Add", [a, b]), a, std=root(a.std, b.std))
    return [a, b]


@block("map", weight=2)
def tied_loop(net: Net, x: T) -> T | None:
    """The same square Conv applied two or three times, an activation between."""
    if x.c < 3:
        return None
    kernel = net.pick([1, 3])
    weight = net.param(
        net.weight([x.c, x.c] + [kernel] * len(x.spatial), range(1, x.rank), x.but(std=1.0, mean=0.2))
    )
    bias = net.param(net.normal(x.c) * 0.1, "bias")
    y = x
    for _ in range(net.between(2, 3)):
        pads = [kernel // 2] * (2 * len(x.spatial))
        y = net.apply("Conv", y, weight, bias, pads=pads)
        y = act(net, y.but(mean=0.0))
    return y


@block("map", weight=2, notes=("weighted_sum.scalar",))
def branches_summed(net: Net, x: T) -> T | None:
    """Two or three parallel Convs in one n-ary Sum, or with scalar weights (BiFPN)."""
    out = net.width()
    parts = [conv(net, x, out, net.pick([1, 3])) for _ in range(net.between(2, 3))]
    if net.chance(0.5):
        net.note("weighted_sum.scalar")
        parts = [net.apply("Mul", p, net.param(net.uniform(0.3, 1.0, 1)[0], "w")) for p in parts]
    return net.out(net.node("Sum", parts), parts[0], std=root(*(p.std for p in parts)))


@block("map", weight=2, notes=("left_matmul.channels",))
def conv_unfolded(net: Net, x: T) -> T | None:
    """A 1x1 Conv written as Reshape, MatMul with the weight on the left, Reshape."""
    if not x.static:
        return None
    out = net.width()
    net.note("left_matmul.channels")
    flat = ops.reshape(net, x, [ops.ax(0), ops.ax(1), ops.ax(*range(2, x.rank))])
    weight = net.param(net.weight([out, x.c], [1], x))
    y = net.out(
        net.node("MatMul", [weight, flat]), flat, shape=(x.shape[0], out, flat.shape[2]), std=1.0, mean=0.0
    )
    return ops.reshape(net, y, [ops.ax(0), ops.ax(1), *(int(d) for d in x.spatial)], "map")
