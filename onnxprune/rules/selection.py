"""Movement that picks along an axis: Concat, Split, Slice, Gather and Pad.

Specification: https://onnx.ai/onnx/operators/, one page for each (onnx__Concat.html, onnx__Gather.html).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.rules import gradients, values
from onnxprune.rules.indexing import AT_RUN_TIME, BY_LENGTH, CROSSED
from onnxprune.rules.layout import regrouped
from onnxprune.rules.registry import rule
from onnxprune.rules.signature import (
    INDEXED,
    Axes,
    Facets,
    Fix,
    Pinned,
    Repair,
    Shrunk,
    Signature,
    Site,
    Take,
    Verdict,
    ints_fix,
    numbered,
    positive,
)
from onnxprune.rules.values import moved


def _replaced(axes: Axes, place: int, subscript: str) -> Axes:
    return (*axes[:place], (subscript,), *axes[place + 1 :])


@rule("Concat", facets=Facets(evaluate=values.joined, gradient=gradients.JOINED))
def concat(site: Site) -> Verdict:
    """Joins labels along the axis; the other axes of the operands are tied."""
    axis = positive(int(site.attrs["axis"]), len(site.out()))
    sources = tuple(f"part{i}" for i in range(len(site.inputs)))
    inputs = tuple(_replaced(numbered(site.shape(i)), axis, part) for i, part in enumerate(sources))
    out = _replaced(numbered(site.out()), axis, "joined")
    take = Take(sources, np.arange(site.out()[axis]))
    return Signature(inputs, (out,), takes={"joined": take})


@rule("Split", facets=Facets(evaluate=values.split))
def split(site: Site) -> Verdict:
    """Cuts labels along the axis; the sizes follow what is kept of each part."""
    if any(shape is None for shape in site.outputs):
        return Pinned("Split with an output left out")
    axis = positive(int(site.attrs.get("axis", 0)), len(site.shape()))
    axes = numbered(site.shape())
    outs, takes, start = [], {}, 0
    for i in range(len(site.outputs)):
        size = site.out(i)[axis]
        takes[f"part{i}"] = Take(("whole",), np.arange(start, start + size))
        outs.append(_replaced(axes, axis, f"part{i}"))
        start += size
    rest = tuple(None for _ in site.inputs[1:])
    whole = _replaced(axes, axis, "whole")
    if site.dynamic(1).any():
        return Signature((whole, *rest), tuple(outs), pins={"whole": BY_LENGTH})
    return Signature((whole, *rest), tuple(outs), takes=takes, repair=_split_sizes)


def _split_sizes(site: Site, shrunk: Shrunk) -> list[Fix]:
    sizes = [shrunk.sizes[f"part{i}"] for i in range(len(site.outputs))]
    if site.ints("split", 1) is None and len(set(sizes)) == 1:
        return []
    if site.opset < 13:
        return [Fix("split", tuple(sizes))]
    gone = [Fix("num_outputs", None)] if "num_outputs" in site.attrs else []
    return [Fix(1, tuple(sizes)), *gone]


def _slice_bounds(site: Site) -> tuple[list[int], list[int], list[int], list[int]] | None:
    starts, ends = site.ints("starts", 1), site.ints("ends", 2)
    if starts is None or ends is None:
        return None
    axes = site.ints("axes", 3) or list(range(len(starts)))
    steps = site.ints("steps", 4) or [1] * len(starts)
    return starts, ends, [positive(a, len(site.shape())) for a in axes], steps


@rule("Slice", facets=Facets(evaluate=moved(values.sliced), gradient=gradients.SLICED))
def slice_(site: Site) -> Verdict:
    """Keeps a range of the labels of an axis; the bounds follow what is kept.

    An axis with a bound that follows the inputs' sizes stays: any place of it may be read.
    """
    bounds = _slice_bounds(site)
    if bounds is None:
        return _slice_by_data(site)
    axes = outs = numbered(site.shape())
    takes, pins = {}, {}
    moving = _moving(site, len(bounds[0]))
    for place, (start, end, axis, step) in enumerate(zip(*bounds, strict=True)):
        size = site.shape()[axis]
        index = np.arange(size)[slice(*_clamped(start, end, step, size))]
        if len(index) == size and step == 1 and not moving[place]:
            continue
        axes, outs = _replaced(axes, axis, f"from{axis}"), _replaced(outs, axis, f"to{axis}")
        if moving[place]:
            pins[f"from{axis}"] = BY_LENGTH
        else:
            takes[f"to{axis}"] = Take((f"from{axis}",), index, step=step)
    rest = tuple(None for _ in site.inputs[1:])
    return Signature((axes, *rest), (outs,), takes=takes, pins=pins, repair=_slice_repair)


def _moving(site: Site, count: int) -> np.ndarray:
    """Tell for each axis of a Slice whether a bound of it changes with the sizes of the model's inputs."""
    found = np.zeros(count, dtype=bool)
    for place in (1, 2):
        dynamic = site.dynamic(place)
        found |= dynamic if len(dynamic) == count else False
    return found


