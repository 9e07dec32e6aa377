"""Blocks in which channels meet each other, or one parameter meets several tensors."""

from __future__ import annotations

import numpy as np

from . import ops
from .activations import act, act_named
from .convs import conv
from .core import Net, T, largest, root, smallest
from .gates import channel_shape, pooled
from .linears import linear, mix
from .norms import layer_norm_last
from .table import block


@block("map", weight=2)
def selective_kernel(net: Net, x: T) -> T | None:
    """Two branches, mixed per channel by a Softmax over the branches (SKNet)."""
    if x.c < 4:
        return None
    parts = [act(net, conv(net, x, x.c, kernel)) for kernel in (1, 3)]
    total = net.out(net.node("Add", parts), parts[0], mean=parts[0].mean + parts[1].mean)
    v = act(net, linear(net, pooled(net, total, False), max(4, x.c // 2)))
    scores = ops.reshape(net, linear(net, v, 2 * x.c), [ops.ax(0), 2, ops.ax(1, div=2)], "seq")
    weights = net.apply("Softmax", scores, axis=1)
    done = []
    for part, weight in zip(parts, ops.split(net, weights, [1, 1], 1), strict=True):
        gate = ops.squeeze(net, weight, [1], "vec")
        gate = ops.unsqueeze(net, gate, list(range(2, x.rank)), "map")
        done.append(net.out(net.node("Mul", [part, gate]), part, std=0.5 * part.std, mean=0.5 * part.mean))
    return net.out(net.node("Add", done), done[0], mean=done[0].mean + done[1].mean)


@block("map", weight=2)
def global_response(net: Net, x: T) -> T | None:
    """Each channel's norm over the grid against the mean norm of all channels (ConvNeXt V2)."""
    if x.c < 4:
        return None
    norm = ops.reduce(net, "ReduceL2", x, list(range(2, x.rank)), keepdims=True)
    mean = ops.reduce(net, "ReduceMean", norm, [1], keepdims=True)
    ratio = net.node("Div", [norm, net.node("Add", [mean, net.param(1e-3, "epsilon")])])
    scaled = net.node(
        "Mul", [net.node("Mul", [x, ratio]), net.param(net.uniform(0.2, 0.8, *channel_shape(x, x.c)))]
    )
    y = net.node("Add", [scaled, net.param(net.normal(*channel_shape(x, x.c)) * 0.1, "shift")])
    return net.out(net.node("Add", [y, x]), x, std=1.5 * x.std, mean=1.5 * x.mean)


@block("map", weight=2)
def channel_conv_gate(net: Net, x: T) -> T | None:
    """A Conv that runs along the channels: neighbours gate each other (ECA)."""
    v = ops.unsqueeze(net, pooled(net, x, False), [1], "map")
    weight = net.param(net.normal(1, 1, 3) / 3**0.5)
    v = net.apply("Conv", v, weight, pads=[1, 1])
    gate = net.apply("Sigmoid", ops.squeeze(net, v, [1], "vec"))
    gate = ops.unsqueeze(net, gate, list(range(2, x.rank)), "map")
    return net.out(net.node("Mul", [x, gate]), x, std=0.55 * x.std, mean=0.5 * x.mean)


@block("seq", weight=2.5)
def channel_attention(net: Net, x: T) -> T | None:
    """Attention between the channels of each head: Softmax(Q^T K) V^T (XCiT, Restormer)."""
    if smallest([x.shape[1]]) < 2 or x.c < 4:
        return None
    count, width = net.pick([1, 2, 3]), net.between(3, 8)
    y = layer_norm_last(net, x)
    heads = []
    for _ in range(3):
        part = linear(net, y, count * width)
        part = ops.reshape(net, part, [ops.ax(0), ops.ax(1), count, width], "heads")
        heads.append(ops.transpose(net, part, [0, 2, 3, 1]))
    q, k, v = heads
    scores = net.node("MatMul", [q, ops.transpose(net, k, [0, 1, 3, 2])])
    scaled = net.out(net.node("Mul", [scores, net.param(0.3, "scale")]), q, shape=(*q.shape[:3], width))
    weights = net.apply("Softmax", scaled, axis=3)
    y = net.out(net.node("MatMul", [weights, v]), v, std=0.7 * v.std)
    y = ops.transpose(net, y, [0, 3, 1, 2])
    y = linear(net, ops.reshape(net, y, [ops.ax(0), ops.ax(1), ops.ax(2, 3)], "seq"), x.c)
    return net.out(net.node("Add", [x, y]), x, std=root(x.std, y.std))


@block("seq", weight=2)
def stacked_weights(net: Net, x: T) -> T | None:
    """A weight [heads, C, d] in one MatMul, the heads summed, averaged, or laid side by side."""
    count, width = net.between(2, 4), net.between(4, 12)
    weight = net.param(net.weight([count, x.c, width], [1], x))
    wide = ops.unsqueeze(net, x, [1], "seq")
    shape = (x.shape[0], count, x.shape[1], width)
    y = net.out(net.node("MatMul", [wide, weight]), wide, shape=shape, std=1.0, mean=0.0)
    y = act(net, y)
    if net.chance(0.5):
        return ops.reduce(net, net.pick(["ReduceSum", "ReduceMean"]), y, [1], keepdims=False, form="seq")
    y = ops.transpose(net, y, [0, 2, 1, 3])
    return ops.reshape(net, y, [ops.ax(0), ops.ax(1), ops.ax(2, 3)], "seq")


@block("map vec seq", weight=2.5, notes=("tied_vector.prelu", "tied_vector.norm", "tied_vector.scale"))
def tied_vector(net: Net, x: T) -> T | list[T] | None:
    """One vector parameter (slope, scale, statistics) used on two tensors of equal width."""
    kinds = ["prelu", "scale"] if x.form == "seq" else ["prelu", "scale", "norm"]
    kind = net.pick(kinds)
    net.note(f"tied_vector.{kind}")
    pair = [x, mix(net, x, x.c)]
    if kind == "norm":
        ones = [net.param(net.uniform(0.7, 1.3, x.c), "shared") for _ in range(2)]
        zeros = [net.param(net.normal(x.c) * 0.2, "shared") for _ in range(2)]
        inputs, op = [ones[0], zeros[0], zeros[1], ones[1]], "BatchNormalization"
    else:
        op = "PRelu" if kind == "prelu" else "Mul"
        inputs = [net.param(net.uniform(0.2, 0.9, *channel_shape(x, x.c)), "shared")]
    done = [net.apply(op, t, *inputs) for t in pair]
    if net.chance(0.5):
        return done
    return net.out(net.node("Add", done), done[0], std=root(done[0].std, done[1].std), mean=0.5 * x.mean)


@block("map", weight=1.5)
def position_map(net: Net, x: T) -> T | None:
    """A constant for every channel and pixel is added, with all axes or without the batch."""
    if not x.static:
        return None
    table = net.normal(*(int(d) for d in x.shape[1:])) * 0.3 * x.std
    table = table[None] if net.chance(0.6) else table
    return net.out(net.node("Add", [x, net.param(table, "position")]), x)


@block("seq", weight=1.5)
def position_gathered(net: Net, x: T) -> T | None:
    """Rows of a table by constant indices, added to the tokens (position ids)."""
    tokens = x.shape[1]
    if not isinstance(tokens, int):
        return None
    table = net.param(net.normal(tokens + 3, x.c) * 0.3 * x.std, "table")
    ids = np.arange(tokens) + net.between(0, 3)
    indices = ids[None] if net.chance(0.5) else ids
    rows = net.node("Gather", [table, net.ints(indices, "ids")], axis=0)
    return net.out(net.node("Add", [x, rows]), x)


@block("map vec seq", weight=1.5)
def channel_softmax(net: Net, x: T) -> T | None:
    """Softmax over the channels (before operator set 13 over all axes from there on), and a layer."""
    if x.c < 4:
        return None
    bounded = layer_norm_last(net, x) if x.form == "seq" else net.apply("Tanh", x)
    y = net.apply("Softmax", bounded, axis=x.axis)
    count = x.c if net.opset >= 13 or x.form != "map" else largest(x.shape[1:])
    y = net.apply("Mul", y, net.param(float(count), "count")).but(std=max(x.std, 0.3), mean=1.0)
    return mix(net, y, net.width())


@block("map seq vec", weight=2, notes=("written_mean.shape",))
def written_mean(net: Net, x: T) -> T | None:
    """The mean over the channels as ReduceSum and a division, by a constant or by the size from Shape."""
    if x.c < 4:
        return None
    total = ops.reduce(net, "ReduceSum", x, [x.axis], keepdims=True)
    count = net.param(float(x.c), "count")
    if net.chance(0.5):
        net.note("written_mean.shape")
        size = net.node("Gather", [net.node("Shape", [x]), net.exact(np.int64(x.axis), "index")], axis=0)
        count = net.node("Cast", [size], to=1 if net.style.dtype == np.float32 else 10)
    mean = net.node("Div", [total, count])
    y = net.out(net.node(net.pick(["Sub", "Add"]), [x, mean]), x)
    return act_named(net, y, "leaky_relu")


@block("map", weight=2)
def constant_channels(net: Net, x: T) -> T | None:
    """Constant channels (coordinates) concatenated, for larger batches through Expand."""
    if not x.static or not isinstance(x.shape[0], int) or x.c > 48:
        return None
    count = net.between(1, 4)
    grid = [int(d) for d in x.spatial]
    name = net.param(net.normal(1, count, *grid), "coordinates")
    if x.shape[0] > 1:
        name = net.node("Expand", [name, net.ints([x.shape[0], *([1] * (x.rank - 1))])])
    pair = [x, name] if net.chance(0.5) else [name, x]
    wide = net.out(net.node("Concat", pair, axis=1), x, shape=(x.shape[0], x.c + count, *x.spatial))
    return conv(net, wide, net.width(), net.pick([1, 3]))
