"""Blocks that change the grid: pooling, resizing, padding, cropping, space and depth."""

from __future__ import annotations

from typing import Any

from . import ops
from .convs import conv, conv_sizes
from .core import Net, T, divisible, each, largest, product, root, smallest
from .gates import pooled
from .table import block

LIMIT = (96, 28, 8)


def small_enough(x: T) -> bool:
    """Whether the grid may still be doubled."""
    return all(largest([d]) * 2 <= LIMIT[len(x.spatial) - 1] for d in x.spatial)


@block("map", weight=4.5, notes=("pool.ceil", "pool.same"))
def max_pool(net: Net, x: T) -> T | None:
    return pool(net, x, "MaxPool")


@block("map", weight=2.5, notes=("pool.count_pad",))
def average_pool(net: Net, x: T) -> T | None:
    return pool(net, x, "AveragePool")


def pool(net: Net, x: T, op: str) -> T | None:
    if smallest(x.spatial) < 5 or net.maker(x) == "Pad":
        return None  # onnxruntime 1.31 fuses a Pad into a pool that may not have so much of it
    rank = len(x.spatial)
    kernel, stride, padding = net.pick([(2, 2, 0), (2, 2, 0), (3, 2, 1), (3, 1, 1)])
    attributes: dict[str, Any] = {"kernel_shape": [kernel] * rank, "strides": [stride] * rank}
    pads = [padding] * (2 * rank)
    sizes = conv_sizes(x.spatial, [kernel] * rank, stride, 1, pads)
    if op == "MaxPool" and net.chance(0.6) and net.opset >= 11 and kernel == 2:
        net.note("pool.ceil")
        attributes["ceil_mode"] = 1
        sizes = tuple(each(lambda d: -(-d // 2), d) for d in x.spatial)
    elif op == "MaxPool" and net.chance(0.4):
        net.note("pool.same")
        attributes["auto_pad"] = "SAME_UPPER"
        sizes = tuple(each(lambda d: -(-d // stride), d) for d in x.spatial)
    if op == "AveragePool" and padding and net.chance(0.7):
        net.note("pool.count_pad")
        attributes["count_include_pad"] = 1
    if "auto_pad" not in attributes:
        attributes["pads"] = pads
    shift = {"std": x.std * 0.8, "mean": x.mean + x.std * 0.8} if op == "MaxPool" else {"std": x.std * 0.6}
    return net.out(net.node(op, [x], **attributes), x, shape=(*x.shape[:2], *sizes), **shift)


@block("map", weight=4, notes=("global_pool.reduce", "global_pool.max", "global_pool.keepdims"))
def global_pool(net: Net, x: T) -> T | None:
    """To [N, C]: a global pool and Flatten, Squeeze or Reshape, or a reduction over the grid."""
    way = net.pick(["reduce", "mean", "keepdims", "max"])
    if way == "reduce" and not x.even:
        net.note("global_pool.reduce")
        op = net.pick(["ReduceMax", "ReduceSum", "ReduceL2"])
        return ops.reduce(net, op, x, list(range(2, x.rank)), keepdims=False, form="vec")
    if way == "mean":
        return pooled(net, x, False)
    net.note("global_pool.keepdims")
    if way == "max" and x.c >= 4:
        net.note("global_pool.max")
        shape = (*x.shape[:2], *(1 for _ in x.spatial))
        y = net.out(net.node("GlobalMaxPool", [x]), x, shape=shape, mean=x.mean + 2 * x.std)
    else:
        y = pooled(net, x, True)
    if net.chance(0.3):
        y = conv(net, y, net.width(), 1)
    return flat(net, y)


def flat(net: Net, x: T) -> T:
    """[N, C, 1, ...] or [N, C, H, W] to two dimensions, in one of the ways exporters do it."""
    wide = product(x.shape[1:])
    ways = ["flatten", "reshape"] + (["squeeze"] if wide == x.c else [])
    way = net.pick(ways)
    if way == "flatten":
        attributes = {"axis": 1} if net.chance(0.6) else {}
        return net.out(net.node("Flatten", [x], **attributes), x, shape=(x.shape[0], wide), form="vec")
    if way == "squeeze":
        return ops.squeeze(net, x, list(range(2, x.rank)), "vec")
    last = -1 if net.chance(0.6) else ops.ax(*range(1, x.rank))
    return ops.reshape(net, x, [ops.ax(0), last], "vec")


@block("map", weight=4, notes=("resize.linear",))
def upsample(net: Net, x: T) -> T | None:
    if not small_enough(x):
        return None
    mode = "nearest"
    if len(x.spatial) == 2 and net.chance(0.5):
        net.note("resize.linear")
        mode = "linear"
    return ops.resize(net, x, [1, 1, *(2 for _ in x.spatial)], mode)


@block("map", weight=4, notes=("pad.reflect", "pad.edge"))
def spatial_pad(net: Net, x: T) -> T | None:
    if smallest(x.spatial) < 4 or any(largest([d]) > 40 for d in x.spatial):
        return None
    mode = net.pick(["constant", "reflect", "edge"])
    if mode != "constant":
        if len(x.spatial) == 3:
            mode = "constant"
        else:
            net.note(f"pad.{mode}")
    before = [0, 0, *(net.between(0, 1) for _ in x.spatial)]
    after = [0, 0, *(net.between(0, 2) for _ in x.spatial)]
    return ops.pad(net, x, before, after, mode).but(constant_token=True)


@block("map", weight=4, notes=("crop.negative", "crop.stride"))
def spatial_slice(net: Net, x: T) -> T | None:
    """Crop one or all spatial axes; at times every second row."""
    if smallest(x.spatial) < 6:
        return None
    y = x
    for axis in range(2, x.rank):
        if net.chance(0.3):
            continue
        if net.chance(0.3) and net.opset >= 11:
            net.note("crop.stride")
            y = ops.slice_axis(net, y, axis, (net.between(0, 1), ops.BIG), 2)
        elif net.chance(0.6):
            net.note("crop.negative")
            y = ops.slice_axis(net, y, axis, (net.between(0, 1), -1))
        else:
            y = ops.slice_axis(net, y, axis, (1, ops.BIG))
    return y if y is not x else None


@block("map", weight=4, ranks=(2,), since=11)
def focus(net: Net, x: T) -> T | None:
    """Four strided crops, concatenated (YOLOX)."""
    if x.c > 16 or not all(divisible(d, 2) for d in x.spatial) or smallest(x.spatial) < 8:
        return None
    parts = []
    for i, j in ((0, 0), (1, 0), (0, 1), (1, 1)):
        rows = ops.slice_axis(net, x, 2, (i, ops.BIG), 2)
        parts.append(ops.slice_axis(net, rows, 3, (j, ops.BIG), 2))
    shape = (x.shape[0], 4 * x.c, *parts[0].shape[2:])
    return net.out(net.node("Concat", parts, axis=1), x, shape=shape)


@block("map", weight=10, ranks=(2,), notes=("depth_to_space.crd", "depth_to_space.written"))
def depth_to_space(net: Net, x: T) -> T | None:
    if not small_enough(x):
        return None
    if x.c % 4 or x.c < 8:
        x = conv(net, x, 4 * net.between(2, 8), net.pick([1, 3]))
    h, w = (each(lambda d: 2 * d, d) for d in x.spatial)
    shape = (x.shape[0], x.c // 4, h, w)
    if net.chance(0.35):
        net.note("depth_to_space.written")
        inner = ops.ax(1, div=4) if net.chance(0.5) else x.c // 4
        y = ops.reshape(net, x, [ops.ax(0), inner, 2, 2, ops.ax(2), ops.ax(3)])
        y = ops.transpose(net, y, [0, 1, 4, 2, 5, 3])
        return ops.reshape(net, y, [ops.ax(0), ops.ax(1), ops.ax(2, 3), ops.ax(4, 5)])
    attributes: dict[str, Any] = {"blocksize": 2}
    if net.opset >= 11 and net.chance(0.7):
        attributes["mode"] = net.pick(["CRD", "CRD", "DCR"])
        if attributes["mode"] == "CRD":
            net.note("depth_to_space.crd")
    return net.out(net.node("DepthToSpace", [x], **attributes), x, shape=shape)


@block("map", weight=5, ranks=(2,), notes=("space_to_depth.written",))
def space_to_depth(net: Net, x: T) -> T | None:
    if x.c > 24 or not all(divisible(d, 2) for d in x.spatial) or smallest(x.spatial) < 6:
        return None
    if net.chance(0.5):
        net.note("space_to_depth.written")
        y = ops.reshape(net, x, [ops.ax(0), ops.ax(1), ops.ax(2, div=2), 2, ops.ax(3, div=2), 2])
        y = ops.transpose(net, y, [0, 1, 3, 5, 2, 4])
        return ops.reshape(net, y, [ops.ax(0), ops.ax(1, 2, 3), ops.ax(4), ops.ax(5)])
    shape = (x.shape[0], 4 * x.c, *(each(lambda d: d // 2, d) for d in x.spatial))
    return net.out(net.node("SpaceToDepth", [x], blocksize=2), x, shape=shape)


@block("map", weight=1.5)
def transposed_grid(net: Net, x: T) -> T | None:
    """An operator between two Transposes to channels-last and back, or two spatial axes swapped."""
    r = x.rank
    if r > 3 and net.chance(0.4):
        return ops.transpose(net, x, [0, 1, *range(r - 1, 1, -1)])
    y = ops.transpose(net, x, [0, *range(2, r), 1])
    scale = net.param(net.uniform(0.6, 1.4, x.c), "scale")
    y = net.out(net.node("Mul", [y, scale]), y)
    return ops.transpose(net, y, [0, r - 1, *range(1, r - 1)])


@block("map", weight=1.5)
def squeezed(net: Net, x: T) -> T | None:
    """An axis of size 1 comes and goes."""
    axis = net.between(1, x.rank)
    y = ops.unsqueeze(net, x, [axis], x.form)
    y = net.apply("LeakyRelu", y, alpha=0.5)
    return ops.squeeze(net, y, [axis], x.form).but(mean=x.mean + 0.2 * x.std, std=0.8 * x.std)


@block("map", weight=1.5)
def roll(net: Net, x: T) -> T | None:
    """The grid rolled along one axis: two Slices and a Concat (shifted windows)."""
    if smallest(x.spatial) < 4:
        return None
    axis, by = net.between(2, x.rank - 1), net.between(1, 2)
    parts = [ops.slice_axis(net, x, axis, (by, ops.BIG)), ops.slice_axis(net, x, axis, (0, by))]
    return net.out(net.node("Concat", parts, axis=axis), x)


@block("map", weight=1.5)
def grid_concat(net: Net, x: T) -> T | None:
    """Concat along a spatial axis with a Conv of itself."""
    if not small_enough(x):
        return None
    axis = net.between(2, x.rank - 1)
    y = conv(net, x, x.c, net.pick([1, 3]))
    shape = tuple(each(lambda d: 2 * d, d) if i == axis else d for i, d in enumerate(x.shape))
    return net.out(net.node("Concat", [x, y], axis=axis), x, shape=shape, std=root(x.std, y.std) / 1.4)