def _clamped(start: int, end: int, step: int, size: int) -> tuple[int | None, int | None, int]:
    """Turn ONNX bounds into Python's: a negative step may run past the front."""
    low, high = (0, size) if step > 0 else (-1, size - 1)
    first = min(max(start + size if start < 0 else start, 0), high if step < 0 else size)
    last = end + size if -size <= end < 0 else end
    last = min(max(last, low), size)
    return first, (None if last < 0 else last), step


def _slice_by_data(site: Site) -> Verdict:
    chosen = site.ints("axes", 3)
    if chosen is None:
        return Pinned("Slice whose bounds are computed from data")
    axes = outs = numbered(site.shape())
    for axis in (positive(a, len(axes)) for a in chosen):
        axes, outs = _replaced(axes, axis, f"from{axis}"), _replaced(outs, axis, f"to{axis}")
    pins = {f"from{positive(a, len(axes))}": "Slice whose bounds are computed from data" for a in chosen}
    return Signature((axes, *(None for _ in site.inputs[1:])), (outs,), pins=pins)


def _slice_repair(site: Site, shrunk: Shrunk) -> list[Fix]:
    bounds = _slice_bounds(site)
    data = shrunk.inputs[0]
    assert bounds is not None
    assert data is not None
    starts, ends, axes, steps = bounds
    for i, axis in enumerate(axes):
        wanted = shrunk.picked.get(f"to{axis}")
        if wanted is None:
            continue
        size = data[axis]
        now = np.arange(size)[slice(*_clamped(starts[i], ends[i], steps[i], size))]
        if not np.array_equal(now, wanted):
            after = int(wanted[-1]) + (1 if steps[i] > 0 else -1)
            starts[i], ends[i] = int(wanted[0]), after if after >= 0 else -size - 1
    return [ints_fix(site, "starts", 1, starts), ints_fix(site, "ends", 2, ends)]


@rule(
    "Gather",
    facets=Facets(evaluate=moved(values.gathered), tables={1: 0}, gradient=gradients.GATHERED),
)
def gather(site: Site) -> Verdict:
    """Picks labels by a constant index; one that counts through the axis regroups it, even if computed.

    PyTorch's exporter writes `as_strided` so: the places of a flattened axis, in order, in several axes.
    """
    data, index = site.shape(), site.value(1)
    axis = positive(int(site.attrs.get("axis", 0)), len(data))
    if index is not None and index.ndim > 1 and counts_through(index, data[axis]):
        return _regather(site, axis, index.ndim)
    axes = numbered(data)
    source = _replaced(axes, axis, "from")
    reason = _no_list(site.listed(1))
    if reason:
        places = numbered(site.shape(1), "j")
        out = (*axes[:axis], *places, *axes[axis + 1 :])
        return Signature((source, places), (out,), pins={"from": reason})
    assert index is not None
    place = np.where(index < 0, index + data[axis], index).ravel().astype(np.int64)
    longest = int(np.argmax(index.shape)) if index.ndim else -1
    kept: Axes = tuple(("to",) if i == longest else () for i in range(index.ndim))
    out = (*axes[:axis], *kept, *axes[axis + 1 :])
    takes = {"to": Take(("from",), place, order=INDEXED)}
    return Signature((source, None), (out,), takes=takes, repair=_gather_index)


