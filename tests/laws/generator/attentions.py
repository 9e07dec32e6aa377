"""Multi-head attention, written with MatMul, Reshape, Transpose and Softmax as exporters do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import ops
from .core import Net, T, root, smallest
from .linears import linear
from .norms import layer_norm_last
from .table import block

NOTES = (
    "attention.fused", "attention.stacked", "attention.separate", "attention.cross", "attention.grouped_keys",
    "attention.mask", "attention.head_bias", "attention.bias_gathered", "attention.scale_computed",
    "attention.value_width", "attention.norm_first",
)  # fmt: skip


@dataclass(frozen=True)
class Heads:
    count: int
    width: int
    value: int


def to_heads(net: Net, x: T, count: int, perm: tuple[int, ...] = (0, 2, 1, 3)) -> T:
    """[N, S, h d] to [N, h, S, d]."""
    width = -1 if net.chance(0.3) else x.c // count
    y = ops.reshape(net, x, [ops.ax(0), ops.ax(1), count, width], "heads")
    return ops.transpose(net, y, perm)


def stacked(net: Net, x: T, heads: Heads) -> list[T]:
    """One linear layer, Reshape to [N, S, 3, h, d], Transpose, and a Gather (or Split) for q, k and v."""
    net.note("attention.stacked")
    y = linear(net, x, 3 * heads.count * heads.width)
    y = ops.reshape(net, y, [ops.ax(0), ops.ax(1), 3, heads.count, heads.width], "heads")
    y = ops.transpose(net, y, [2, 0, 3, 1, 4])
    if net.chance(0.6):
        shape = y.shape[1:]
        indices = [net.exact(np.int64(i), "index") for i in range(3)]
        return [net.out(net.node("Gather", [y, i], axis=0), y, shape=shape) for i in indices]
    return [ops.squeeze(net, part, [0], "heads") for part in ops.split(net, y, [1, 1, 1], 0)]


def projected(net: Net, x: T, memory: T, heads: Heads) -> list[T]:
    """q, k, v as [N, h, S, d]."""
    inner, value = heads.count * heads.width, heads.count * heads.value
    if memory is x and heads.width == heads.value:
        way = net.pick(["fused", "fused", "stacked", "stacked", "separate"] + ["grouped"] * 3)
    else:
        way = "separate"
    if way == "stacked":
        return stacked(net, x, heads)
    if way == "grouped" and heads.count % 2 == 0:
        return grouped(net, x, heads)
    if way == "fused":
        net.note("attention.fused")
        y = linear(net, x, 3 * inner)
        return [to_heads(net, part, heads.count) for part in ops.split(net, y, [inner] * 3, 2)]
    net.note("attention.separate")
    widths = ((x, inner), (memory, inner), (memory, value))
    return [to_heads(net, linear(net, source, width), heads.count) for source, width in widths]


def grouped(net: Net, x: T, heads: Heads) -> list[T]:
    """Half as many key and value heads, each repeated (Unsqueeze, Expand, Reshape)."""
    net.note("attention.grouped_keys")
    few = heads.count // 2
    q = to_heads(net, linear(net, x, heads.count * heads.width), heads.count)
    result = [q]
    for _ in range(2):
        result.append(repeated(net, to_heads(net, linear(net, x, few * heads.width), few)))
    return result


def repeated(net: Net, y: T) -> T:
    """Every head twice, one after the other."""
    wide = ops.unsqueeze(net, y, [2], "heads")
    target = net.ints([1, 1, 2, 1, 1])
    shape = (*wide.shape[:2], 2, *wide.shape[3:])
    wide = net.out(net.node("Expand", [wide, target]), wide, shape=shape)
    return ops.reshape(net, wide, [ops.ax(0), ops.ax(1, 2), ops.ax(3), ops.ax(4)])


def scaled(net: Net, q: T, width: int) -> T:
    """q / sqrt(d), the divisor a constant or read from Shape."""
    if net.chance(0.4):
        net.note("attention.scale_computed")
        size = net.node("Gather", [net.node("Shape", [q]), net.exact(np.int64(q.rank - 1), "index")], axis=0)
        size = net.node("Cast", [size], to=1 if net.style.dtype == np.float32 else 10)
        return net.apply("Div", q, net.node("Sqrt", [size]))
    if net.chance(0.5):
        return net.apply("Mul", q, net.param(width**-0.5, "scale"))
    return net.apply("Div", q, net.param(width**0.5, "scale"))


def gathered_bias(net: Net, count: int, s: int, t: int) -> str:
    """A relative bias: table -> Gather -> Reshape -> Transpose -> Unsqueeze (Swin)."""
    net.note("attention.bias_gathered")
    table = net.param(net.normal(s + t - 1, count) * 0.5, "bias_table")
    offsets = np.arange(s)[:, None] - np.arange(t)[None] + t - 1
    rows = net.node("Gather", [table, net.ints(offsets.reshape(-1), "offsets")], axis=0)
    cube = net.node("Reshape", [rows, net.ints([s, t, -1])])
    return ops.unsqueeze_raw(net, net.node("Transpose", [cube], perm=[2, 0, 1]), [0])


def biased(net: Net, scores: T, heads: Heads) -> T:
    """A mask, or a bias table with a row per head."""
    s, t = scores.shape[2], scores.shape[3]
    if not (isinstance(s, int) and isinstance(t, int)):
        return scores
    if net.chance(0.35):
        net.note("attention.head_bias")
        if net.chance(0.6):
            return net.apply("Add", scores, gathered_bias(net, heads.count, s, t))
        return net.apply("Add", scores, net.param(net.normal(1, heads.count, s, t) * 0.5, "bias_table"))
    if net.chance(0.4) and not scores.constant_token:
        net.note("attention.mask")
        mask = np.where(np.tri(s, t, max(0, t - s)) > 0, 0.0, -1e4)
        mask = mask[None, None] if net.chance(0.5) else mask
        return net.apply("Add", scores, net.param(mask, "mask"))
    return scores


@block("seq", weight=11, notes=NOTES)
def attention(net: Net, x: T) -> T | None:
    """Multi-head attention with an output projection and a residual edge."""
    if smallest([x.shape[1]]) < 2:
        return None
    memory = x
    others = [t for t in net.live if t.form == "seq" and t.shape[0] == x.shape[0] and t.name != x.name]
    if others and net.chance(0.25):
        net.note("attention.cross")
        memory = net.pick(others)
    width = net.between(3, 8)
    value = width
    if net.chance(0.2):
        net.note("attention.value_width")
        value = net.between(3, 8)
    heads = Heads(net.pick([1, 2, 2, 3, 4, 4, 6]), width, value)
    source = x
    if net.chance(0.5) and x.c >= 4:
        net.note("attention.norm_first")
        source = layer_norm_last(net, x)
        memory = source if memory is x else memory
    q, k, v = projected(net, source, source if memory is x else memory, heads)
    k = ops.transpose(net, k, [0, 1, 3, 2])
    early = net.chance(0.5)
    q = scaled(net, q, heads.width) if early else q
    scores = net.out(net.node("MatMul", [q, k]), q, shape=(*q.shape[:3], k.shape[3]))
    scores = scores if early else scaled_after(net, scores, heads.width)
    weights = net.apply(
        "Softmax", biased(net, scores, heads), axis=3 if net.opset < 13 else net.pick([3, -1])
    )
    shape = (*q.shape[:3], v.shape[3])
    y = net.out(net.node("MatMul", [weights, v]), v, shape=shape, std=0.6 * v.std)
    y = ops.transpose(net, y, [0, 2, 1, 3])
    merged = -1 if net.chance(0.3) else ops.ax(2, 3)
    y = ops.reshape(net, y, [ops.ax(0), ops.ax(1), merged], "seq")
    y = linear(net, y, x.c)
    return net.out(net.node("Add", [x, y]), x, std=root(x.std, y.std), constant_token=False)


def scaled_after(net: Net, scores: T, width: int) -> T:
    if net.chance(0.5):
        return net.apply("Mul", scores, net.param(width**-0.5, "scale"))
    return net.apply("Div", scores, net.param(width**0.5, "scale"))
