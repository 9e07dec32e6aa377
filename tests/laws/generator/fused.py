"""Attention as optimisers and newer exporters write it: in one node, by Einsum, with rotary tables.

Only one model in four may have these blocks (the draw "modern"): the others stay as they are.
"""

from __future__ import annotations

import numpy as np

from . import ops
from .attentions import Heads, repeated, to_heads
from .core import Net, T, root, smallest, values
from .linears import linear
from .norms import affine
from .table import block

MICROSOFT = "com.microsoft"
MOST_TOKENS = 128
NOTES = (
    "modern.packed", "modern.multi_head", "modern.standard", "modern.grouped", "modern.rotary_written",
    "modern.rotary_node", "modern.einsum", "modern.skip_norm",
)  # fmt: skip


@block("seq", weight=16, notes=NOTES, draw="modern")
def modern_attention(net: Net, x: T) -> T | None:
    """Attention in one form or another, with a projection and a residual edge."""
    if smallest([x.shape[1]]) < 2 or max(values(x.shape[1])) > MOST_TOKENS or x.constant_token or x.c < 4:
        return None
    heads = Heads(net.pick([2, 2, 4, 4, 6]), 2 * net.between(2, 4), 0)
    ways = [packed, multi_head, rotary, rotary] + [standard] * 4 * (net.opset >= 23)
    y = linear(net, net.pick(ways)(net, x, heads), x.c)
    if net.chance(0.5):
        net.note("modern.skip_norm")
        inputs = [x, y, *affine(net, x.c)]
        inputs += [net.bias(x.c)] if net.chance(0.5) else []
        name = net.node("SkipLayerNormalization", inputs, domain=MICROSOFT, epsilon=1e-3)
        return net.out(name, x, std=1.0, mean=0.0)
    return net.out(net.node("Add", [x, y]), x, std=root(x.std, y.std))


def packed(net: Net, x: T, heads: Heads) -> T:
    """onnxruntime's Attention: one weight for Q, K and V."""
    net.note("modern.packed")
    inner = heads.count * heads.width
    weight = net.param(net.weight([x.c, 3 * inner], [0], x))
    name = net.node("Attention", [x, weight, net.bias(3 * inner)], domain=MICROSOFT, num_heads=heads.count)
    return net.out(name, x, shape=(*x.shape[:2], inner), std=0.6, mean=0.0)


def multi_head(net: Net, x: T, heads: Heads) -> T:
    """onnxruntime's MultiHeadAttention; V may have a width of its own."""
    net.note("modern.multi_head")
    inner, value = heads.count * heads.width, heads.count * net.pick([heads.width, net.between(3, 8)])
    q, k, v = (linear(net, x, size) for size in (inner, inner, value))
    name = net.node("MultiHeadAttention", [q, k, v], domain=MICROSOFT, num_heads=heads.count)
    return net.out(name, x, shape=(*x.shape[:2], value), std=0.6, mean=0.0)


def standard(net: Net, x: T, heads: Heads) -> T:
    """Attention of opset 23, the heads side by side; sometimes half as many heads of K and V."""
    net.note("modern.standard")
    few = heads.count
    if net.chance(0.5):
        net.note("modern.grouped")
        few //= 2
    q, k, v = (linear(net, x, n * heads.width) for n in (heads.count, few, few))
    given = {"q_num_heads": heads.count, "kv_num_heads": few, "is_causal": int(net.chance(0.3))}
    name = net.node("Attention", [q, k, v], **given)
    return net.out(name, x, shape=(*x.shape[:2], heads.count * heads.width), std=0.6, mean=0.0)


def rotary(net: Net, x: T, heads: Heads) -> T:
    """Llama's attention in single nodes: rotated Q and K, groups of queries, MatMul or Einsum."""
    few = heads.count
    if net.chance(0.6):
        net.note("modern.grouped")
        few //= 2
    q, k, v = (to_heads(net, linear(net, x, n * heads.width), n) for n in (heads.count, few, few))
    if isinstance(x.shape[1], int) and net.chance(0.6):
        net.note("modern.rotary_written")
        q, k = rotated(net, q), rotated(net, k)
    elif net.chance(0.6):
        net.note("modern.rotary_node")
        q, k = rotated_in_one_node(net, q), rotated_in_one_node(net, k)
    if few < heads.count:
        k, v = repeated(net, k), repeated(net, v)
    q = net.apply("Mul", q, net.param(heads.width**-0.5, "scale"))
    y = contracted(net, q, k, v)
    y = ops.transpose(net, y, [0, 2, 1, 3])
    return ops.reshape(net, y, [ops.ax(0), ops.ax(1), ops.ax(2, 3)], "seq")


def contracted(net: Net, q: T, k: T, v: T) -> T:
    """Softmax of Q times K, times V: [N, h, S, d]."""
    shape = (*q.shape[:3], k.shape[2])
    if net.opset >= 13 and net.chance(0.5):
        net.note("modern.einsum")
        scores = net.out(net.node("Einsum", [q, k], equation="bhqd,bhkd->bhqk"), q, shape=shape)
        weights = net.apply("Softmax", scores, axis=-1)
        name = net.node("Einsum", [weights, v], equation="bhqk,bhkd->bhqd")
        return net.out(name, v, shape=q.shape, std=0.6 * v.std)
    turned = ops.transpose(net, k, [0, 1, 3, 2])
    scores = net.out(net.node("MatMul", [q, turned]), q, shape=shape)
    weights = net.apply("Softmax", scores, axis=3)
    return net.out(net.node("MatMul", [weights, v]), v, shape=q.shape, std=0.6 * v.std)


def tables(tokens: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines [tokens, width / 2]."""
    angles = np.arange(tokens)[:, None] * 0.3 ** np.arange(width // 2)
    return np.cos(angles), np.sin(angles)


def rotated(net: Net, x: T) -> T:
    """x cos + turned x sin, with Slice, Neg and Concat."""
    tokens, width = x.shape[2], x.shape[3]
    assert isinstance(tokens, int)
    assert isinstance(width, int)
    cos, sin = (net.param(np.concatenate([table, table], axis=1), "table") for table in tables(tokens, width))
    first, second = (ops.slice_axis(net, x, 3, part) for part in ((0, width // 2), (width // 2, ops.BIG)))
    turned = net.out(net.node("Concat", [net.apply("Neg", second), first], axis=3), x)
    return net.apply("Add", net.apply("Mul", x, cos), net.apply("Mul", turned, sin))


def rotated_in_one_node(net: Net, x: T) -> T:
    width = x.shape[3]
    assert isinstance(width, int)
    cos, sin = (net.param(table, "table") for table in tables(MOST_TOKENS, width))
    return net.out(net.node("RotaryEmbedding", [x, net.ints([0], "place"), cos, sin], domain=MICROSOFT), x)
