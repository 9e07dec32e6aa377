"""Gates and other broadcasts: squeeze-excite, spatial attention, scales, constants that travel."""

from __future__ import annotations

import numpy as np

from . import ops
from .activations import act, act_named
from .convs import conv
from .core import Net, T, largest, root, through
from .linears import mix
from .table import block


def channel_shape(x: T, size: int) -> list[int]:
    """The shape of a constant per channel that broadcasts to x."""
    return [size] if x.form != "map" else [size, *(1 for _ in x.spatial)]


def pooled(net: Net, x: T, keepdims: bool) -> T:
    """The mean over the spatial axes: [N, C, 1, ...] or [N, C]."""
    axes = list(range(2, x.rank))
    x = act_named(net, x, "relu" if x.c > 4 else "softplus") if x.even else x
    if keepdims and net.chance(0.5):
        shape = (*x.shape[:2], *(1 for _ in axes))
        return net.out(
            net.node("GlobalAveragePool", [x]), x, shape=shape, std=x.std / largest(x.spatial) ** 0.25
        )
    return ops.reduce(net, "ReduceMean", x, axes, keepdims=keepdims, form="map" if keepdims else "vec")


@block(
    "map",
    weight=4,
    notes=("squeeze_excite.linear", "squeeze_excite.conv", "squeeze_excite.expand", "squeeze_excite.tile"),
)
def squeeze_excite(net: Net, x: T) -> T | None:
    """Global pool, two layers (1x1 Conv or MatMul/Gemm), a gate, Mul; the gate at times expanded first."""
    if x.c < 4:
        return None
    inner = max(3, x.c // net.pick([2, 4]))
    if net.chance(0.5):
        net.note("squeeze_excite.conv")
        y = act(net, conv(net, pooled(net, x, True), inner, 1))
        y = conv(net, y, x.c, 1)
    else:
        net.note("squeeze_excite.linear")
        y = act(net, mix(net, pooled(net, x, False), inner))
        y = mix(net, y, x.c)
        if net.chance(0.5):
            y = ops.reshape(net, y, [ops.ax(0), ops.ax(1), *(1 for _ in x.spatial)], "map")
        else:
            y = ops.unsqueeze(net, y, list(range(2, x.rank)), "map")
    gate = net.apply(net.pick(["Sigmoid", "HardSigmoid"]), y)
    if net.chance(0.7) and x.static:
        grid = [int(d) for d in x.spatial]
        if net.chance(0.5):
            net.note("squeeze_excite.expand")
            gate = net.out(net.node("Expand", [gate, net.ints([1, x.c if net.chance(0.5) else 1, *grid])]), x)
        else:
            net.note("squeeze_excite.tile")
            gate = net.out(net.node("Tile", [gate, net.ints([1, 1, *grid], "repeats")]), x)
    elif net.chance(0.1):
        net.note("squeeze_excite.expand")
        gate = net.out(net.node("Expand", [gate, net.node("Shape", [x])]), x)
    pair = [x, gate] if net.chance(0.6) else [gate, x]
    return net.out(net.node("Mul", pair), x, std=0.55 * x.std, mean=0.5 * x.mean)


@block("map", weight=3)
def spatial_gate(net: Net, x: T) -> T | None:
    """Mean and maximum over the channels, a Conv to one channel, Sigmoid, Mul (CBAM)."""
    mean = ops.reduce(net, "ReduceMean", x, [1], keepdims=True)
    top = ops.reduce(net, "ReduceMax", x, [1], keepdims=True)
    both = net.out(net.node("Concat", [mean, top], axis=1), x, shape=(x.shape[0], 2, *x.spatial))
    gate = net.apply("Sigmoid", conv(net, both, 1, 3))
    return net.out(net.node("Mul", [x, gate]), x, std=0.55 * x.std, mean=0.5 * x.mean)


@block("map vec seq", weight=2, notes=("pixel_gate.from_channels",))
def one_channel_gate(net: Net, x: T) -> T | None:
    """A gate of a single channel from a layer with one output."""
    net.note("pixel_gate.from_channels")
    gate = mix(net, x, 1)
    if x.form != "map":
        gate = net.apply("Softsign", gate)
    gate = net.apply("Sigmoid", gate)
    return net.out(net.node("Mul", [gate, x]), x, std=0.55 * x.std, mean=0.5 * x.mean)


@block("map vec seq", weight=4, notes=("scale.mul", "scale.add", "scale.div", "scale.scalar"))
def scale_layer(net: Net, x: T) -> T | None:
    """Mul, Add, Sub or Div by a constant per channel, [C, 1, 1] or [1, C, 1, 1], or by a scalar."""
    shape = channel_shape(x, x.c)
    if net.chance(0.3):
        shape = [1] * (x.rank - len(shape)) + shape
    if net.chance(0.2):
        net.note("scale.scalar")
        shape = net.pick([[], [1]])
    kind = net.pick(["mul", "mul", "add", "div"])
    net.note(f"scale.{kind}")
    if kind == "add":
        shift = net.param(net.normal(*shape) * 0.3 * x.std, "shift")
        op = net.pick(["Add", "Add", "Sub"])
        return net.out(net.node(op, [x, shift]), x, std=root(x.std, 0.3 * x.std))
    factor = net.param(net.uniform(0.6, 1.5, *shape), "scale")
    if kind == "div":
        return net.out(net.node("Div", [x, factor]), x)
    pair = [x, factor] if net.chance(0.7) else [factor, x]
    return net.out(net.node("Mul", pair), x)


@block("map", weight=2)
def modulate(net: Net, x: T) -> T | None:
    """A vector gives scale and shift per channel (FiLM)."""
    vectors = [t for t in net.live if t.form == "vec" and t.shape[0] == x.shape[0]]
    v = net.pick(vectors) if vectors and net.chance(0.8) else pooled(net, x, False)
    axes = list(range(2, x.rank))
    scale = ops.unsqueeze(net, mix(net, v, x.c), axes, "map")
    shift = ops.unsqueeze(net, mix(net, v, x.c), axes, "map")
    gain = net.apply("Add", net.apply("Tanh", scale), net.param(1.0, "one"))
    y = net.out(net.node("Mul", [x, gain]), x, std=1.2 * x.std)
    return net.out(net.node("Add", [y, shift]), y, std=root(y.std, 1.0))


@block("map", weight=5, notes=(
    "channel_reduce.mean", "channel_reduce.sum", "channel_reduce.max", "channel_reduce.l2",
    "channel_reduce.gate",
))  # fmt: skip
def channel_reduce(net: Net, x: T) -> T | None:
    """A reduction over the channels, as a gate, subtracted, or a tensor of one channel."""
    kind = net.pick(["mean", "sum", "max", "l2"])
    op = {"mean": "ReduceMean", "sum": "ReduceSum", "max": "ReduceMax", "l2": "ReduceL2"}[kind]
    net.note(f"channel_reduce.{kind}")
    y = ops.reduce(net, op, x, [1], keepdims=True)
    if net.chance(0.4):
        net.note("channel_reduce.gate")
        centred = net.apply("Sub", y, net.param(y.mean, "offset"))
        gate = net.apply("Sigmoid", net.apply("Div", centred, net.param(y.std, "unit")))
        return net.out(net.node("Mul", [x, gate]), x, std=0.55 * x.std, mean=0.5 * x.mean)
    if net.chance(0.5):
        small = net.apply("Mul", y, net.param(0.5 * x.std / root(y.std, y.mean), "factor"))
        return net.out(net.node("Sub", [x, small]), x)
    return conv(net, y, net.width(), 3)


@block("map vec seq", weight=2, notes=("where.equal",))
def where_constant(net: Net, x: T) -> T | None:
    """Where on a constant condition per channel, at times computed by Equal on constants."""
    if x.c < 4:
        return None
    shape = channel_shape(x, x.c)
    mask = net.rng.random(shape) < 0.7
    mask[:2] = True
    if net.chance(0.5):
        net.note("where.equal")
        kinds = net.exact(mask.astype(np.int64), "kinds")
        condition = net.node("Equal", [kinds, net.exact(np.int64(1), "kind")])
    else:
        condition = net.exact(mask, "mask")
    other = net.param(net.normal(*shape) * 0.3 if net.chance(0.5) else 0.0, "fill")
    return net.out(net.node("Where", [condition, x, other]), x, std=0.9 * x.std)


@block("map vec seq", weight=2)
def half_precision(net: Net, x: T) -> T | None:
    """Cast to the other float type and back, an operator between."""
    there, back = (10, 1) if net.style.dtype == np.float32 else (1, 10)
    name = net.node("Cast", [x], to=there)
    bounded = net.chance(0.5) and abs(x.mean) < 1.5
    name = net.node("Tanh", [name]) if bounded else name
    return net.out(net.node("Cast", [name], to=back), x, **(through(np.tanh, x) if bounded else {}))


@block("map vec seq", weight=2)
def identity(net: Net, x: T) -> T | None:
    return net.apply("Identity", x)


@block("map vec seq", weight=2)
def dropout(net: Net, x: T) -> T | None:
    return ops.dropout(net, x)


@block("map vec seq", weight=2, notes=("zeros.computed", "zeros.concat"))
def zeros_made(net: Net, x: T) -> T | None:
    """Zeros (or another constant) from ConstantOfShape, added, or concatenated as new channels."""
    value = np.array([net.pick([0.0, 0.0, 0.5])], net.style.dtype)
    fill = {"value": tensor_of(value)} if value[0] or net.style.dtype != np.float32 or net.chance(0.7) else {}
    if net.chance(0.5) or not (x.static and isinstance(x.shape[0], int)):
        net.note("zeros.computed")
        zeros = net.node("ConstantOfShape", [net.node("Shape", [x])], **fill)
    else:
        zeros = net.node("ConstantOfShape", [net.ints([int(d) for d in x.shape])], **fill)
    if net.chance(0.3) and x.c <= 40:
        net.note("zeros.concat")
        shape = (*x.shape[: x.axis], 2 * x.c, *x.shape[x.axis + 1 :])
        wide = net.out(net.node("Concat", [x, zeros], axis=x.axis), x, shape=shape, std=0.7 * x.std)
        return mix(net, wide, net.width())
    return net.out(net.node("Add", [x, zeros]), x)


def tensor_of(array: np.ndarray):
    from onnx import numpy_helper

    return numpy_helper.from_array(array)
