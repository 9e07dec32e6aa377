"""Operators that onnxruntime's optimisers make of several: norms with a skip, activations with a bias.

Those of them that onnxruntime's CPU provider can run; the others have no rule and are pinned.

Specification: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md; RotaryEmbedding is
also one of ONNX (https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html).
"""

from __future__ import annotations

from dataclasses import replace

from onnxprune.rules.contraction import conv, gemm, matmul
from onnxprune.rules.elementwise import aligned
from onnxprune.rules.indexing import AT_RUN_TIME
from onnxprune.rules.registry import rule
from onnxprune.rules.signature import (
    Axes,
    Axis,
    Facets,
    Fix,
    Normalisation,
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
from onnxprune.rules.tape import SLOPE

MICROSOFT = "com.microsoft"
EPSILON = 1e-12
SMOOTH = Facets(gradient=SLOPE)


@rule("Gelu", "QuickGelu", domain=MICROSOFT, facets=SMOOTH)
def unary(site: Site) -> Verdict:
    """Labels pass; one input, one output."""
    return Signature((numbered(site.shape()),), (numbered(site.out()),))


@rule("BiasGelu", "FastGelu", domain=MICROSOFT, facets=SMOOTH)
def biased(site: Site) -> Verdict:
    """Adds a vector along the last axis, then Gelu."""
    axes = numbered(site.shape())
    return Signature((axes, (axes[-1],)) if site.has(1) else (axes,), (axes,))


@rule("SkipLayerNormalization", domain=MICROSOFT)
def skip_normalization(site: Site) -> Verdict:
    """Adds a skip, then normalises over the last axis; the statistic is taken over the kept channels."""
    bias = 3 if site.has(3) else None
    return _skip(site, Normalisation(_epsilon(site), scale=2, bias=bias, summed=3, mean=1, inverse=2))


@rule("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_rms_normalization(site: Site) -> Verdict:
    """Adds a skip, then divides by the root mean square over the kept channels of the last axis."""
    return _skip(site, Normalisation(_epsilon(site), centred=False, scale=2, summed=3, inverse=2))


def _epsilon(site: Site) -> float:
    return float(site.attrs.get("epsilon", EPSILON))


def _skip(site: Site, how: Normalisation) -> Signature:
    shape = site.shape()
    axes = numbered(shape)
    params = tuple(aligned(s, shape) if s is not None else None for s in site.inputs[1:])
    statistics = tuple(None if s is None else numbered(s) for s in site.outputs[1:])
    return Signature((axes, *params), (axes, *statistics), normalised=frozenset(axes[-1]), normalisation=how)


@rule("EmbedLayerNormalization", domain=MICROSOFT, facets=Facets(tables={0: 2, 1: 4}))
def embedding(site: Site) -> Verdict:
    """Adds rows of up to three tables, then normalises over the last axis."""
    ids = named(site.shape(), "bs")
    channel = named(site.out(), "bsh")[2:]
    tables = (2, "word"), (3, "place"), (4, "kind")
    looked_up = tuple(
        (*named(site.shape(i)[:1], [subscript]), *channel) if site.has(i) else None for i, subscript in tables
    )
    rest = tuple(named(s, "bs"[2 - len(s) :]) if s is not None else None for s in site.inputs[7:])
    axes: tuple[Axes | None, ...] = ((*ids, *channel), None, (*ids, *channel))
    pins = dict.fromkeys(("word", "place", "kind"), AT_RUN_TIME)
    pins["s"] = "EmbedLayerNormalization counts places along this axis"
    return Signature(
        (ids, ids if site.has(1) else None, *looked_up, channel, channel, *rest),
        axes[: len(site.outputs)],
        pins=pins,
        normalised=frozenset(channel[0]),
        normalisation=Normalisation(_epsilon(site), scale=5, bias=6, summed=2),
    )


@rule("FusedConv", domain=MICROSOFT)
def fused_conv(site: Site) -> Verdict:
    """Conv, then the sum with a tensor like the output, then an activation."""
    verdict = conv(site)
    if isinstance(verdict, Pinned) or not site.has(3):
        return verdict
    bias = verdict.inputs[2:] or (None,)
    return replace(verdict, inputs=(*verdict.inputs[:2], *bias, verdict.outputs[0]))


@rule("FusedGemm", domain=MICROSOFT)
def fused_gemm(site: Site) -> Verdict:
    """Gemm, then an activation."""
    return gemm(site)


@rule("FusedMatMul", domain=MICROSOFT)
def fused_matmul(site: Site) -> Verdict:
    """Matmul of operands whose last two axes may be swapped."""
    if site.attrs.get("transBatchA", 0) or site.attrs.get("transBatchB", 0):
        return Pinned("FusedMatMul that moves the batch axis")
    asked = [bool(site.attrs.get(name, 0)) for name in ("transA", "transB")]
    swapped = [swap and len(site.shape(i)) > 1 for i, swap in enumerate(asked)]
    shapes = tuple(_swapped(site.shape(i)) if swap else site.shape(i) for i, swap in enumerate(swapped))
    verdict = matmul(replace(site, inputs=shapes))
    if isinstance(verdict, Pinned):
        return verdict
    axes = tuple(
        (*a[:-2], a[-1], a[-2]) if swap and a is not None else a
        for a, swap in zip(verdict.inputs, swapped, strict=True)
    )
    return replace(verdict, inputs=axes)


def _swapped(shape: Shape) -> Shape:
    return (*shape[:-2], shape[-1], shape[-2])


@rule("RotaryEmbedding", since=23)
def rotary(site: Site) -> Verdict:
    """Heads pass; the two numbers that are rotated together go together, with their row of the tables."""
    heads = site.shape()[1] if len(site.shape()) == 4 else int(site.attrs.get("num_heads", 0))
    return _rotary(site, heads, (1, 2), 3)


@rule("RotaryEmbedding", domain=MICROSOFT)
def rotary_microsoft(site: Site) -> Verdict:
    """Heads pass; the two numbers that are rotated together go together, with their row of the tables."""
    shape, table = site.shape(), site.shape(2)
    given = int(site.attrs.get("num_heads", 0))
    heads = shape[1] if len(shape) == 4 else given or shape[2] // (2 * table[1])
    if site.attrs.get("is_packed_batching", 0):
        return Pinned("RotaryEmbedding of a packed batch")
    return _rotary(site, heads, (2, 3), 1)


def _rotary(site: Site, heads: int, tables: tuple[int, int], places: int) -> Verdict:
    """Name the axes; `tables` and `places` are the inputs with cosines and sines, and with positions."""
    shape, table = site.shape(), site.shape(tables[0])
    long = len(shape) == 4
    if not heads or (not long and shape[2] % heads):
        return Pinned("RotaryEmbedding whose heads are unknown")
    size, half = shape[-1] if long else shape[2] // heads, table[-1]
    few = packed(h=heads)
    pins = {"place": AT_RUN_TIME}
    if 2 * half == size:
        sizes, dim = {"h": heads, "half": 2, "f": half}, packed(half=2, f=half)
    else:
        sizes, dim = {"h": heads, "d": size}, packed(d=size)
        pins |= dict.fromkeys("df", "only a part of the head is rotated")
    dim = dim[::-1] if site.attrs.get("interleaved", 0) else dim
    batch, along = named((shape[0], shape[2 if long else 1]), "bs")
    axes = (batch, few, along, dim) if long else (batch, along, few + dim)
    inputs: list[Axes | None] = [None] * len(site.inputs)
    inputs[0] = axes
    rows = named(table[:1], ["place"]) if len(table) == 2 else named(table[:2], "bs")
    inputs[tables[0]] = inputs[tables[1]] = (*rows, packed(f=half))
    if site.has(places):
        index = site.shape(places)
        inputs[places] = named(index, "bs") if len(index) == 2 else ((),)
        pins |= {} if len(index) == 2 else {"s": "RotaryEmbedding counts places along this axis"}
    return Signature(
        tuple(inputs), (axes,), sizes=sizes, pins=pins, tied=frozenset(("half",)), repair=_rotated_heads(few)
    )


def _rotated_heads(heads: Axis) -> Repair:
    def repair(site: Site, shrunk: Shrunk) -> list[Fix]:
        return [Fix("num_heads", shrunk.size(heads))] if site.attrs.get("num_heads", 0) else []

    return repair
