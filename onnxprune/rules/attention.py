"""Attention in one node: heads pass, the head dimension of Q and K is summed over inside.

Letters: b batch, s queries, t keys and values, h heads of K and V, r heads of Q per head of K and V,
d the head dimension of Q and K, e that of V. Query head i reads head i // r of K and V (Ainslie et al.
2023, arXiv:2305.13245), so the heads of Q are (h r).

Specification: https://onnx.ai/onnx/operators/onnx__Attention.html and, in the domain com.microsoft,
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from onnxprune.rules.indexing import AT_RUN_TIME
from onnxprune.rules.registry import rule
from onnxprune.rules.signature import (
    Axes,
    Axis,
    Fix,
    Pinned,
    Repair,
    Shape,
    Shrunk,
    Signature,
    Site,
    Verdict,
    packed,
)

MICROSOFT = "com.microsoft"
SOFTMAX = "the Softmax of {} runs over this axis"
CAUSAL = "the mask of {} follows the places along this axis"
KEPT_APART = "{} reads it along the whole batch"
STEP = 8


def _one(size: int, subscript: str) -> Axis:
    return (subscript,) if size > 1 else ()


def states(shape: Shape, heads: Axis, along: str, inner: Axis) -> Axes:
    """Name the axes of [B, S, heads x dim] or [B, heads, S, dim]."""
    if len(shape) == 4:
        return _one(shape[0], "b"), heads, _one(shape[2], along), inner
    return _one(shape[0], "b"), _one(shape[1], along), heads + inner


def scores(shape: Shape, heads: Axis, keys: str) -> Axes:
    """Name the axes of what is added to the scores [B, heads, S, T]; it broadcasts to the right."""
    names: list[Axis] = [("b",), heads, ("s",), (keys,)]
    tail = names[4 - len(shape) :]
    return tuple(axis if size > 1 else () for axis, size in zip(tail, shape, strict=True))


def _optional(site: Site, index: int, name: Callable[[Shape], Axes]) -> Axes | None:
    return name(site.shape(index)) if site.has(index) else None


def _outputs(site: Site, *named: Callable[[Shape], Axes]) -> tuple[Axes | None, ...]:
    return tuple(
        None if shape is None else name(shape) for shape, name in zip(site.outputs, named, strict=False)
    )


def _pins(site: Site, keys: str, causal: bool) -> dict[str, str]:
    pins = {"past": f"{site.op} appends to its cache along this axis"}
    pins |= dict.fromkeys(("t", keys), SOFTMAX.format(site.op))
    return pins | ({"s": CAUSAL.format(site.op)} if causal else {})


def _windowed(site: Site) -> bool:
    """Tell whether a query sees the keys of a window only, which lies around its place."""
    return any(int(site.attrs.get(f"{side}_window_size", -1)) >= 0 for side in ("left", "right"))


def _size(shape: Shape, heads: int) -> int:
    return shape[3] if len(shape) == 4 else shape[2] // max(heads, 1)


def resized(counts: Mapping[str, Axis], dim: Axis, full: int) -> Repair:
    """Repair the numbers of heads; where the head dimension shrinks the scale stays what it was.

    counts: subscripts by attribute; dim: the subscripts of the head dimension, whose size was `full`.
    """

    def repair(site: Site, shrunk: Shrunk) -> list[Fix]:
        fixes = [Fix(attr, shrunk.size(axis)) for attr, axis in counts.items() if site.attrs.get(attr)]
        if shrunk.size(dim) != full and not site.attrs.get("scale"):
            fixes.append(Fix("scale", 1 / math.sqrt(full)))
        return fixes

    return repair


@rule("Attention", since=23)
def attention(site: Site) -> Verdict:
    """Heads pass, a head of K and V with its heads of Q; the scale stays where the head dimension goes."""
    q, k, v = site.shape(0), site.shape(1), site.shape(2)
    heads = int(site.attrs.get("q_num_heads", 0)) if len(q) == 3 else q[1]
    groups = int(site.attrs.get("kv_num_heads", 0)) if len(k) == 3 else k[1]
    if not heads or not groups or heads % groups or (len(q) == 3 and q[2] % heads):
        return Pinned("Attention whose heads do not fit its inputs")
    sizes = {"h": groups, "r": heads // groups, "d": _size(q, heads), "e": _size(v, groups)}
    many, few = packed(h=groups, r=sizes["r"]), packed(h=groups)
    dim, out = packed(d=sizes["d"]), packed(e=sizes["e"])
    keys = "total" if site.has(4) else "t"
    return Signature(
        (
            states(q, many, "s", dim),
            states(k, few, "t", dim),
            states(v, few, "t", out),
            _optional(site, 3, lambda shape: scores(shape, many, keys)),
            _optional(site, 4, lambda shape: states(shape, few, "past", dim)),
            _optional(site, 5, lambda shape: states(shape, few, "past", out)),
            _optional(site, 6, lambda shape: (_one(shape[0], "b"),)),
        ),
        _outputs(
            site,
            lambda shape: states(shape, many, "s", out),
            lambda shape: states(shape, few, keys, dim),
            lambda shape: states(shape, few, keys, out),
            lambda shape: scores(shape, many, keys),
        ),
        sizes=sizes,
        pins=_pins(site, keys, bool(site.attrs.get("is_causal", 0)) or _windowed(site)),
        inner=frozenset("d"),
        macs=("b", "s", "t", "h", "r", "d"),
        more_macs=(("b", "s", "t", "h", "r", "e"),),
        repair=resized({"q_num_heads": many, "kv_num_heads": few}, dim, sizes["d"]),
    )


@rule("Attention", domain=MICROSOFT)
def packed_attention(site: Site) -> Verdict:
    """Q, K and V are columns of one weight: what goes of one head goes of all three."""
    x, weight = site.shape(0), site.shape(1)
    parts, heads = site.attrs.get("qkv_hidden_sizes") or [weight[1] // 3] * 3, int(site.attrs["num_heads"])
    if len(set(parts)) > 1 or weight[1] != 3 * parts[0] or parts[0] % heads:
        return Pinned("Attention whose Q, K and V are of different sizes in one weight")
    if site.attrs.get("do_rotary", 0) or site.has(6) or not site.has(2):
        return Pinned("Attention with rotary embedding, a shared buffer or no bias")
    sizes = {"j": 3, "h": heads, "d": parts[0] // heads, "t": x[1]}
    few, dim, keys = packed(h=heads), packed(d=sizes["d"]), "total" if site.has(4) else "t"
    rows, columns = _one(x[2], "i"), ("j", *few, *dim)
    whole = {"b": KEPT_APART.format(site.op)} if site.has(3) else {}
    return Signature(
        (
            (_one(x[0], "b"), _one(x[1], "s"), rows),
            (rows, columns),
            (columns,),
            None,
            _optional(site, 4, lambda shape: (("kv",), *states(shape[1:], few, "past", dim))),
            _optional(site, 5, lambda shape: scores(shape, few, keys)),
        ),
        _outputs(
            site,
            lambda shape: states(shape, few, "s", dim),
            lambda shape: (("kv",), *states(shape[1:], few, keys, dim)),
        ),
        sizes=sizes,
        pins={**_pins(site, keys, True), **whole},
        tied=frozenset("j"),
        inner=frozenset("d"),
        macs=("b", "s", "i", "j", "h", "d"),
        more_macs=(("b", "s", "t", "h", "d"),) * 2,
        repair=_with_hidden_sizes(resized({"num_heads": few}, dim, sizes["d"]), few + dim),
    )


def _with_hidden_sizes(inner: Repair, hidden: Axis) -> Repair:
    def repair(site: Site, shrunk: Shrunk) -> list[Fix]:
        listed = site.attrs.get("qkv_hidden_sizes")
        sizes = [Fix("qkv_hidden_sizes", (shrunk.size(hidden),) * 3)] if listed else []
        return inner(site, shrunk) + sizes

    return repair


@rule("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(site: Site) -> Verdict:
    """Heads pass; one bias for Q, K and V ties their head dimensions."""
    if not site.has(1) or not site.has(2) or len(site.shape(1)) == 5 or site.has(8) or site.has(9):
        return Pinned("MultiHeadAttention with packed inputs or a shared buffer")
    q, k, v = site.shape(0), site.shape(1), site.shape(2)
    heads = int(site.attrs["num_heads"])
    sizes = {"j": 3, "h": heads, "d": q[2] // heads, "e": _size(v, heads)}
    if site.has(3) and sizes["d"] != sizes["e"]:
        return Pinned("MultiHeadAttention with one bias for head dimensions of two sizes")
    few, dim = packed(h=heads), packed(d=sizes["d"])
    alike = site.has(3) or site.has(6) or len(k) == 4
    out = dim if alike else packed(e=sizes["e"])
    keys = "total" if site.has(6) else "t"
    flat = site.has(4) and len(site.shape(4)) == 1
    return Signature(
        (
            states(q, few, "s", dim),
            states(k, few, "t", dim),
            states(v, few, "t", out),
            ((("j", *few, *dim),) if site.has(3) else None),
            None if flat else _optional(site, 4, lambda shape: (_one(shape[0], "b"), _one(shape[1], keys))),
            _optional(site, 5, lambda shape: scores(shape, few, keys)),
            _optional(site, 6, lambda shape: states(shape, few, "past", dim)),
            _optional(site, 7, lambda shape: states(shape, few, "past", out)),
        ),
        _outputs(
            site,
            lambda shape: states(shape, few, "s", out),
            lambda shape: states(shape, few, keys, dim),
            lambda shape: states(shape, few, keys, out),
            lambda shape: scores(shape, few, keys),
        ),
        sizes=sizes,
        pins=_pins(site, keys, bool(site.attrs.get("unidirectional", 0)))
        | ({"b": KEPT_APART.format(site.op)} if flat else {}),
        tied=frozenset("j"),
        inner=frozenset("d"),
        macs=("b", "s", "t", "h", "d"),
        more_macs=(("b", "s", "t", "h", "d" if alike else "e"),),
        repair=resized({"num_heads": few}, dim, sizes["d"]),
    )


@rule("GroupQueryAttention", domain=MICROSOFT)
def group_query_attention(site: Site) -> Verdict:
    """A head of K and V goes with its heads of Q; head dimensions go by eights, halves together."""
    heads, groups = int(site.attrs["num_heads"]), int(site.attrs["kv_num_heads"])
    if not site.has(1) or any(site.has(i) for i in (12, 13, 14, 15)):
        return Pinned("GroupQueryAttention with packed inputs, a quantised cache or norms inside")
    q, k = site.shape(0), site.shape(1)
    rotary, size = bool(site.attrs.get("do_rotary", 0)), q[2] // heads
    halves = 2 if rotary else 1
    even = halves == 1 or (not site.attrs.get("rotary_interleaved", 0) and site.has(7))
    if size % (STEP * halves) or not even or (site.has(7) and site.shape(7)[1] * 2 != size):
        return Pinned("GroupQueryAttention whose head dimension cannot be cut in steps")
    few, many = packed(h=groups), packed(h=groups, r=heads // groups)
    steps = size // STEP // halves
    sizes = {"h": groups, "r": heads // groups, "half": halves, "d": steps, "e": STEP, "t": k[1]}
    dim = packed(half=halves, d=steps, e=STEP)
    table = _optional(site, 7, lambda shape: (_one(shape[0], "place"), packed(d=steps, e=STEP)))
    return Signature(
        (
            states(q, many, "s", dim),
            states(k, few, "t", dim),
            states(site.shape(2), few, "t", dim),
            _optional(site, 3, lambda shape: states(shape, few, "past", dim)),
            _optional(site, 4, lambda shape: states(shape, few, "past", dim)),
            _optional(site, 5, lambda shape: tuple(_one(size, "b") for size in shape)),
            None,
            table,
            table,
            None,
            _optional(site, 10, lambda shape: scores(shape, many, "total")),
            _optional(site, 11, lambda _: (many,)),
        ),
        _outputs(
            site,
            lambda shape: states(shape, many, "s", dim),
            lambda shape: states(shape, few, "total", dim),
            lambda shape: states(shape, few, "total", dim),
            lambda shape: scores(shape, many, "total"),
        ),
        sizes=sizes,
        pins=_pins(site, "total", True) | {"place": AT_RUN_TIME},
        tied=frozenset(("half", "e")),
        inner=frozenset("d"),
        macs=("b", "s", "t", "h", "r", "half", "d", "e"),
        more_macs=(("b", "s", "t", "h", "r", "half", "d", "e"),),
        repair=resized({"num_heads": many, "kv_num_heads": few}, dim, size),
    )
