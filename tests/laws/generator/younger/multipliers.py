"""Depth multipliers behind each other, and channels that come in groups of groups."""

from __future__ import annotations

from .. import ops
from ..activations import act
from ..attentions import to_heads
from ..convs import conv
from ..core import Net, T, root, smallest
from ..linears import linear, mix
from ..norms import batch_norm
from ..table import block

MOST = 64


@block("map", weight=4, draw="structures", notes=("multiplier_chain.three", "multiplier_chain.mixed"))
def multiplier_chain(net: Net, x: T) -> T | None:
    """Depthwise Convs with several outputs for each input channel, two or three behind each other."""
    if x.c < 2 or 4 * x.c > MOST:
        return None
    many, y = 0, x
    for _ in range(3):
        factor = net.pick([2, 3, 2])
        if factor * y.c > MOST:
            break
        y = conv(net, y, factor * y.c, net.pick([1, 3]), group=y.c)
        y = batch_norm(net, y) if net.chance(0.3) else y
        y = act(net, y) if net.chance(0.6) else y
        many += 1
        if many == 2 and net.chance(0.6):
            break
    if many > 2:
        net.note("multiplier_chain.three")
    if net.chance(0.7):
        net.note("multiplier_chain.mixed")
        return conv(net, y, net.width(), 1)
    return y


@block("seq", weight=4, draw="structures", notes=("multiplied_heads.residual",))
def multiplied_heads(net: Net, x: T) -> T | None:
    """A depth multiplier along the tokens behind attention heads, and a layer that mixes them."""
    if smallest([x.shape[1]]) < 2 or x.c < 4:
        return None
    count, width = net.pick([2, 3, 4]), net.between(2, 5)
    q, k, v = (to_heads(net, linear(net, x, count * width), count) for _ in range(3))
    scores = net.node("MatMul", [q, ops.transpose(net, k, [0, 1, 3, 2])])
    scaled = net.out(
        net.node("Mul", [scores, net.param(width**-0.5, "scale")]), q, shape=(*q.shape[:3], q.shape[2])
    )
    weights = net.apply("Softmax", scaled, axis=3)
    y = net.out(net.node("MatMul", [weights, v]), v, std=0.6 * v.std)
    y = ops.transpose(net, y, [0, 2, 1, 3])
    y = ops.reshape(net, y, [ops.ax(0), ops.ax(1), count * width], "seq")
    y = ops.transpose(net, y, [0, 2, 1], "map")
    y = conv(net, y, net.pick([2, 3]) * y.c, net.pick([1, 3]), group=y.c)
    y = act(net, y) if net.chance(0.5) else y
    y = linear(net, ops.transpose(net, y, [0, 2, 1], "seq"), x.c)
    if net.chance(0.5):
        return y.but(constant_token=False)
    net.note("multiplied_heads.residual")
    return net.out(net.node("Add", [x, y]), x, std=root(x.std, y.std), constant_token=False)


@block("map", weight=4, draw="structures", notes=("grouped_heads.multiplier",))
def grouped_heads(net: Net, x: T) -> T | None:
    """Heads by head dimension behind groups: a grouped Conv, products within heads, and a Conv."""
    group = net.pick([g for g in (1, 2, 3, 4) if x.c % g == 0])
    count, width = net.pick([2, 3, 4]), 2 * net.between(1, 3)
    inner = count * width
    if inner % group:
        group = 1
    parts = []
    for _ in range(2):
        if net.chance(0.3) and x.c <= 16:
            net.note("grouped_heads.multiplier")
            y = conv(net, mix(net, x, inner // 2), inner, 3, group=inner // 2)
        else:
            y = conv(net, x, inner, 1, group=group)
        parts.append(ops.reshape(net, y, [ops.ax(0), count, width, -1], "heads"))
    q, k = parts
    keys = net.apply("Softmax", k, axis=3)
    turned = ops.transpose(net, q, [0, 1, 3, 2])
    scores = net.out(net.node("MatMul", [keys, turned]), q, shape=(*q.shape[:3], width), std=0.5)
    y = net.out(net.node("MatMul", [scores, k]), k, std=0.5 * width**0.5)
    y = ops.reshape(net, y, [ops.ax(0), ops.ax(1, 2), *x.spatial], "map") if x.static else _unflat(net, y, x)
    return conv(net, y, net.width(), 1)


def _unflat(net: Net, y: T, x: T) -> T:
    """[N, h, d, H W] to [N, h d, H, W], the sizes read from another tensor."""
    sizes = [ops.computed_size(net, x, ops.ax(axis)) for axis in (0, *range(2, x.rank))]
    assert isinstance(y.shape[1], int)
    assert isinstance(y.shape[2], int)
    inner = y.shape[1] * y.shape[2]
    target = net.node("Concat", [sizes[0], net.ints([inner]), *sizes[1:]], axis=0)
    name = net.node("Reshape", [y, target])
    return net.out(name, y, shape=(x.shape[0], inner, *x.spatial), form="map")
