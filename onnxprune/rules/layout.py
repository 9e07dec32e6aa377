"""Movement that regroups axes: reshapes, transposes, expansion, depth and space; and what reads sizes.

Specification: https://onnx.ai/onnx/operators/, one page for each (onnx__Reshape.html, onnx__Shape.html).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from onnxprune.rules import values
from onnxprune.rules.gradients import RESHAPED, TRANSPOSED
from onnxprune.rules.registry import rows, rule
from onnxprune.rules.signature import (
    Axes,
    Facets,
    Fix,
    Pinned,
    Repair,
    Shape,
    Shrunk,
    Signature,
    Site,
    Verdict,
    named,
    numbered,
    packed,
)
from onnxprune.rules.values import moved

REFITS = {
    "Flatten": Facets(evaluate=moved(values.flattened), moves=True, gradient=RESHAPED),
    "Squeeze": Facets(evaluate=moved(values.squeezed), moves=True, gradient=RESHAPED),
    "Unsqueeze": Facets(evaluate=moved(values.unsqueezed), moves=True, gradient=RESHAPED),
}


@dataclass(frozen=True)
class Regrouped:
    """Letters of which two shapes are made; `torn` are those of stretches that do not nest."""

    before: Axes
    after: Axes
    sizes: dict[str, int]
    torn: frozenset[str]


def regrouped(before: Shape, after: Shape) -> Regrouped | None:
    """Find subscripts of which both shapes are made, as a row-major reshape regroups them.

    Where the boundaries do not nest, such as [6, 4] into [8, 3], the axes between two common boundaries
    are torn. Returns None for an empty tensor.
    """
    marks = [{int(c) for c in np.cumprod(shape[::-1])} | {1} for shape in (before, after)]
    if any(0 in mark for mark in marks):
        return None
    common = sorted(marks[0] & marks[1])
    sides: list[set[int]] = [set(common), set(common)]
    torn: set[int] = set()
    for low, high in pairwise(common):
        inner = [{c for c in mark if low < c < high} for mark in marks]
        if any(b % a for a, b in pairwise(sorted({low, high} | inner[0] | inner[1]))):
            torn.add(high)
        else:
            inner = [inner[0] | inner[1]] * 2
        sides = [side | part for side, part in zip(sides, inner, strict=True)]
    return _named_sides(before, after, [sorted(side) for side in sides], common, torn)


def _named_sides(
    before: Shape, after: Shape, sides: list[list[int]], common: list[int], torn: set[int]
) -> Regrouped:
    """Give each stretch between two boundaries a subscript: r where it nests, i and o where it is torn."""
    subscripts: list[dict[tuple[int, int], str]] = [{}, {}]
    for side, (own, tag) in enumerate(zip(sides, "io", strict=True)):
        for low, high in pairwise(own):
            end = next(c for c in common if c >= high)
            subscripts[side][low, high] = f"{tag if end in torn else 'r'}{high}"
    sizes = {name: high // low for side in subscripts for (low, high), name in side.items()}
    return Regrouped(
        _spell(before, subscripts[0]),
        _spell(after, subscripts[1]),
        sizes,
        frozenset(name for name in sizes if name[0] in "io"),
    )


def _spell(shape: Shape, subscripts: dict[tuple[int, int], str]) -> Axes:
    axes: list[tuple[str, ...]] = []
    low = 1
    for size in reversed(shape):
        inside = [
            name for (start, end), name in sorted(subscripts.items()) if low <= start and end <= low * size
        ]
        axes.append(tuple(reversed(inside)))
        low *= size
    return tuple(reversed(axes))


def shape_of_output(index: int) -> Repair:
    """Repair an input that holds the shape of the output; 0, -1 and 1 stay while they are right."""

    def repair(site: Site, shrunk: Shrunk) -> list[Fix]:
        before, wanted = site.value(index), shrunk.outputs[0]
        data = shrunk.inputs[0] if shrunk.inputs else None
        if before is None or wanted is None:
            return []
        wanted = wanted[len(wanted) - len(before) :]
        keep_one = site.op == "Expand"
        new = [
            int(old) if _still_right(int(old), i, size, data, keep_one) else size
            for i, (old, size) in enumerate(zip(before, wanted, strict=True))
        ]
        return [Fix(index, tuple(new))]

    return repair


def _unreadable(site: Site, axes: Axes) -> dict[str, str]:
    """Pin the subscripts of a tensor whose new shape is a value that cannot be repaired."""
    if not site.has(1) or site.value(1) is not None:
        return {}
    return dict.fromkeys(
        (x for axis in axes for x in axis), f"{site.op} to a shape that is computed from data"
    )


def _still_right(old: int, place: int, size: int, data: Shape | None, keep_one: bool) -> bool:
    if old == -1:
        return True
    if old == 0:
        return data is not None and place < len(data) and data[place] == size
    return keep_one and old == 1


@rule("Reshape", facets=Facets(evaluate=moved(values.reshaped), moves=True, gradient=RESHAPED))
def reshape(site: Site) -> Verdict:
    """Regroups axes in row-major order; the target is repaired from what is kept."""
    found = regrouped(site.shape(), site.out())
    if found is None:
        return Pinned("Reshape of an empty tensor")
    reason = f"Reshape from {list(site.shape())} to {list(site.out())} that cuts across channels"
    rest = tuple(None for _ in site.inputs[1:])
    return Signature(
        (found.before, *rest),
        (found.after,),
        sizes=found.sizes,
        pins=dict.fromkeys(found.torn, reason) | _unreadable(site, found.before),
        repair=shape_of_output(1) if site.has(1) else _reshape_attribute,
    )


def _reshape_attribute(site: Site, shrunk: Shrunk) -> list[Fix]:
    wanted, data = shrunk.outputs[0], shrunk.inputs[0]
    assert wanted is not None
    old = site.ints("shape") or []
    return [
        Fix(
            "shape",
            tuple(
                o if _still_right(o, i, s, data, False) else s
                for i, (o, s) in enumerate(zip(old, wanted, strict=True))
            ),
        )
    ]


@rows(REFITS)
def refit(site: Site) -> Verdict:
    """Joins axes, or drops and adds axes of size 1."""
    found = regrouped(site.shape(), site.out())
    if found is None:
        return Pinned(f"{site.op} of an empty tensor")
    rest = tuple(None for _ in site.inputs[1:])
    return Signature((found.before, *rest), (found.after,), sizes=found.sizes, repair=_squeezed_axes)


def _squeezed_axes(site: Site, shrunk: Shrunk) -> list[Fix]:
    """Name the axes that a Squeeze without axes drops, lest it also drops one that shrank to 1."""
    if site.op != "Squeeze" or site.ints("axes", 1) is not None or 1 not in (shrunk.outputs[0] or ()):
        return []
    dropped = tuple(i for i, size in enumerate(site.shape()) if size == 1)
    return [Fix(1 if site.opset >= 13 else "axes", dropped)]


@rule("Transpose", facets=Facets(evaluate=moved(values.turned), moves=True, gradient=TRANSPOSED))
def transpose(site: Site) -> Verdict:
    """Permutes axes."""
    axes = numbered(site.shape())
    perm = site.ints("perm") or list(range(len(axes)))[::-1]
    return Signature((axes,), (tuple(axes[i] for i in perm),))


@rule("Expand", facets=Facets(evaluate=values.expanded))
def expand(site: Site) -> Verdict:
    """Passes the axes it keeps; an axis made from size 1 is created by the node."""
    shape, out = site.shape(), site.out()
    offset = len(out) - len(shape)
    subscripts = [f"x{i}" for i in range(len(out))]
    grown = {i for i, size in enumerate(out) if size > 1 and (i < offset or shape[i - offset] == 1)}
    axes = named(shape, subscripts[offset:])
    unreadable = site.value(1) is None
    return Signature(
        (axes, None),
        (named(out, subscripts),),
        pins=_unreadable(site, axes),
        created=frozenset() if unreadable else frozenset(subscripts[i] for i in grown),
        repair=shape_of_output(1),
    )


@rule("ConstantOfShape", facets=Facets(evaluate=values.filled))
def constant_of_shape(site: Site) -> Verdict:
    """Creates the elements of every axis."""
    axes = numbered(site.out())
    if site.value(0) is None:
        return Signature((None,), (axes,))
    if site.value(0) is None:
        return Signature((None,), (axes,))
    created = frozenset(subscript for axis in axes for subscript in axis)
    return Signature((None,), (axes,), created=created, repair=shape_of_output(0))


@rule("Tile")
def tile(site: Site) -> Verdict:
    """Repeats the labels of an axis; an axis of size 1 becomes one without labels."""
    shape, repeats = site.shape(), site.ints("repeats", 1)
    if repeats is None:
        return Pinned("Tile whose repeats are computed")
    sizes: dict[str, int] = {}
    ins, outs = [], []
    for i, (size, times) in enumerate(zip(shape, repeats, strict=True)):
        subscripts = {f"t{i}": times, f"x{i}": size}
        sizes |= subscripts
        ins.append(packed(**{f"x{i}": size}))
        outs.append(packed(**subscripts))
    return Signature((tuple(ins), *(None for _ in site.inputs[1:])), (tuple(outs),), sizes=sizes)


def _phases(site: Site) -> str:
    """Spell the channels of depth and space: the phases p, q outermost, or innermost in mode CRD."""
    return "cpq" if site.attrs.get("mode", "DCR") == "CRD" else "pqc"


@rule("DepthToSpace")
def depth_to_space(site: Site) -> Verdict:
    """Spreads channels over space; the phases of one output channel live and die together."""
    block = int(site.attrs["blocksize"])
    n, depth, height, width = site.shape()
    sizes = {"n": n, "p": block, "q": block, "c": depth // block**2, "h": height, "w": width}
    channel = packed(**{subscript: sizes[subscript] for subscript in _phases(site)})
    before = (packed(n=n), channel, packed(h=height), packed(w=width))
    after = (packed(n=n), packed(c=sizes["c"]), packed(h=height, p=block), packed(w=width, q=block))
    return Signature((before,), (after,), sizes=sizes, tied=frozenset("pq"))


@rule("SpaceToDepth")
def space_to_depth(site: Site) -> Verdict:
    """Gathers space into channels: each comes back once for each phase; labelled space goes by blocks."""
    block = int(site.attrs["blocksize"])
    n, depth, height, width = site.shape()
    sizes = {"n": n, "p": block, "q": block, "c": depth, "h": height // block, "w": width // block}
    before = (packed(n=n), packed(c=depth), packed(h=sizes["h"], p=block), packed(w=sizes["w"], q=block))
    channel = packed(**{subscript: sizes[subscript] for subscript in _phases(site)})
    after = (packed(n=n), channel, packed(h=sizes["h"]), packed(w=sizes["w"]))
    return Signature((before,), (after,), sizes=sizes, tied=frozenset("pq"))


@rows({"Shape": Facets(from_shape=values.shape_value), "Size": Facets(from_shape=values.size_value)})
def shape(site: Site) -> Verdict:
    """Reads sizes only: followed as values, not as labels."""
    return Signature((None,), tuple(None for _ in site.outputs))


@rule("Range", facets=Facets(evaluate=values.counted))
def count(site: Site) -> Verdict:
    """Counts from one number to another: places, which are no channels."""
    return Signature(tuple(None for _ in site.inputs), (None,))
