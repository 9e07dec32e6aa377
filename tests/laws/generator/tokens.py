"""Vectors and tokens: linear layers every way round, mixers, class token, position embedding."""

from __future__ import annotations

import numpy as np

from . import ops
from .activations import act, act_named
from .core import Net, T, each, largest, root, smallest, values
from .linears import GEMM_NOTES, gemm, linear
from .norms import layer_norm_last
from .spatials import flat
from .table import block


@block("vec seq", weight=7, notes=GEMM_NOTES)
def linear_layer(net: Net, x: T) -> T | None:
    y = linear(net, x, net.width())
    return act(net, y) if net.chance(0.5) else y


@block("seq", weight=2.5)
def linear_flattened(net: Net, x: T) -> T | None:
    """Tokens as rows of a matrix: Reshape, Gemm, Reshape."""
    flatter = ops.reshape(net, x, [-1, x.c], "vec")
    y = gemm(net, flatter, net.width())
    out = y.c
    if net.chance(0.5):
        target = [ops.ax(0), ops.ax(1), out]
        shape = net.node(
            "Concat", [*(ops.computed_size(net, x, t) for t in target[:2]), net.ints([out])], axis=0
        )
        net.note("shape.computed")
    elif isinstance(x.shape[1], int):
        shape = net.ints([-1, x.shape[1], out])
    elif isinstance(x.shape[0], int):
        shape = net.ints([x.shape[0], -1, out])
    else:
        leading = ops.slice_raw(net, net.node("Shape", [x]), [0], [0], [2])
        shape = net.node("Concat", [leading, net.ints([out])], axis=0)
    return net.out(net.node("Reshape", [y, shape]), x, shape=(*x.shape[:2], out), std=1.0, mean=0.0)


@block("map", weight=4, notes=(*GEMM_NOTES, "flatten_linear.grid"))
def flatten_linear(net: Net, x: T) -> T | None:
    """Flatten with the grid still there, then Gemm or MatMul."""
    if not x.static or largest(x.shape[1:]) > 1600:
        return None
    if largest(x.spatial) > 1:
        net.note("flatten_linear.grid")
    return act(net, linear(net, flat(net, x), net.width()))


@block("vec", weight=2)
def seed_image(net: Net, x: T) -> T | None:
    """A vector becomes a small image: a linear layer and a Reshape (the start of a GAN's generator)."""
    width, side = net.between(4, 16), net.pick([3, 4])
    y = linear(net, x, width * side * side)
    return ops.reshape(net, y, [ops.ax(0), width, side, side], "map")


@block("map", weight=6)
def to_tokens(net: Net, x: T) -> T | None:
    """[N, C, H, W] to [N, HW, C]."""
    if smallest(x.spatial) < 2 or largest(x.spatial) > 300:
        return None
    grid = range(2, x.rank)
    if len(x.spatial) == 1:
        return ops.transpose(net, x, [0, 2, 1], "seq")
    if net.chance(0.6):
        last = -1 if net.chance(0.5) else ops.ax(*grid)
        y = ops.reshape(net, x, [ops.ax(0), ops.ax(1), last])
        return ops.transpose(net, y, [0, 2, 1], "seq")
    y = ops.transpose(net, x, [0, *grid, 1])
    return ops.reshape(net, y, [ops.ax(0), ops.ax(*range(1, x.rank - 1)), ops.ax(x.rank - 1)], "seq")


