"""What reads an image at places that are computed: GridSample, RoiAlign, DeformConv.

Channels pass, or are summed over as in a Conv; the axes that are read at computed places are pinned, and
so are those that hold the places.

Specification: https://onnx.ai/onnx/operators/, one page for each (onnx__GridSample.html, onnx__RoiAlign.html,
onnx__DeformConv.html; deformable convolution: Dai et al. 2017, arXiv:1703.06211, and Zhu et al. 2019,
arXiv:1811.11168).
"""

from __future__ import annotations

from math import gcd

from onnxprune.rules import fits
from onnxprune.rules.registry import rule
from onnxprune.rules.signature import (
    Axes,
    Facets,
    Fix,
    Pinned,
    Repair,
    Shrunk,
    Signature,
    Site,
    Verdict,
    named,
    packed,
)

SAMPLED = "{} reads this axis at places that are computed"
PLACES = "holds the places that {} reads"
COUNTED = "{} counts places along this axis"
MICROSOFT = "com.microsoft"


@rule("GridSample", domain=MICROSOFT)
@rule("GridSample", since=16)
def grid_sample(site: Site) -> Verdict:
    """Channels pass; rows of the grid pass, too, and the axes that it is read at are pinned."""
    shape, grid, out = site.shape(), site.shape(1), site.out()
    before, after = [f"i{i}" for i in range(len(shape) - 2)], [f"o{i}" for i in range(len(out) - 2)]
    pins = dict.fromkeys(before, SAMPLED.format(site.op)) | {"place": PLACES.format(site.op)}
    return Signature(
        (named(shape, ["n", "c", *before]), named(grid, ["n", *after, "place"])),
        (named(out, ["n", "c", *after]),),
        pins=pins,
    )


@rule("MaxRoiPool", "RoiAlign")
def roi_align(site: Site) -> Verdict:
    """Channels pass, and so do regions; the axes that regions are cut from are pinned."""
    shape = site.shape()
    pins = dict.fromkeys(("n", "h", "w"), SAMPLED.format(site.op)) | {"place": PLACES.format(site.op)}
    regions = named(site.shape(1), ["r", "place"])
    images = (regions[:1],) if site.has(2) else ()
    return Signature(
        (named(shape, ["n", "c", "h", "w"]), regions, *images),
        (named(site.out(), ["r", "c", "oh", "ow"]),),
        pins=pins,
    )


@rule("DeformConv", since=19, facets=Facets(fits=fits.convolution))
def deform_conv(site: Site) -> Verdict:
    """A Conv with offsets for each tap; groups of channels share them, the last axes of a joint split.

    W is [C_out, C_in/g, kH, kW], the offsets are [N, 2 kH kW groups, oH, oW].
    """
    shape, weight = site.shape(), site.shape(1)
    groups, shared = int(site.attrs.get("group", 1)), int(site.attrs.get("offset_group", 1))
    both = gcd(groups, shared)
    taps = weight[2] * weight[3]
    sizes = {"s": both, "g": groups // both, "q": shared // both, "m": weight[0] // groups}
    sizes |= {"c": weight[1] * both // shared, "two": 2 * taps, "tap": taps}
    if (
        min(groups, shared) != both
        or weight[1] * groups != shape[1]
        or sizes["c"] * max(groups, shared) != shape[1]
    ):
        return Pinned("DeformConv whose groups of weights and of offsets do not nest")
    joint = {x: sizes[x] for x in "sgq"}
    kernel = named(weight[2:], ["k0", "k1"])
    after = named(site.out()[2:], ["o0", "o1"])
    batch = named(shape[:1], ["n"])
    filters = packed(s=joint["s"], g=joint["g"], m=sizes["m"])
    offsets = (*batch, packed(s=joint["s"], q=joint["q"], two=2 * taps), *after)
    inputs: list[Axes | None] = [
        (*batch, packed(**joint, c=sizes["c"]), *named(shape[2:], ["i0", "i1"])),
        (filters, packed(q=joint["q"], c=sizes["c"]), *kernel),
        offsets,
        (filters,) if site.has(3) else None,
        (*batch, packed(s=joint["s"], q=joint["q"], tap=taps), *after) if site.has(4) else None,
    ]
    pins = dict.fromkeys(("i0", "i1"), SAMPLED.format(site.op)) | dict.fromkeys(
        ("two", "tap"), PLACES.format(site.op)
    )
    pins |= dict.fromkeys(("o0", "o1"), COUNTED.format(site.op)) | dict.fromkeys(("k0", "k1"), "")
    return Signature(
        tuple(inputs[: len(site.inputs)]),
        ((*batch, filters, *after),),
        sizes=sizes,
        pins=pins,
        macs=("n", *(x for x in "sgqmc"), "k0", "k1", "o0", "o1"),
        repair=_groups(packed(s=joint["s"], g=joint["g"]), packed(s=joint["s"], q=joint["q"])),
    )


def _groups(weights: tuple[str, ...], offsets: tuple[str, ...]) -> Repair:
    def repair(_site: Site, shrunk: Shrunk) -> list[Fix]:
        return [
            Fix(name, shrunk.size(axis))
            for name, axis in (("group", weights), ("offset_group", offsets))
            if axis
        ]

    return repair


@rule("MaxUnpool")
def max_unpool(_site: Site) -> Verdict:
    """Freezes what is unpooled: the places count through all channels of the tensor."""
    return Pinned("MaxUnpool writes to places that count through all channels")
