"""Quantised operators: codes stand for real numbers, (q - zero) * scale, and a removed code reads zero.

Scales and zero points hold one value for a tensor, for each index of an axis, or for each block of it;
then they are cut along with it.

Specification: https://onnx.ai/onnx/operators/ (onnx__QuantizeLinear.html, onnx__QLinearConv.html) and, in the
domain com.microsoft, https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxprune.rules.contraction import conv, gemm, matmul
from onnxprune.rules.elementwise import broadcasting, unary
from onnxprune.rules.normalisation import softmax_1, softmax_13
from onnxprune.rules.reduction import global_pool, pool
from onnxprune.rules.registry import RuleFunction, rows, rule
from onnxprune.rules.selection import concat
from onnxprune.rules.signature import (
    Axes,
    Axis,
    Code,
    Facets,
    Pinned,
    Quantisation,
    Shape,
    Signature,
    Site,
    Verdict,
    attr_size,
    numbered,
    positive,
)

MICROSOFT = "com.microsoft"
LINEAR = {
    "QuantizeLinear": Facets(quantisation=Quantisation(decodes=False)),
    "DequantizeLinear": Facets(quantisation=Quantisation(decodes=True), coded=(0,)),
}


def _whole(shape: Shape) -> Axes:
    return tuple(() for _ in shape)


def _subscripts(axes: Axes) -> frozenset[str]:
    return frozenset(subscript for axis in axes for subscript in axis)


def _along(shape: Shape, axes: Axes, place: int) -> Axes | None:
    """Name a scale or zero point: one value, one for each index of an axis, or of the operand's rank."""
    if all(size == 1 for size in shape):
        return _whole(shape)
    if len(shape) == 1:
        return (axes[place],)
    if len(shape) != len(axes):
        return None
    return tuple(axis if size > 1 else () for size, axis in zip(shape, axes, strict=True))


