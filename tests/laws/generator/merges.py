"""Blocks that join and part tensors along the channels: sums, concatenations, splits, shuffles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import ops
from .activations import act, sigmoid
from .convs import conv
from .core import Net, T, root, through
from .linears import mix
from .table import block


def joined(net: Net, parts: Sequence[T]) -> T:
    x = parts[0]
    width = sum(p.c for p in parts)
    shape = (*x.shape[: x.axis], width, *x.shape[x.axis + 1 :])
    axis = x.axis - x.rank if net.chance(0.15) else x.axis
    mean = float(np.mean([p.mean for p in parts]))
    std = root(*(p.std for p in parts)) / len(parts) ** 0.5
    return net.out(net.node("Concat", parts, axis=axis), x, shape=shape, std=std, mean=mean)


def alike(net: Net, x: T, width: bool) -> list[T]:
    """Live tensors that stand on the same grid as x (and are as wide)."""
    return [
        t
        for t in net.live
        if t.name != x.name
        and t.form == x.form
        and t.rank == x.rank
        and all(
            a == b or (i == x.axis and not width)
            for i, (a, b) in enumerate(zip(t.shape, x.shape, strict=True))
        )
    ]


@block("map vec seq", weight=5, notes=("add_earlier.projected", "add_earlier.product", "add_earlier.maximum"))
def add_earlier(net: Net, x: T) -> T | None:
    """A residual edge to any earlier tensor on the same grid, projected where widths differ."""
    others = alike(net, x, True)
    projected = not others or net.chance(0.25)
    if not projected:
        other = net.pick(others)
    elif others := alike(net, x, False):
        net.note("add_earlier.projected")
        other = mix(net, net.pick(others), x.c)
    else:
        return None
    pair = [x, other] if net.chance(0.5) else [other, x]
    if net.chance(0.12):
        net.note("add_earlier.product")
        other_size, size = root(other.std, other.mean), root(x.std, x.mean)
        return net.out(net.node("Mul", pair), x, std=other_size * size, mean=x.mean * other.mean)
    if net.chance(0.12):
        net.note("add_earlier.maximum")
        return net.out(net.node(net.pick(["Max", "Min"]), pair), x, std=root(x.std, other.std) * 0.7)
    op = net.pick(["Add", "Add", "Sub", "Sum"]) if projected else net.pick(["Add", "Add", "Sum"])
    return net.out(net.node(op, pair), x, std=root(x.std, other.std), mean=x.mean + other.mean)


@block("map vec seq", weight=4)
def concat_live(net: Net, x: T) -> T | None:
    """Concat with earlier tensors of any width on the same grid (U-Net, DenseNet)."""
    others = [t for t in alike(net, x, False) if t.c + x.c <= 96]
    if not others:
        return None
    parts = [x, net.pick(others)]
    more = [t for t in others if t.c + sum(p.c for p in parts) <= 96]
    if more and net.chance(0.3):
        parts.append(net.pick(more))
    if net.chance(0.5):
        parts.reverse()
    return joined(net, parts)


@block("map vec seq", weight=3)
def concat_branches(net: Net, x: T) -> T | None:
    """Inception: parallel branches, concatenated."""
    parts = [mix(net, x, net.between(3, 20), net.pick([1, 3])) for _ in range(net.between(2, 4))]
    parts = [act(net, p) if net.chance(0.5) else p for p in parts]
    return joined(net, parts)


@block("map", weight=2)
def dense_block(net: Net, x: T) -> T | None:
    """Each layer sees the concatenation of all before (DenseNet)."""
    if x.c > 40:
        return None
    growth = net.between(3, 12)
    parts = [x]
    for _ in range(net.between(2, 3)):
        seen = joined(net, parts) if len(parts) > 1 else x
        parts.append(act(net, conv(net, seen, growth, 3)))
    return joined(net, parts)


def parts_of(net: Net, total: int, count: int, equal: bool) -> list[int]:
    if equal:
        return [total // count] * count
    spare = net.rng.multinomial(total - 2 * count, [1 / count] * count)
    return [2 + int(extra) for extra in spare]


def chunked(net: Net, x: T, sizes: Sequence[int]) -> list[T]:
    """Split, or one Slice per part."""
    if net.chance(0.75):
        net.note("split.operator")
        return ops.split(
            net, x, sizes, x.axis - x.rank if net.chance(0.15) and x.axis == x.rank - 1 else x.axis
        )
    net.note("split.slices")
    parts, start = [], 0
    for i, size in enumerate(sizes):
        end = ops.BIG if i == len(sizes) - 1 and net.chance(0.5) else start + size
        parts.append(ops.slice_axis(net, x, x.axis, (start, end)))
        start += size
    return parts


@block("map vec seq", weight=4, notes=("split.operator", "split.slices", "split.unequal", "split.dropped"))
def split_parts(net: Net, x: T) -> T | list[T] | None:
    """Part the channels, treat the parts differently, join them again or not."""
    counts = [n for n in (2, 3, 4) if x.c >= 2 * n]
    if not counts:
        return None
    count = net.pick(counts)
    equal = x.c % count == 0 and net.chance(0.6)
    if not equal:
        net.note("split.unequal")
    parts = chunked(net, x, parts_of(net, x.c, count, equal))
    if net.chance(0.15):
        net.note("split.dropped")
        parts = parts[:-1]
    done = []
    for part in parts:
        what = net.between(0, 3)
        if what == 0:
            part = mix(net, part, net.between(3, 16), net.pick([1, 3]))
        elif what == 1:
            part = act(net, part)
        done.append(part)
    if len(done) > 1 and net.chance(0.8):
        return joined(net, done)
    return done


@block("map", weight=2.5)
def split_cascade(net: Net, x: T) -> T | None:
    """Res2Net: each chunk's Conv also sees the one before."""
    counts = [n for n in (2, 3, 4) if x.c % n == 0 and x.c // n >= 2]
    if not counts:
        return None
    count = net.pick(counts)
    parts = chunked(net, x, [x.c // count] * count)
    done = [parts[0]]
    previous: T | None = None
    for part in parts[1:]:
        feed = part
        if previous is not None:
            feed = net.out(net.node("Add", [part, previous]), part, std=root(part.std, previous.std))
        previous = act(net, conv(net, feed, part.c, 3))
        done.append(previous)
    return joined(net, done)


@block("map vec seq", weight=3)
def split_gate(net: Net, x: T) -> T | None:
    """GLU: one half times the Sigmoid (or activation) of the other."""
    if x.c % 2 or x.c < 6:
        return None
    a, b = chunked(net, x, [x.c // 2] * 2)
    gate = net.apply("Sigmoid", b).but(**through(sigmoid, b)) if net.chance(0.6) else act(net, b)
    size = root(gate.std, gate.mean)
    return net.out(net.node("Mul", [a, gate]), a, std=max(a.std * size, 0.05), mean=a.mean * gate.mean)


@block("map", weight=4, notes=("shuffle.computed_groups",))
def channel_shuffle(net: Net, x: T) -> T | None:
    """Reshape, Transpose, Reshape (ShuffleNet); the sizes constant, or computed with Shape and Div."""
    counts = [n for n in (2, 3, 4) if x.c % n == 0 and x.c // n >= 2]
    if not counts:
        return None
    groups = net.pick(counts)
    rank = len(x.spatial)
    inner = ops.ax(1, div=groups) if net.chance(0.6) else x.c // groups
    if inner != x.c // groups:
        net.note("shuffle.computed_groups")
    tail = [ops.ax(i) for i in range(2, x.rank)]
    if net.chance(0.3) and rank > 1:
        y = ops.reshape(net, x, [ops.ax(0), groups, inner, ops.ax(*range(2, x.rank))])
        y = ops.transpose(net, y, [0, 2, 1, 3])
        if not x.static:
            # the spatial sizes are gone: take them from the tensor before
            target = net.node("Shape", [x])
            return net.out(net.node("Reshape", [y, target]), x)
        return ops.reshape(net, y, [ops.ax(0), x.c, *(int(d) for d in x.spatial)]).but(std=x.std)
    y = ops.reshape(net, x, [ops.ax(0), groups, inner, *tail])
    y = ops.transpose(net, y, [0, 2, 1, *range(3, x.rank + 1)])
    back: list = [ops.ax(0), ops.ax(1, 2), *(ops.ax(i) for i in range(3, x.rank + 1))]
    if not isinstance(x.shape[0], tuple) or net.chance(0.5):
        back[1] = x.c
    return ops.reshape(net, y, back)


@block("map vec seq", weight=2)
def channel_slice(net: Net, x: T) -> T | None:
    """Keep a contiguous range of channels."""
    if x.c < 6:
        return None
    start = net.between(0, x.c // 3)
    end = net.between(x.c - x.c // 3, x.c - 1)
    if start == 0 and net.chance(0.3):
        return ops.slice_axis(net, x, x.axis, (0, end - x.c))
    return ops.slice_axis(net, x, x.axis, (start, end))


@block("map vec seq", weight=1, since=11, notes=("channel_stride.reversed",))
def channel_stride(net: Net, x: T) -> T | None:
    """Every second channel, or all in reverse order."""
    if x.c < 8:
        return None
    if net.chance(0.4):
        net.note("channel_stride.reversed")
        return ops.slice_axis(net, x, x.axis, (-1, -ops.BIG), -1).but(shape=x.shape)
    return ops.slice_axis(net, x, x.axis, (net.between(0, 1), ops.BIG), 2)


@block("map vec seq", weight=2.5, notes=("channel_gather.permutation", "channel_gather.repeated"))
def channel_gather(net: Net, x: T) -> T | None:
    """Gather channels by constant indices: a permutation, a subset, or some twice."""
    kind = net.pick(["permutation", "subset", "repeated"])
    order = net.rng.permutation(x.c)
    if kind == "subset":
        order = order[: max(3, x.c * 2 // 3)]
    elif kind == "repeated":
        order = np.concatenate([order, order[: x.c // 3]])
    if kind != "subset":
        net.note(f"channel_gather.{kind}")
    if net.chance(0.15):
        order = np.where(order == x.c - 1, -1, order)
    shape = (*x.shape[: x.axis], len(order), *x.shape[x.axis + 1 :])
    name = net.node("Gather", [x, net.ints(order.tolist(), "indices")], axis=x.axis)
    return net.out(name, x, shape=shape)


@block("map", weight=1.5)
def channel_pad(net: Net, x: T) -> T | None:
    """Zero channels from Pad, added to a Conv of that width (the shortcut without parameters)."""
    if x.c > 40:
        return None
    before = net.pick([0, 0, 2, 4])
    after = net.between(1, 8)
    padded = ops.pad(net, x, [0, before] + [0] * len(x.spatial), [0, after] + [0] * len(x.spatial))
    y = conv(net, x, padded.c, 3)
    return net.out(net.node("Add", [y, padded]), y, std=root(y.std, x.std), mean=x.mean)


@block("map", weight=1.5)
def channel_repeat(net: Net, x: T) -> T | None:
    """The channels several times over: Tile, or Concat of a tensor with itself."""
    if x.c > 24:
        return None
    if net.chance(0.5):
        return joined(net, [x, x])
    name = net.node("Tile", [x, net.ints([1, 2] + [1] * len(x.spatial), "repeats")])
    return net.out(name, x, shape=(x.shape[0], 2 * x.c, *x.spatial))
