"""Reductions, pooling and the operators that pick by value along an axis.

Specification: https://onnx.ai/onnx/operators/, one page for each (onnx__ReduceSum.html, onnx__MaxPool.html).
"""

from __future__ import annotations

import math

import numpy as np

from onnxprune.rules.active_ranges import pooled
from onnxprune.rules.registry import rows, rule
from onnxprune.rules.signature import (
    NOTHING,
    Arithmetic,
    Axes,
    Facets,
    Fix,
    Pinned,
    Shrunk,
    Signature,
    Site,
    Verdict,
    named,
    numbered,
    positive,
)
from onnxprune.rules.values import reduced

NEUTRAL = {"ReduceMax": -math.inf, "ReduceMin": math.inf, "ReduceProd": 1.0, "ReduceLogSumExp": -math.inf}
REDUCTIONS = {
    "ReduceL1": NOTHING,
    "ReduceL2": NOTHING,
    "ReduceLogSum": NOTHING,
    "ReduceLogSumExp": NOTHING,
    "ReduceMax": Facets(evaluate=reduced(np.max)),
    "ReduceMean": NOTHING,
    "ReduceMin": Facets(evaluate=reduced(np.min)),
    "ReduceProd": Facets(evaluate=reduced(np.prod)),
    "ReduceSum": Facets(evaluate=reduced(np.sum), arithmetic=Arithmetic.TOTAL),
    "ReduceSumSquare": NOTHING,
}


@rows(REDUCTIONS)
def reduce(site: Site) -> Verdict:
    """Drops the labels of the axes it reduces; a mean divides by what is kept."""
    axes = numbered(site.shape())
    chosen = site.ints("axes", 1)
    if chosen is None and site.has(1):
        return Pinned(f"{site.op} over axes that are computed")
    if not chosen:
        noop = site.attrs.get("noop_with_empty_axes", 0)
        chosen = [] if noop else list(range(len(axes)))
    gone = {axis % max(len(axes), 1) for axis in chosen}
    keep = site.attrs.get("keepdims", 1)
    out = tuple(() if i in gone else axis for i, axis in enumerate(axes) if keep or i not in gone)
    return Signature(
        (axes, *(None for _ in site.inputs[1:])),
        (out,),
        neutral=NEUTRAL.get(site.op, 0.0),
        counted=site.op == "ReduceMean",
    )


@rule("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(site: Site) -> Verdict:
    """Channels pass; spatial axes are reduced, and pinned if something labelled them."""
    axes = numbered(site.shape())
    pins = {subscript: f"{site.op} reduces this axis" for axis in axes[2:] for subscript in axis}
    return Signature((axes,), (tuple(axes[:2]) + tuple(() for _ in axes[2:]),), pins=pins)


@rows({"AveragePool": NOTHING, "Crop": NOTHING, "LpPool": NOTHING, "MaxPool": Facets(active_range=pooled)})
def pool(site: Site) -> Verdict:
    """Channels pass; spatial axes go under a window, or are cropped."""
    if site.op == "MaxPool" and len([s for s in site.outputs if s is not None]) > 1:
        return Pinned("MaxPool that returns places in the whole tensor")
    shape, out = site.shape(), site.out()
    before = tuple(f"i{i}" for i in range(len(shape) - 2))
    pins = dict.fromkeys(before, f"{site.op} mixes neighbours along this axis")
    data = named(shape, ["n", "c", *before])
    result = named(out, ["n", "c", *(f"o{i}" for i in range(len(out) - 2))])
    return Signature((data,), (result,), pins=pins)


@rule("ArgMax", "ArgMin")
def arg(site: Site) -> Verdict:
    """Pins the axis whose places it returns; the others pass."""
    axes = numbered(site.shape())
    axis = int(site.attrs.get("axis", 0)) % max(len(axes), 1)
    keep = site.attrs.get("keepdims", 1)
    out = tuple(() if i == axis else a for i, a in enumerate(axes) if keep or i != axis)
    pins = dict.fromkeys(axes[axis], f"{site.op} returns places along this axis")
    return Signature((axes,), (out,), pins=pins)


@rule("TopK")
def topk(site: Site) -> Verdict:
    """Pins the axis it sorts; the others pass."""
    axes = numbered(site.shape())
    axis = int(site.attrs.get("axis", -1)) % max(len(axes), 1)
    pins = dict.fromkeys(axes[axis], "TopK sorts this axis")
    outs = tuple(_with_axis(axes, axis, s[axis] if s else 1) for s in site.outputs)
    return Signature((axes, *(None for _ in site.inputs[1:])), outs, pins=pins)


def _with_axis(axes: Axes, axis: int, size: int) -> Axes:
    subscript = ("picked",) if size > 1 else ()
    return (*axes[:axis], subscript, *axes[axis + 1 :])


@rule("NonMaxSuppression")
def suppression(_site: Site) -> Verdict:
    """Freezes boxes and scores: which of them survive depends on values."""
    return Pinned("NonMaxSuppression selects by value")


@rule("Resize", "Upsample")
def resize(site: Site) -> Verdict:
    """Axes that keep their size pass, the resized ones are pinned."""
    if site.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return Pinned("Resize that crops")
    shape, out = site.shape(), site.out()
    same = [a == b for a, b in zip(shape, out, strict=True)]
    ins = [f"x{i}" if passes else f"i{i}" for i, passes in enumerate(same)]
    outs = [f"x{i}" for i in range(len(out))]
    pins = {subscript: f"{site.op} interpolates along this axis" for subscript in ins if subscript[0] == "i"}
    data = named(shape, ins)
    return Signature(
        (data, *(None for _ in site.inputs[1:])),
        (named(out, outs),),
        pins=pins | _held_by_ratio(site),
        repair=_resized if site.has(3) else None,
    )


def _keeps_ratio(site: Site) -> bool:
    policy = site.attrs.get("keep_aspect_ratio_policy", "stretch")
    return policy not in (b"stretch", "stretch")


def _held_by_ratio(site: Site) -> dict[str, str]:
    """Pin the axes whose size and target enter the one scale of all axes, unless both are the same."""
    sizes, shape = site.value(3), site.shape()
    if not _keeps_ratio(site) or not site.has(3):
        return {}
    axes = site.ints("axes") or range(len(shape))
    reason = f"{site.op} keeps the aspect ratio of this axis"
    listed = {positive(a, len(shape)): None if sizes is None else int(sizes[i]) for i, a in enumerate(axes)}
    return {f"x{a}": reason for a, size in listed.items() if size != shape[a]}


def _resized(site: Site, shrunk: Shrunk) -> list[Fix]:
    """Repair the sizes of the axes that are listed, in the order of the list.

    Where the aspect ratio is kept these are bounds, and only those of axes that pass follow the axis.
    """
    before, wanted = site.value(3), shrunk.outputs[0]
    if before is None or wanted is None:
        return []
    shape = site.shape()
    axes = [positive(a, len(shape)) for a in site.ints("axes") or range(len(shape))]
    follows = [not _keeps_ratio(site) or int(old) == shape[a] for a, old in zip(axes, before, strict=True)]
    sizes = [wanted[a] if own else int(old) for a, old, own in zip(axes, before, follows, strict=True)]
    return [Fix(3, tuple(sizes))]