def counts_through(index: np.ndarray, size: int) -> bool:
    """Tell whether an index of any rank names the places of an axis one after the other, each once."""
    return index.size == size and bool(np.array_equal(index.ravel(), np.arange(size)))


def _no_list(index: np.ndarray | None) -> str:
    """Say why an index does not list places along one axis; nothing where it does."""
    if index is None:
        return AT_RUN_TIME
    if sum(size > 1 for size in index.shape) > 1:
        return CROSSED
    return ""


def _gather_index(site: Site, shrunk: Shrunk) -> list[Fix]:
    picked = shrunk.picked.get("to")
    if picked is None:
        return []
    old = site.shape(1)
    shape = tuple(len(picked) if i == int(np.argmax(old)) else size for i, size in enumerate(old))
    return [Fix(1, np.asarray(picked, np.int64).reshape(shape))]


def _regather(site: Site, axis: int, rank: int) -> Verdict:
    found = regrouped(site.shape(), site.out())
    if found is None:
        return Pinned("Gather from an empty tensor")

    def repair(_site: Site, shrunk: Shrunk) -> list[Fix]:
        out = shrunk.outputs[0]
        if out is None:
            return []
        shape = out[axis : axis + rank]
        return [Fix(1, np.arange(int(np.prod(shape))).reshape(shape))]

    return Signature((found.before, None), (found.after,), sizes=found.sizes, repair=repair)


@rule("Pad", facets=Facets(gradient=gradients.PADDED))
def pad(site: Site) -> Verdict:
    """Adds labels of its own at both ends of a labelled axis."""
    shape = site.shape()
    pads = site.ints("pads", 1) or site.ints("paddings")
    if pads is None:
        return Pinned("Pad whose widths are computed from data")
    axes = outs = numbered(shape)
    chosen = [positive(a, len(shape)) for a in site.ints("axes", 3) or range(len(shape))]
    takes, pins = {}, {}
    constant = site.attrs.get("mode", "constant") == "constant"
    dynamic = site.dynamic(1)
    for i, axis in enumerate(chosen):
        front, back = pads[i], pads[len(chosen) + i]
        moving = dynamic.size > 0 and bool(dynamic[i] or dynamic[len(chosen) + i])
        if not front and not back and not moving:
            continue
        axes, outs = _replaced(axes, axis, f"from{axis}"), _replaced(outs, axis, f"to{axis}")
        if moving:
            pins[f"from{axis}"] = BY_LENGTH
        elif constant:
            takes[f"to{axis}"] = Take((f"from{axis}",), _padded(shape[axis], front, back))
        else:
            pins[f"from{axis}"] = "Pad that mirrors or repeats this axis"
    rest = tuple(None for _ in site.inputs[1:])
    return Signature((axes, *rest), (outs,), takes=takes, pins=pins, repair=_pad_widths(chosen))


def _padded(size: int, front: int, back: int) -> np.ndarray:
    inner = np.arange(max(-front, 0), size - max(-back, 0))
    return np.concatenate([np.full(max(front, 0), -1), inner, np.full(max(back, 0), -1)])


def _pad_widths(chosen: Sequence[int]) -> Repair:
    def repair(site: Site, shrunk: Shrunk) -> list[Fix]:
        pads = site.ints("pads", 1) or site.ints("paddings") or []
        data = shrunk.inputs[0]
        assert data is not None
        for i, axis in enumerate(chosen):
            picked = shrunk.picked.get(f"to{axis}")
            if picked is None:
                continue
            inner = np.flatnonzero(picked >= 0)
            cut_front, cut_back = int(picked[inner[0]]), data[axis] - 1 - int(picked[inner[-1]])
            pads[i] = int(inner[0]) - cut_front
            pads[len(chosen) + i] = len(picked) - 1 - int(inner[-1]) - cut_back
        return [ints_fix(site, "pads" if "pads" in site.attrs else "paddings", 1, pads)]

    return repair
