"""What runs over an axis as a whole, or keeps a part of it by place: Fourier, reversal, triangles, one-hot.

Specification: https://onnx.ai/onnx/operators/, one page for each (onnx__DFT.html, onnx__STFT.html,
onnx__ReverseSequence.html, onnx__Trilu.html, onnx__OneHot.html).
"""

from __future__ import annotations

from onnxprune.rules import values
from onnxprune.rules.registry import rule
from onnxprune.rules.signature import (
    Facets,
    Pinned,
    Signature,
    Site,
    Verdict,
    named,
    numbered,
    positive,
)
from onnxprune.rules.values import moved

PARTS = "holds real and imaginary parts"
RUNS = "{} runs over this axis"


@rule("DFT", since=17)
def dft_17(site: Site) -> Verdict:
    """Pins the axis it transforms, an attribute before opset 20; the others pass."""
    return _dft(site, int(site.attrs.get("axis", 1)))


@rule("DFT", since=20)
def dft_20(site: Site) -> Verdict:
    """Pins the axis it transforms, an input from opset 20 on; the others pass."""
    axis = site.value(2)
    if site.has(2) and axis is None:
        return Pinned("DFT along an axis that is computed")
    return _dft(site, -2 if axis is None else int(axis.ravel()[0]))


def _dft(site: Site, axis: int) -> Signature:
    rank = len(site.shape())
    along = positive(axis, rank)
    before, after = ([f"x{i}" for i in range(rank)] for _ in range(2))
    before[along], after[along] = "from", "to"
    before[-1], after[-1] = "part", "parts"
    pins = {"from": RUNS.format(site.op), "part": PARTS}
    rest = tuple(None for _ in site.inputs[1:])
    return Signature((named(site.shape(), before), *rest), (named(site.out(), after),), pins=pins)


@rule("STFT", since=17)
def stft(site: Site) -> Verdict:
    """Pins the signal, whose frames it transforms; the batch passes."""
    before, after = ["n", "time", "part"], ["n", "frame", "bin", "parts"]
    pins = {"time": RUNS.format(site.op), "part": PARTS}
    window = named(site.shape(2), ["w"]) if site.has(2) else None
    pins |= {"w": "a window of STFT"} if site.has(2) else {}
    inputs = (named(site.shape(), before[: len(site.shape())]), None, window, None)
    return Signature(inputs[: len(site.inputs)], (named(site.out(), after),), pins=pins)


@rule("ReverseSequence", since=10)
def reverse_sequence(site: Site) -> Verdict:
    """Pins the axis it reverses up to lengths that are computed; the others pass."""
    axes = numbered(site.shape())
    batch = positive(int(site.attrs.get("batch_axis", 1)), len(axes))
    time = positive(int(site.attrs.get("time_axis", 0)), len(axes))
    pins = dict.fromkeys(axes[time], "ReverseSequence reverses a part of this axis")
    return Signature((axes, (axes[batch],)), (axes,), pins=pins)


@rule("Trilu", since=14, facets=Facets(evaluate=moved(values.triangle)))
def trilu(site: Site) -> Verdict:
    """Pins the two axes whose triangle it keeps; the others pass."""
    axes = numbered(site.shape())
    pins = {subscript: "Trilu keeps a triangle of this axis" for axis in axes[-2:] for subscript in axis}
    return Signature((axes, *(None for _ in site.inputs[1:])), (axes,), pins=pins)


@rule("OneHot", since=9, facets=Facets(evaluate=values.one_hot))
def one_hot(site: Site) -> Verdict:
    """The axes of the indices pass; the axis that it makes holds places, which are no channels."""
    indices, out = site.shape(), site.out()
    made = positive(int(site.attrs.get("axis", -1)), len(out))
    axes = numbered(indices)
    places = named(out[made : made + 1], ["place"])
    return Signature((axes, None, None), ((*axes[:made], *places, *axes[made:]),))