@block("seq", weight=3)
def from_tokens(net: Net, x: T) -> T | None:
    """[N, S, C] to [N, C, S] or, where S factors, to [N, C, H, W]."""
    y = ops.transpose(net, x, [0, 2, 1], "map")
    tokens = x.shape[1]
    if isinstance(tokens, int):
        sides = [h for h in range(2, tokens) if tokens % h == 0 and h * h <= 4 * tokens <= 16 * h * h]
        if sides and net.chance(0.85):
            h = net.pick(sides)
            return ops.reshape(net, y, [ops.ax(0), ops.ax(1), h, tokens // h])
    return y


@block("map seq", weight=4, ranks=(1,), notes=("left_matmul.channels", "left_matmul.tokens"))
def left_matmul(net: Net, x: T) -> T | None:
    """The weight on the left of a MatMul: over channels of [N, C, S], over tokens of [N, S, C]."""
    inner = x.shape[1]
    if not isinstance(inner, int):
        return None
    out = net.width() if x.form == "map" else net.between(3, 16)
    net.note("left_matmul.channels" if x.form == "map" else "left_matmul.tokens")
    weight = net.param(net.weight([out, inner], [1], x))
    y = net.out(net.node("MatMul", [weight, x]), x, shape=(x.shape[0], out, x.shape[2]), std=1.0, mean=0.0)
    if net.chance(0.5):
        y = net.apply("Add", y, net.param(net.normal(out, 1) * 0.2, "bias"))
    return y


@block("seq vec", weight=4)
def mlp(net: Net, x: T) -> T | None:
    """Norm, widen, activate, narrow, add."""
    y = layer_norm_last(net, x) if x.form == "seq" and x.c >= 4 and net.chance(0.7) else x
    y = act(net, linear(net, y, min(64, x.c * net.pick([1, 2, 4]))))
    y = linear(net, y, x.c)
    if net.chance(0.3):
        y = net.out(net.node("Mul", [y, net.param(net.uniform(0.3, 0.8, x.c), "layer_scale")]), y)
    return net.out(net.node("Add", [x, y]), x, std=root(x.std, y.std))


@block("seq", weight=3)
def token_mixer(net: Net, x: T) -> T | None:
    """Linear layers over the tokens between two Transposes (MLP-Mixer)."""
    tokens = x.shape[1]
    if not isinstance(tokens, int) or tokens > 64 or tokens < 3 or x.c < 4:
        return None
    y = layer_norm_last(net, x)
    y = ops.transpose(net, y, [0, 2, 1])
    y = act(net, linear(net, y, net.between(4, 24)))
    y = linear(net, y, tokens)
    y = ops.transpose(net, y, [0, 2, 1])
    return net.out(net.node("Add", [x, y]), x, std=root(x.std, y.std), constant_token=False)


@block("seq", weight=5, notes=("class_token.constant", "class_token.expand"))
def class_token(net: Net, x: T) -> T | None:
    """A learned token in front of the others."""
    token = net.param(net.normal(1, 1, x.c), "class_token")
    if isinstance(x.shape[0], int) and x.shape[0] == 1:
        net.note("class_token.constant")
    else:
        net.note("class_token.expand")
        if isinstance(x.shape[0], int):
            shape = net.ints([x.shape[0], 1, x.c])
        else:
            batch = ops.computed_size(net, x, ops.ax(0))
            shape = net.node("Concat", [batch, net.ints([1]), net.ints([x.c])], axis=0)
        token = net.node("Expand", [token, shape])
    tokens = x.shape[1]
    more = each(lambda d: d + 1, tokens)
    return net.out(
        net.node("Concat", [token, x], axis=1), x, shape=(x.shape[0], more, x.c), constant_token=True
    )


@block("seq", weight=3)
def position_embedding(net: Net, x: T) -> T | None:
    tokens = x.shape[1]
    if not isinstance(tokens, int):
        return None
    table = net.normal(tokens, x.c) * 0.3 * x.std
    table = table[None] if net.chance(0.6) else table
    return net.out(net.node("Add", [x, net.param(table, "position")]), x)


@block("seq", weight=10, notes=(
    "token_reduce.mean", "token_reduce.sum", "token_reduce.max", "token_reduce.l2",
    "token_reduce.gather", "token_reduce.slice",
))  # fmt: skip
def token_reduce(net: Net, x: T) -> T | None:
    """One vector from the tokens: a reduction, or the first token."""
    kind = net.pick(["mean", "sum", "max", "l2"] + ["gather", "slice"] * (not x.constant_token))
    net.note(f"token_reduce.{kind}")
    shape = (x.shape[0], x.c)
    if kind == "gather":
        index = net.exact(np.int64(0), "index")
        return net.out(net.node("Gather", [x, index], axis=1), x, shape=shape, form="vec")
    if kind == "slice":
        return ops.squeeze(net, ops.slice_axis(net, x, 1, (0, 1)), [1], "vec")
    x = act_named(net, x, "leaky_relu") if x.even else x
    op = {"mean": "ReduceMean", "sum": "ReduceSum", "max": "ReduceMax", "l2": "ReduceL2"}[kind]
    return ops.reduce(net, op, x, [1], keepdims=False, form="vec")


@block("seq", weight=2)
def token_concat(net: Net, x: T) -> T | None:
    """Concat along the tokens: with a layer of itself, or earlier tokens of the same width."""
    if max(values(x.shape[1])) > 100:
        return None
    others = [
        t
        for t in net.live
        if t.form == "seq" and t.c == x.c and t.shape[0] == x.shape[0] and t.name != x.name
    ]
    other = net.pick(others) if others and net.chance(0.6) else linear(net, x, x.c)
    tokens = each(lambda a, b: a + b, x.shape[1], other.shape[1])
    name = net.node("Concat", [x, other], axis=net.pick([1, -2]) if net.opset >= 11 else 1)
    return net.out(name, x, shape=(x.shape[0], tokens, x.c), std=root(x.std, other.std) / 1.4)


@block("seq", weight=1.5)
def token_slice(net: Net, x: T) -> T | None:
    """Drop the first token or the last."""
    if min(values(x.shape[1])) < 4:
        return None
    return ops.slice_axis(net, x, 1, (1, ops.BIG) if net.chance(0.5) else (0, -1))


@block("seq vec", weight=2.5, notes=("folded.norm",))
def folded_groups(net: Net, x: T) -> T | None:
    """[.., C] to [.., G, C/G], something on each group, and back (norms and scales per head)."""
    groups = [g for g in (2, 3, 4) if x.c % g == 0 and x.c // g >= 2]
    if not groups:
        return None
    g = net.pick(groups)
    lead = [ops.ax(i) for i in range(x.rank - 1)]
    inner = ops.ax(x.rank - 1, div=g) if net.chance(0.4) else x.c // g
    y = ops.reshape(net, x, [*lead, g, inner], "folded")
    if net.chance(0.4) and x.c >= 4 * g:
        net.note("folded.norm")
        y = layer_norm_last(net, y)
    else:
        shape = net.pick([(g, 1), (x.c // g,), (g, x.c // g)])
        y = net.apply("Mul", y, net.param(net.uniform(0.6, 1.4, *shape), "scale"))
    return ops.reshape(net, y, [*lead, ops.ax(x.rank - 1, x.rank)], x.form)


@block("seq", weight=2)
def tied_linear(net: Net, x: T) -> T | None:
    """One square weight in two MatMuls, or a weight and its transpose (a tied decoder)."""
    if net.chance(0.5):
        inner = net.width()
        array = net.weight([x.c, inner], [0], x.but(std=1.0, mean=0.2)) * np.float32(
            min(1, (x.c / inner) ** 0.5)
        )
        weight = net.param(array, "tied")
        first = net.node("MatMul", [x, weight])
        hidden = net.out(first, x, shape=(*x.shape[:-1], inner), std=root(x.std, x.mean / 3), mean=0.0)
        back = net.node("Transpose", [weight], perm=[1, 0])
        return net.out(net.node("MatMul", [act(net, hidden), back]), x, mean=0.0)
    weight = net.param(net.weight([x.c, x.c], [0], x.but(std=1.0, mean=0.2)), "tied")
    y = act(net, net.apply("MatMul", x, weight).but(mean=0.0))
    return net.apply("MatMul", y, weight).but(mean=0.0)
