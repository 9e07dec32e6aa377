"""Contractions: Conv, ConvTranspose, Gemm, MatMul and Einsum drop the index they sum over.

Specification: https://onnx.ai/onnx/operators/, one page for each (onnx__Conv.html, onnx__Gemm.html).
"""

from __future__ import annotations

from onnxprune.rules import fits, gradients, regressions
from onnxprune.rules.registry import rule
from onnxprune.rules.signature import (
    Axes,
    Facets,
    Pinned,
    Shape,
    Signature,
    Site,
    Verdict,
    attr_size,
    named,
    numbered,
    packed,
)

WINDOW = "{} mixes neighbours along this axis"


def _batch(shape: Shape) -> tuple[str, ...]:
    return ("n",) if shape[0] > 1 else ()


def _spatial(site: Site, weight: Shape) -> tuple[Axes, Axes, Axes, dict[str, str]]:
    """Name the spatial axes of input, kernel and output; a 1-wide kernel lets them pass."""
    rank = len(weight) - 2
    strides, _, pads = regressions.sliding(site.attrs, rank)
    before, after = list(site.shape()[2:]), list(site.out()[2:])
    ins, outs, pins = [], [], {}
    for i in range(rank):
        passes = weight[2 + i] == 1 and strides[i] == 1 and not pads[i] and not pads[rank + i]
        passes = passes and before[i] == after[i] and "auto_pad" not in site.attrs
        ins.append(f"o{i}" if passes else f"i{i}")
        outs.append(f"o{i}")
        if not passes:
            pins[f"i{i}"] = WINDOW.format(site.op)
    kernel = [f"k{i}" for i in range(rank)]
    pins |= dict.fromkeys(kernel, "")
    return named(tuple(before), ins), named(weight[2:], kernel), named(tuple(after), outs), pins


