"""Operators whose inputs and attributes moved between operator sets, written as each set wants them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .core import Dim, Net, T, each, product

BIG = 2**31 - 1
REDUCE_INPUT_SINCE = {"ReduceSum": 13}


@dataclass(frozen=True)
class Axis:
    """A size in a Reshape target: the product of some input sizes, times `mul`, divided by `div`."""

    of: tuple[int, ...]
    mul: int = 1
    div: int = 1

    def size(self, x: T) -> Dim:
        return each(lambda d: d * self.mul // self.div, product(x.shape[i] for i in self.of))


def ax(*of: int, mul: int = 1, div: int = 1) -> Axis:
    return Axis(of, mul, div)


def reshape(net: Net, x: T, spec: Sequence[int | Axis], form: str | None = None, **changes: Any) -> T:
    """Reshape to a target of integers, input sizes and at most one -1: constant, or computed with Shape."""
    sizes: list[Dim] = [s.size(x) if isinstance(s, Axis) else s for s in spec]
    if -1 in sizes:
        known = product(s for s in sizes if s != -1)
        rest = each(lambda a, b: a // b, product(x.shape), known)
        sizes[sizes.index(-1)] = rest[0] if isinstance(rest, tuple) and len(set(rest)) == 1 else rest
    target = constant_target(net, spec, sizes)
    if target is None or net.chance(net.style.computed_shapes):
        shape = computed_target(net, x, spec)
    else:
        shape = net.ints(target)
    return net.out(net.node("Reshape", [x, shape]), x, shape=tuple(sizes), form=form or x.form, **changes)


def constant_target(net: Net, spec: Sequence[int | Axis], sizes: Sequence[Dim]) -> list[int] | None:
    """The target as literals, 0 for a copied size and one -1; None where more than one is unknown."""
    target: list[int] = []
    for position, (want, size) in enumerate(zip(spec, sizes, strict=True)):
        copied = want == Axis((position,))
        if want == -1:
            target.append(-1)
        elif isinstance(size, int) and not (copied and net.chance(0.3)):
            target.append(size)
        else:
            target.append(0 if copied else -1)
    if target.count(-1) > 1:
        return None
    if -1 not in target and net.chance(0.3):
        target[net.between(0, len(target) - 1)] = -1
    return target


def computed_target(net: Net, x: T, spec: Sequence[int | Axis]) -> str:
    """Shape -> Gather -> (Mul, Div) -> Unsqueeze -> Concat, as TorchScript writes x.view(x.size(0), ...)."""
    net.note("shape.computed")
    parts = []
    merge = net.chance(0.5)
    for want in spec:
        keep = isinstance(want, int) or (isinstance(want.size(x), int) and net.chance(0.3))
        if keep:
            literal = want if isinstance(want, int) else want.size(x)
            parts.append(net.ints([literal]))
        else:
            parts.append(computed_size(net, x, want))
    if merge and net.opset >= 13:
        return net.node("Cast", [net.node("Concat", parts, axis=0)], to=7)
    return net.node("Concat", parts, axis=0)


def computed_size(net: Net, x: T, want: Axis) -> str:
    """One size as a tensor of one element, through scalars (Gather) or through vectors (Slice)."""
    scalars = net.chance(0.7)
    value = ""
    for axis in want.of:
        shape = net.node("Shape", [x])
        if scalars:
            one = net.node("Gather", [shape, net.ints(axis)], axis=0)
        else:
            one = slice_raw(net, shape, [0], [axis], [axis + 1])
        value = net.node("Mul", [value, one]) if value else one
    for op, factor in (("Mul", want.mul), ("Div", want.div)):
        if factor != 1:
            net.note("shape.arithmetic")
            value = net.node(op, [value, net.ints(factor if scalars else [factor])])
    return unsqueeze_raw(net, value, [0]) if scalars else value


def scalar(net: Net, one: str) -> str:
    """A tensor of one element without its axis."""
    if net.opset < 13:
        return net.node("Squeeze", [one], axes=[0])
    return net.node("Squeeze", [one, net.ints([0], "axes")])


def transpose(net: Net, x: T, perm: Sequence[int], form: str | None = None) -> T:
    shape = tuple(x.shape[p] for p in perm)
    return net.out(net.node("Transpose", [x], perm=list(perm)), x, shape=shape, form=form or x.form)


def unsqueeze_raw(net: Net, name: str, axes: Sequence[int]) -> str:
    if net.opset < 13:
        return net.node("Unsqueeze", [name], axes=list(axes))
    return net.node("Unsqueeze", [name, net.ints(list(axes), "axes")])


def unsqueeze(net: Net, x: T, axes: Sequence[int], form: str) -> T:
    shape = list(x.shape)
    for axis in sorted(axes):
        shape.insert(axis, 1)
    return net.out(unsqueeze_raw(net, x.name, axes), x, shape=tuple(shape), form=form)


def squeeze(net: Net, x: T, axes: Sequence[int], form: str) -> T:
    shape = tuple(d for i, d in enumerate(x.shape) if i not in axes)
    if net.opset < 13:
        name = net.node("Squeeze", [x], axes=list(axes))
    else:
        name = net.node("Squeeze", [x, net.ints(list(axes), "axes")])
    return net.out(name, x, shape=shape, form=form)


def slice_raw(
    net: Net,
    x: str | T,
    axes: Sequence[int],
    starts: Sequence[int],
    ends: Sequence[int],
    *,
    steps: Sequence[int] = (),
) -> str:
    if net.opset < 10:
        assert not steps
        return net.node("Slice", [x], axes=list(axes), starts=list(starts), ends=list(ends))
    extra = [net.ints(list(steps), "steps")] if steps else []
    bounds = [net.ints(list(starts), "starts"), net.ints(list(ends), "ends"), net.ints(list(axes), "axes")]
    return net.node("Slice", [x, *bounds, *extra])


def slice_axis(net: Net, x: T, axis: int, bounds: tuple[int, int], step: int = 1) -> T:
    """Slice one axis; a negative end counts from the end, BIG means to the end."""
    start, end = bounds
    shape = list(x.shape)
    shape[axis] = each(lambda d: len(range(d)[start:end:step]), x.shape[axis])
    if 0 <= start < end != BIG and step == 1:
        shape[axis] = end - start
    name = slice_raw(net, x, [axis], [start], [end], steps=[step] if step != 1 else [])
    return net.out(name, x, shape=tuple(shape))


def split(net: Net, x: T, sizes: Sequence[int], axis: int) -> list[T]:
    """Split, equal parts without sizes where the operator set allows; before operator set 18 once per model:
    onnxruntime 1.31 merges two such nodes on one tensor even where they differ in the number of outputs.
    """
    equal = len(set(sizes)) == 1 and net.chance(0.6)
    if equal and net.opset < 18:
        equal = not net.plain_split
        net.plain_split = True
    if equal and net.opset >= 18:
        names = net.multi("Split", [x], len(sizes), axis=axis, num_outputs=len(sizes))
    elif equal:
        names = net.multi("Split", [x], len(sizes), axis=axis)
    elif net.opset < 13:
        names = net.multi("Split", [x], len(sizes), axis=axis, split=list(sizes))
    else:
        names = net.multi("Split", [x, net.ints(list(sizes), "split")], len(sizes), axis=axis)
    parts = []
    at = axis % x.rank
    for name, size in zip(names, sizes, strict=True):
        shape = (*x.shape[:at], size, *x.shape[at + 1 :])
        parts.append(net.out(name, x, shape=shape))
    return parts


def pad(net: Net, x: T, before: Sequence[int], after: Sequence[int], mode: str = "constant") -> T:
    pads = [*before, *after]
    shape = tuple(
        each(lambda d, extra=b + a: d + extra, dim) for dim, b, a in zip(x.shape, before, after, strict=True)
    )
    if net.opset < 11:
        name = net.node("Pad", [x], pads=pads, mode=mode)
    elif mode == "constant" and net.chance(0.5):
        name = net.node("Pad", [x, net.ints(pads, "pads"), net.param(0.0, "value")], mode=mode)
    else:
        name = net.node("Pad", [x, net.ints(pads, "pads")], mode=mode)
    return net.out(name, x, shape=shape)


def reduce(net: Net, op: str, x: T, axes: Sequence[int], *, keepdims: bool, form: str | None = None) -> T:
    """ReduceX over axes; the estimate of the result's magnitude is left to the caller."""
    shape = tuple(1 if i in axes else d for i, d in enumerate(x.shape))
    if not keepdims:
        shape = tuple(d for i, d in enumerate(x.shape) if i not in axes)
    written = [a - x.rank if net.chance(0.2) else a for a in axes]
    if net.opset < REDUCE_INPUT_SINCE.get(op, 18):
        name = net.node(op, [x], axes=written, keepdims=int(keepdims))
    else:
        name = net.node(op, [x, net.ints(written, "axes")], keepdims=int(keepdims))
    return net.out(name, x, shape=shape, form=form or x.form, **reduced(op, x, axes))


