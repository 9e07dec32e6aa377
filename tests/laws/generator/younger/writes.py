"""Slices that are written back in place, and what is read at places that are computed."""

from __future__ import annotations

import numpy as np

from .. import ops
from ..activations import act
from ..convs import conv
from ..core import Net, T, smallest, values
from ..linears import linear, mix
from ..table import block


def places(shape: tuple[int, ...], slices: tuple[range, ...]) -> np.ndarray:
    """The index of a slice along the first axes, as exporters write it: [.., k] coordinates."""
    grids = np.meshgrid(*(np.asarray(s) for s in slices), indexing="ij")
    assert len(slices) <= len(shape)
    return np.stack(grids, axis=-1).astype(np.int64)


def _range(net: Net, size: int) -> range:
    """A part of an axis: its begin, its end, its middle, or every second place."""
    half = max(1, size // 2)
    return net.pick([range(half), range(size - half, size), range(1, size), range(0, size, 2)])


@block("map seq", weight=5, since=11, draw="structures", notes=(
    "written_slice.channels", "written_slice.grid", "written_slice.turned", "written_slice.both",
))  # fmt: skip
def written_slice(net: Net, x: T) -> T | None:
    """x[:, a:b] = f(x[:, a:b]), along the channels, the tokens, or both, by ScatterND."""
    if x.c < 4 or smallest(x.shape[1:]) < 2:
        return None
    axis = net.pick([1, x.axis])
    size = x.shape[axis]
    if not isinstance(size, int):
        return None
    part = _range(net, size)
    if axis == x.axis:
        net.note("written_slice.channels")
    if x.static and isinstance(x.shape[0], int) and net.chance(0.8 if x.form == "seq" else 0.5):
        return _by_grid(net, x, axis, part)
    net.note("written_slice.turned")
    perm = [axis, *(i for i in range(x.rank) if i != axis)]
    front = ops.transpose(net, x, perm)
    source = ops.slice_axis(net, x, axis, (part.start, part.stop), part.step)
    source = source.but(shape=tuple(len(part) if i == axis else d for i, d in enumerate(x.shape)))
    new = ops.transpose(net, _changed(net, source, axis == x.axis), perm)
    index = net.ints(np.asarray(part)[:, None].tolist(), "places")
    written = net.out(net.node("ScatterND", [front, index, new]), front)
    return ops.transpose(net, written, [int(i) for i in np.argsort(perm)], x.form)


def _changed(net: Net, part: T, channels: bool) -> T:
    """What comes in the place of a part: a layer, or an activation."""
    if net.chance(0.7) and (part.c >= 2 or not channels):
        return mix(net, part, part.c)
    return act(net, part)


def _by_grid(net: Net, x: T, axis: int, part: range) -> T:
    net.note("written_slice.grid")
    shape = tuple(int(d) for d in x.shape)  # type: ignore[arg-type]
    slices = [range(d) for d in shape[: axis + 1]]
    slices[axis] = part
    source = ops.slice_axis(net, x, axis, (part.start, part.stop), part.step)
    if axis == 2 and net.chance(0.85):
        net.note("written_slice.both")
        slices[1] = _range(net, shape[1])
        source = ops.slice_axis(net, source, 1, (slices[1].start, slices[1].stop), slices[1].step)
    sizes = tuple(len(slices[i]) if i <= axis else d for i, d in enumerate(shape))
    new = _changed(net, source.but(shape=sizes), axis == x.axis)
    index = net.param_name("places")
    net.params[index] = places(shape, tuple(slices))
    return net.out(net.node("ScatterND", [x, index, new]), x)


@block("map", weight=2.5, ranks=(2,), since=16, draw="structures", notes=("grid_sample.computed",))
def grid_sample(net: Net, x: T) -> T | None:
    """An image read at stored places, or at places that a Conv computes."""
    if smallest(x.spatial) < 3 or x.c < 2:
        return None
    if isinstance(x.shape[0], int) and net.chance(0.5):
        sizes = (net.between(3, 6), net.between(3, 6))
        grid = net.param(net.uniform(-0.9, 0.9, x.shape[0], *sizes, 2), "grid")
        shape = (*x.shape[:2], *sizes)
    else:
        net.note("grid_sample.computed")
        places_at = net.apply("Tanh", conv(net, x, 2, 1))
        grid, shape = ops.transpose(net, places_at, [0, 2, 3, 1]).name, x.shape
    mode = "linear" if net.opset >= 20 else "bilinear"
    name = net.node("GridSample", [x, grid], mode=mode, padding_mode=net.pick(["zeros", "border"]))
    return net.out(name, x, shape=shape, std=0.7 * x.std)


@block(
    "map",
    weight=2.5,
    ranks=(2,),
    since=19,
    draw="structures",
    notes=("deform_conv.mask", "deform_conv.groups"),
)
def deform_conv(net: Net, x: T) -> T | None:
    """A Conv at places that another Conv computes."""
    if smallest(x.spatial) < 3 or x.c < 4:
        return None
    kernel, out = net.pick([1, 3]), net.width(2)
    pads = [kernel // 2] * 4
    group = shared = 1
    if x.c % 2 == 0 and net.chance(0.4):
        net.note("deform_conv.groups")
        group, shared = net.pick([(2, 1), (1, 2), (2, 2)])
    taps = kernel * kernel * shared
    offsets = net.apply("Tanh", conv(net, x, 2 * taps, kernel))
    weight = net.param(net.weight([out, x.c // group, kernel, kernel], [1, 2, 3], x))
    inputs = [x.name, weight, offsets.name, net.bias(out)]
    if net.chance(0.5):
        net.note("deform_conv.mask")
        inputs.append(net.apply("Sigmoid", conv(net, x, taps, kernel)).name)
    name = net.node(
        "DeformConv", inputs, kernel_shape=[kernel] * 2, pads=pads, group=group, offset_group=shared
    )
    return net.out(name, x, shape=(x.shape[0], out, *x.spatial), std=0.7, mean=0.0)


@block("seq", weight=2, since=10, draw="structures", notes=("reversed_places.channels",))
def reversed_places(net: Net, x: T) -> T | None:
    """The first tokens or channels of every sequence in reverse order, as many as stored lengths say."""
    channels = net.chance(0.5)
    size = x.c if channels else x.shape[1]
    if not (isinstance(x.shape[0], int) and isinstance(size, int)):
        return None
    lengths = net.ints([net.between(min(2, size), size) for _ in range(x.shape[0])], "lengths")
    y = ops.transpose(net, x, [0, 2, 1]) if channels else x
    y = net.out(net.node("ReverseSequence", [y, lengths], batch_axis=0, time_axis=1), y)
    if channels:
        net.note("reversed_places.channels")
        y = ops.transpose(net, y, [0, 2, 1])
    return linear(net, y.but(constant_token=False), net.width())


@block("seq", weight=2, since=14, draw="structures", notes=(
    "triangle.mask", "triangle.scores", "triangle.weight",
))  # fmt: skip
def triangle(net: Net, x: T) -> T | None:
    """Trilu of a square weight, or of scores or a mask made at run time: each sees those before it."""
    if x.c >= 4 and net.chance(0.4):
        net.note("triangle.weight")
        square = net.param(net.weight([x.c, x.c], [0], x) * 2**0.5, "square")
        lower = net.node("Trilu", [square], upper=int(net.chance(0.5)))
        return net.out(net.node("MatMul", [x, lower]), x, std=1.0, mean=0.0)
    if x.c < 4 or max(values(x.shape[1])) > 128:
        return None
    keys = linear(net, x, x.c)
    turned = ops.transpose(net, keys, [0, 2, 1])
    scale = net.param(1 / (x.c * root_of(x)), "scale")
    scores = net.node("Mul", [net.node("MatMul", [x, turned]), scale])
    if net.chance(0.5):
        net.note("triangle.scores")
        lower = net.node("Trilu", [scores], upper=0)
        return net.out(net.node("MatMul", [lower, x]), x, std=x.std, constant_token=False)
    net.note("triangle.mask")
    end = ops.computed_size(net, x, ops.ax(1))
    both = net.node("Concat", [end, end], axis=0)
    full = net.node("Expand", [net.param(-1e4, "fill"), both])
    mask = net.node("Trilu", [full, net.exact(np.int64(1), "k")], upper=1)
    weights = net.node("Softmax", [net.node("Add", [scores, mask])], axis=-1)
    return net.out(
        net.node("MatMul", [weights, linear(net, x, x.c)]), x, std=0.7, mean=0.0, constant_token=False
    )


def root_of(x: T) -> float:
    return max(x.std, 0.2)