@rule(
    "Conv",
    facets=Facets(fits=fits.convolution, gradient=gradients.CONVOLVED, regression=regressions.convolution),
)
def conv(site: Site) -> Verdict:
    """W is [C_out, C_in/g, k…]; the channel axes split into groups, which `group` follows."""
    shape, weight = site.shape(), site.shape(1)
    g = int(site.attrs.get("group", 1))
    sizes = {"g": g, "m": weight[0] // g, "c": weight[1]}
    if g * sizes["c"] != shape[1] or g * sizes["m"] != weight[0]:
        return Pinned("Conv whose channels do not fit its groups")
    filters = (packed(g=g, m=sizes["m"]), packed(c=sizes["c"]))
    return _convolution(site, sizes, filters)


@rule("ConvTranspose", facets=Facets(fits=fits.transposed_convolution))
def conv_transpose(site: Site) -> Verdict:
    """W is [C_in, C_out/g, k…]; output channels of different groups are different channels."""
    shape, weight = site.shape(), site.shape(1)
    g = int(site.attrs.get("group", 1))
    sizes = {"g": g, "c": shape[1] // g, "m": weight[1]}
    if weight[0] != shape[1] or g * sizes["c"] != shape[1]:
        return Pinned("ConvTranspose whose channels do not fit its groups")
    filters = (packed(g=g, c=sizes["c"]), packed(m=sizes["m"]))
    return _convolution(site, sizes, filters)


def _convolution(site: Site, sizes: dict[str, int], filters: Axes) -> Signature:
    """Sum over c inside each group g; W slides over the input, or over the output when transposed."""
    shape, g = site.shape(), sizes["g"]
    ins, kernel, outs, pins = _spatial(site, site.shape(1))
    channel = packed(g=g, m=sizes["m"])
    bias = ((channel,),) if site.has(2) else ()
    slid_over = ins if site.op == "ConvTranspose" else outs
    return Signature(
        ((_batch(shape), packed(g=g, c=sizes["c"]), *ins), (*filters, *kernel), *bias),
        ((_batch(shape), channel, *outs),),
        sizes=sizes,
        pins=pins,
        macs=("n", "g", "m", "c", *(subscript for axis in (*kernel, *slid_over) for subscript in axis)),
        repair=attr_size("group", packed(g=g)) if g > 1 else None,
    )


@rule("Gemm", facets=Facets(fits=fits.gemm, gradient=gradients.DENSE, regression=regressions.matrix))
def gemm(site: Site) -> Verdict:
    """A [M, K] times B [K, N], either transposed, plus a C that broadcasts to [M, N]."""
    left = "km" if site.attrs.get("transA", 0) else "mk"
    right = "nk" if site.attrs.get("transB", 0) else "kn"
    inputs = [named(site.shape(0), left), named(site.shape(1), right)]
    if site.has(2):
        inputs.append(named(site.shape(2), "mn"[2 - len(site.shape(2)) :]))
    return Signature(tuple(inputs), (named(site.out(), "mn"),), macs=("m", "k", "n"))


@rule(
    "MatMul",
    facets=Facets(fits=fits.matmul, gradient=gradients.MULTIPLIED, regression=regressions.matrix, outer=True),
)
def matmul(site: Site) -> Verdict:
    """Numpy's matmul: leading axes broadcast, the inner axis is summed over."""
    a, b = site.shape(0), site.shape(1)
    batch = max(len(a), len(b), 2) - 2
    axes_a = numbered(a[:-2], "b", batch - len(a[:-2])) + named(a[-2:], "mk"[2 - len(a[-2:]) :])
    axes_b = numbered(b[:-2], "b", batch - len(b[:-2])) + named(b[-2:], "kn" if len(b) > 1 else "k")
    lead = numbered(site.out()[:batch], "b")
    tail = tuple(
        ((name,) if size > 1 else ())
        for name, size in (("m", a[-2] if len(a) > 1 else 0), ("n", b[-1] if len(b) > 1 else 0))
        if size
    )
    subscripts = tuple(f"b{i}" for i in range(batch))
    return Signature((axes_a, axes_b), (lead + tail,), macs=(*subscripts, "m", "k", "n"))


@rule("Einsum")
def einsum(site: Site) -> Verdict:
    """The equation is the signature; a subscript left out of the output is summed over."""
    left, arrow, right = str(site.attrs["equation"]).replace(" ", "").partition("->")
    terms = [_spelled(term, len(site.shape(i))) for i, term in enumerate(left.split(","))]
    every = [subscript for term in terms for subscript in term]
    if arrow:
        out = _spelled(right, len(site.out()))
    else:
        dots = {x for x in every if not x.isalpha()}
        out = sorted(dots, key=int) + sorted(x for x in every if x.isalpha() and every.count(x) == 1)
    twice = {x for term in terms for x in term if term.count(x) > 1}
    pins = dict.fromkeys(twice | {f"{x}'" for x in twice}, "Einsum takes a diagonal along this axis")
    inputs = tuple(named(site.shape(i), _told_apart(term)) for i, term in enumerate(terms))
    first, *rest = _products(terms, out)
    return Signature(
        inputs,
        (named(site.out(), out),),
        pins=pins,
        macs=first if len(terms) > 1 else (),
        more_macs=tuple(rest),
    )


def _spelled(term: str, rank: int) -> list[str]:
    """List the subscripts of a term; the axes of an ellipsis are numbered, and meet at the right."""
    front, dots, back = term.partition("...")
    count = rank - len(front) - len(back) if dots else 0
    return [*front, *(str(-i) for i in range(count, 0, -1)), *back]


def _told_apart(term: list[str]) -> list[str]:
    return [x if x not in term[:i] else f"{x}'" for i, x in enumerate(term)]


def _products(terms: list[list[str]], out: list[str]) -> list[tuple[str, ...]]:
    """List what is multiplied when the operands are contracted one after the other."""
    found, running = [], set(terms[0])
    for place, term in enumerate(terms[1:], start=2):
        running |= set(term)
        found.append(tuple(sorted(running)))
        running &= set(out).union(*terms[place:])
    return found or [()]