def reduced(op: str, x: T, axes: Sequence[int]) -> dict[str, float]:
    count = math.prod(max(d) if isinstance(d, tuple) else d for i, d in enumerate(x.shape) if i in axes)
    root = math.sqrt(math.sqrt(count))
    if op == "ReduceMean":
        return {"std": x.std / root}
    if op == "ReduceSum":
        return {"std": x.std * count / root, "mean": x.mean * count}
    if op == "ReduceMax":
        spread = math.sqrt(2 * math.log(max(count, 2)))
        return {"std": x.std / min(root, 2), "mean": x.mean + x.std * spread * 0.8}
    power = math.sqrt(count * (x.std**2 + x.mean**2))
    return {"std": power / root / 1.4, "mean": power}


def clip(net: Net, x: T, low: float | None, high: float | None) -> T:
    if net.opset < 11:
        bounds = {k: v for k, v in (("min", low), ("max", high)) if v is not None}
        name = net.node("Clip", [x], **bounds)
    else:
        ends = ["" if v is None else net.param(v, "bound") for v in (low, high)]
        name = net.node("Clip", [x, *(ends if ends[1] else ends[:1])])
    return net.out(name, x)


def dropout(net: Net, x: T) -> T:
    if net.opset < 12:
        return net.apply("Dropout", x, ratio=0.5)
    if net.chance(0.5):
        return net.apply("Dropout", x)
    return net.apply("Dropout", x, net.param(0.5, "ratio"), net.exact(np.array(False), "training"))


def resize(net: Net, x: T, scales: Sequence[int], mode: str = "nearest") -> T:
    """Upsample (before operator set 10) or Resize, by whole factors."""
    shape = tuple(each(lambda d, s=s: d * s, dim) for dim, s in zip(x.shape, scales, strict=True))
    factors = net.exact(np.array(scales, np.float32), "scales")
    if net.opset < 10:
        return net.out(net.node("Upsample", [x, factors], mode=mode), x, shape=shape)
    roi = net.exact(np.zeros(0, np.float32), "roi") if net.opset < 13 else ""
    how = {"coordinate_transformation_mode": "asymmetric"} if net.chance(0.5) else {}
    if mode == "nearest":
        how["nearest_mode"] = "floor" if how else "round_prefer_floor"
    if all(isinstance(d, int) for d in shape) and net.chance(0.4):
        sizes = ["", net.ints([int(d) for d in shape], "sizes")]
        if net.opset < 13:
            sizes[0] = net.exact(np.zeros(0, np.float32), "scales")
        return net.out(net.node("Resize", [x, roi, *sizes], mode=mode, **how), x, shape=shape)
    return net.out(net.node("Resize", [x, roi, factors], mode=mode, **how), x, shape=shape)