def _blocked(axes: Axes, axis: int, block: int, size: int) -> tuple[Axes, Axes] | None:
    """Split an axis into blocks of one size each; None where the last one is shorter."""
    if size % block:
        return None
    own: Axis = tuple(x for x, n in (("block", size // block), ("inside", block)) if n > 1)
    scale: Axis = ("block",) if size > block else ()
    return (*axes[:axis], own, *axes[axis + 1 :]), (*axes[:axis], scale, *axes[axis + 1 :])


@rows(LINEAR, since=10)
@rows(LINEAR, domain=MICROSOFT)
def linear(site: Site) -> Verdict:
    """Labels pass; scale and zero point follow the axis, or the blocks, that they hold values for."""
    shape = site.shape()
    axes = params = numbered(shape)
    axis = positive(int(site.attrs.get("axis", 1)), max(len(shape), 1))
    block = int(site.attrs.get("block_size", 0))
    sizes: dict[str, int] = {}
    if block:
        split = _blocked(axes, axis, block, shape[axis])
        if split is None:
            return Pinned(f"{site.op} whose blocks are of unequal length")
        axes, params = split
        sizes = {"block": shape[axis] // block, "inside": block}
    inputs: list[Axes | None] = [axes]
    for place in range(1, len(site.inputs)):
        named = _along(site.shape(place), params, axis) if site.has(place) else None
        if named is None and site.has(place):
            return Pinned(f"{site.op} whose scales {list(site.shape(place))} do not fit {list(shape)}")
        inputs.append(named)
    decodes = site.op == "DequantizeLinear"
    codes = {0: Code(1, 2 if site.has(2) else None)} if decodes else {}
    repair = attr_size("block_size", ("inside",) if block > 1 else ()) if block else None
    return Signature(
        tuple(inputs), (axes,), sizes=sizes, codes=codes, repair=repair,
        ranged=_subscripts(axes) if decodes else frozenset(),
    )  # fmt: skip


@rule("DynamicQuantizeLinear", since=11, facets=Facets(quantisation=Quantisation(decodes=False, zero=2)))
def dynamic(site: Site) -> Verdict:
    """Labels pass; zero is always in the range of the quantisation, so a removed element reads 0."""
    axes = numbered(site.shape())
    scalars = tuple(() if shape is not None else None for shape in site.outputs[1:])
    return Signature((axes,), (axes, *scalars), ranged=_subscripts(axes))


# -- operators of floats, on codes ---------------------------------------------------------------------------
def _inner(site: Site, op: str, places: Sequence[int], function: RuleFunction) -> Verdict:
    """Read the operands at these places as a float operator would, and put their axes back in place."""

    def chosen(given: Sequence) -> tuple:
        return tuple(given[p] if p < len(given) else None for p in places)

    small = replace(
        site, op=op, domain="", inputs=chosen(site.inputs), values=chosen(site.values),
        marks=chosen(site.marks),
    )  # fmt: skip
    verdict = function(small)
    if isinstance(verdict, Pinned):
        return verdict
    inputs: list[Axes | None] = [None] * len(site.inputs)
    for place, axes in zip(places, verdict.inputs, strict=False):
        if place < len(inputs):
            inputs[place] = axes
    return replace(verdict, inputs=tuple(inputs))


def _coded(
    site: Site, verdict: Verdict, codes: dict[int, tuple[int | None, int | None]], along: dict[int, int]
) -> Verdict:
    """Add scales and zero points to a signature.

    codes: scale and zero by the input that they belong to; along: the axis for which a vector of them
    holds values, by the same input.
    """
    if isinstance(verdict, Pinned):
        return verdict
    inputs, found = list(verdict.inputs), {}
    for place, params in codes.items():
        axes = inputs[place] if place < len(inputs) else None
        if axes is None:
            continue
        present = [p if p is not None and site.has(p) else None for p in params]
        for param in present:
            if param is not None:
                named = _along(site.shape(param), axes, along.get(place, 0))
                if named is None:
                    return Pinned(f"{site.op} whose scales do not fit its operands")
                inputs[param] = named
        found[place] = Code(*present)
    return replace(verdict, inputs=tuple(inputs), codes=found)


@rule("QLinearConv", since=10, facets=Facets(coded=(3, 8)))
def qlinear_conv(site: Site) -> Verdict:
    """A Conv of codes; W's scales and zero points follow its output channels."""
    verdict = _inner(site, "Conv", (0, 3, 8), conv)
    return _coded(site, verdict, {0: (1, 2), 3: (4, 5)}, {})


@rule("ConvInteger", since=10, facets=Facets(coded=(1,)))
def conv_integer(site: Site) -> Verdict:
    """A Conv of codes into int32; W's zero points follow its output channels."""
    verdict = _inner(site, "Conv", (0, 1, len(site.inputs)), conv)
    return _coded(site, verdict, {0: (None, 2), 1: (None, 3)}, {})


@rule("QLinearMatMul", since=10, facets=Facets(coded=(0, 3)))
def qlinear_matmul(site: Site) -> Verdict:
    """A MatMul of codes; scales follow the rows of A and the columns of B."""
    verdict = _coded(site, _inner(site, "MatMul", (0, 3), matmul), {0: (1, 2), 3: (4, 5)}, {0: -2, 3: -1})
    return _result_scaled(site, verdict, (6, 7))


@rule("MatMulInteger", since=10, facets=Facets(coded=(0, 1)))
def matmul_integer(site: Site) -> Verdict:
    """A MatMul of codes into int32; zero points follow the rows of A and the columns of B."""
    verdict = _inner(site, "MatMul", (0, 1), matmul)
    return _coded(site, verdict, {0: (None, 2), 1: (None, 3)}, {0: -2, 1: -1})


def _result_scaled(site: Site, verdict: Verdict, places: Sequence[int]) -> Verdict:
    """Freeze an operator whose result has more than one scale; none of its channels can be told apart."""
    vectors = [p for p in places if site.has(p) and any(size > 1 for size in site.shape(p))]
    return Pinned(f"{site.op} whose result has a scale for each row") if vectors else verdict


@rule("QGemm", domain=MICROSOFT, facets=Facets(coded=(0, 3, 6)))
def qgemm(site: Site) -> Verdict:
    """A Gemm of codes; B's scales and zero points follow its output channels."""
    verdict = _inner(site, "Gemm", (0, 3, 6), gemm)
    column = 0 if site.attrs.get("transB", 0) else 1
    verdict = _coded(site, verdict, {0: (1, 2), 3: (4, 5)}, {0: 0, 3: column})
    return _result_scaled(site, verdict, (7, 8))


@rule("MatMulIntegerToFloat", domain=MICROSOFT, facets=Facets(coded=(0, 1)))
def matmul_integer_to_float(site: Site) -> Verdict:
    """A MatMul of codes into floats, plus a bias for each column."""
    verdict = _inner(site, "MatMul", (0, 1), matmul)
    verdict = _coded(site, verdict, {0: (2, 4), 1: (3, 5)}, {0: -2, 1: -1})
    return _with_bias(site, verdict, 6)


@rule("DynamicQuantizeMatMul", domain=MICROSOFT, facets=Facets(coded=(1,)))
def dynamic_quantize_matmul(site: Site) -> Verdict:
    """Quantises A by its range, to which zero belongs, and multiplies it by codes; adds a bias."""
    verdict = _coded(site, _inner(site, "MatMul", (0, 1), matmul), {1: (2, 3)}, {1: -1})
    verdict = _with_bias(site, verdict, 4)
    if isinstance(verdict, Pinned):
        return verdict
    return replace(verdict, ranged=_subscripts(verdict.inputs[0] or ()))


def _with_bias(site: Site, verdict: Verdict, place: int) -> Verdict:
    if isinstance(verdict, Pinned) or not site.has(place):
        return verdict
    inputs = list(verdict.inputs)
    columns = (verdict.outputs[0] or ((),))[-1]
    inputs[place] = (columns,) if site.shape(place)[0] > 1 else ((),)
    return replace(verdict, inputs=tuple(inputs))


@rule("QLinearAdd", "QLinearMul", domain=MICROSOFT, facets=Facets(coded=(0, 3)))
def qlinear_binary(site: Site) -> Verdict:
    """Labels that meet at the same index are tied; scales hold one value for a tensor."""
    verdict = _inner(site, site.op.removeprefix("QLinear"), (0, 3), broadcasting)
    return _coded(site, verdict, {0: (1, 2), 3: (4, 5)}, {})


@rule("QLinearSigmoid", "QLinearLeakyRelu", domain=MICROSOFT)
def qlinear_unary(site: Site) -> Verdict:
    """Labels pass; scales hold one value for a tensor."""
    verdict = _inner(site, site.op.removeprefix("QLinear"), (0,), unary)
    return _coded(site, verdict, {0: (1, 2)}, {})


@rule("QLinearGlobalAveragePool", "QLinearAveragePool", domain=MICROSOFT)
def qlinear_pool(site: Site) -> Verdict:
    """Channels pass; spatial axes are reduced or go under a window."""
    if site.attrs.get("channels_last", 0):
        return Pinned(f"{site.op} with channels in the last place")
    every = site.op == "QLinearGlobalAveragePool"
    verdict = _inner(site, site.op.removeprefix("QLinear"), (0,), global_pool if every else pool)
    return _coded(site, verdict, {0: (1, 2)}, {})


@rule("QLinearSoftmax", domain=MICROSOFT)
def qlinear_softmax(site: Site) -> Verdict:
    """Pins the axes it runs over: one, or all from `axis` on where its `opset` is below 13."""
    old = int(site.attrs.get("opset", 13)) < 13
    verdict = _inner(site, "Softmax", (0,), softmax_1 if old else softmax_13)
    return _coded(site, verdict, {0: (1, 2)}, {})


@rule("QLinearWhere", domain=MICROSOFT, facets=Facets(coded=(1, 4)))
def qlinear_where(site: Site) -> Verdict:
    """Labels that meet at the same index are tied; scales hold one value for a tensor."""
    verdict = _inner(site, "Where", (0, 1, 4), broadcasting)
    return _coded(site, verdict, {1: (2, 3), 4: (5, 6)}, {})


@rule("QLinearConcat", domain=MICROSOFT)
def qlinear_concat(site: Site) -> Verdict:
    """Joins labels along the axis; every part has a scale and zero point of its own."""
    places = range(2, len(site.inputs), 3)
    return _coded(site, _inner(site, "Concat", places, concat), {p: (p + 1, p + 2) for p in places}, {})


@rule("MatMulNBits", domain=MICROSOFT, facets=Facets(coded=(1,)))
def matmul_nbits(site: Site) -> Verdict:
    """Output channels may go, N follows; weights are packed in blocks along the input channels."""
    columns = int(site.attrs["N"])
    axes = numbered(site.shape())
    inputs: list[Axes | None] = [axes, _per_column(site.shape(1), columns, 1, {})]
    if columns == 1:
        return Pinned("MatMulNBits with one output channel")
    pins = dict.fromkeys(axes[-1], "MatMulNBits packs its weights in blocks along this axis")
    sizes = {"n": columns}
    for place in range(2, len(site.inputs)):
        shape = site.inputs[place]
        if shape is None or place == 4:
            inputs.append(None)
            continue
        inputs.append(_per_column(shape, columns, place, sizes))
    pins |= {x: "" for axes_ in inputs[1:] if axes_ for axis in axes_ for x in axis if x != "n"}
    out = (*axes[:-1], ("n",))
    macs = (*(x for axis in axes for x in axis), "n")
    return Signature(tuple(inputs), (out,), sizes=sizes, pins=pins, macs=macs, repair=attr_size("N", ("n",)))


def _per_column(shape: Shape, columns: int, place: int, sizes: dict[str, int]) -> Axes:
    """Name a tensor of as many values for each column, in one axis or in two."""
    if len(shape) > 1:
        return (("n",), *((f"p{place}{i}",) if n > 1 else () for i, n in enumerate(shape[1:])))
    if shape[0] == columns:
        return (("n",),)
    sizes[f"p{place}"] = shape[0] // columns
    return (("n", f"p{place}"),)


@rule("GatherBlockQuantized", domain=MICROSOFT, facets=Facets(coded=(0,)))
def gather_block_quantized(_site: Site) -> Verdict:
    """Freezes its indices' labels; the table is packed in blocks, several codes to a byte."""
    return Pinned("GatherBlockQuantized reads a table that is packed in blocks")
