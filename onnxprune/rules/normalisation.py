"""Normalisations, and what else mixes the values of an axis that stays: Softmax, LRN, CumSum.

Specification: https://onnx.ai/onnx/operators/, one page for each (onnx__LayerNormalization.html,
onnx__GroupNormalization.html); SimplifiedLayerNormalization is RMSNormalization as onnxruntime's fusions
write it.
"""

from __future__ import annotations

from onnxprune.rules.active_ranges import before_norm
from onnxprune.rules.arithmetic_gradients import BATCH_NORM
from onnxprune.rules.elementwise import aligned
from onnxprune.rules.fits import per_channel
from onnxprune.rules.registry import rule
from onnxprune.rules.signature import (
    Axes,
    Facets,
    Normalisation,
    Pinned,
    Signature,
    Site,
    Statistics,
    Verdict,
    attr_size,
    numbered,
    packed,
)


@rule(
    "BatchNormalization",
    facets=Facets(
        statistics=Statistics(scale=1, mean=3, variance=4),
        fits=per_channel,
        gradient=BATCH_NORM,
        active_range=before_norm,
    ),
)
def batch_normalization(site: Site) -> Verdict:
    """Per channel: scale, bias, mean and variance are carried along axis 1."""
    if site.attrs.get("training_mode", 0) or len([s for s in site.outputs if s is not None]) > 1:
        return Pinned("BatchNormalization in training mode")
    axes = numbered(site.shape())
    channel = axes[1] if len(axes) > 1 else ()
    return Signature((axes, *((channel,) for _ in site.inputs[1:])), (axes,))


@rule("InstanceNormalization", facets=Facets(fits=per_channel))
def instance_normalization(site: Site) -> Verdict:
    """Normalises each channel over its spatial axes; scale and bias are carried along axis 1."""
    axes = numbered(site.shape())
    spatial = frozenset(subscript for axis in axes[2:] for subscript in axis)
    how = Normalisation(_epsilon(site), scale=1, bias=2)
    return Signature((axes, (axes[1],), (axes[1],)), (axes,), normalised=spatial, normalisation=how)


@rule("LayerNormalization")
def layer_normalization(site: Site) -> Verdict:
    """Normalises over the axes from `axis` on; the statistic is taken over the kept channels."""
    how = Normalisation(_epsilon(site), scale=1, bias=2 if site.has(2) else None, mean=1, inverse=2)
    return _from_axis(site, how)


@rule("RMSNormalization", "SimplifiedLayerNormalization")
def rms_normalization(site: Site) -> Verdict:
    """Divides by the root mean square over the axes from `axis` on, taken over the kept channels."""
    return _from_axis(site, Normalisation(_epsilon(site), centred=False, scale=1, inverse=1))


def _epsilon(site: Site) -> float:
    return float(site.attrs.get("epsilon", 1e-5))


def _from_axis(site: Site, how: Normalisation) -> Signature:
    axes = numbered(site.shape())
    first = int(site.attrs.get("axis", -1)) % len(axes)
    subscripts = frozenset(subscript for axis in axes[first:] for subscript in axis)
    params = tuple(aligned(s, site.shape()) if s is not None else None for s in site.inputs[1:])
    statistics = tuple(numbered(s) if s is not None else None for s in site.outputs[1:])
    return Signature((axes, *params), (axes, *statistics), normalised=subscripts, normalisation=how)


@rule("GroupNormalization", since=18)
def group_normalization_18(site: Site) -> Verdict:
    """Normalises groups of channels; scale and bias hold one value per group (opset 18)."""
    return _group_normalization(site, per_group=True)


@rule("GroupNormalization", since=21)
def group_normalization_21(site: Site) -> Verdict:
    """Normalises groups of channels; scale and bias hold one value per channel (opset 21)."""
    return _group_normalization(site, per_group=False)


def _group_normalization(site: Site, per_group: bool) -> Signature:
    shape = site.shape()
    groups = int(site.attrs["num_groups"])
    sizes = {"g": groups, "k": shape[1] // groups}
    channel = packed(**sizes)
    axes = numbered(shape)
    axes = (axes[0], channel, *axes[2:])
    param = packed(g=groups) if per_group else channel
    subscripts = frozenset(packed(k=sizes["k"])) | {subscript for axis in axes[2:] for subscript in axis}
    return Signature(
        (axes, (param,), (param,)),
        (axes,),
        sizes=sizes,
        normalised=subscripts,
        normalisation=Normalisation(_epsilon(site), scale=1, bias=2),
        repair=attr_size("num_groups", packed(g=groups)),
    )


@rule("LRN", "LpNormalization", "MeanVarianceNormalization")
def neighbours(site: Site) -> Verdict:
    """Mixes values along the channel axis, which is pinned; the others pass."""
    axes = numbered(site.shape())
    pins = dict.fromkeys(_mixed(site, axes), f"{site.op} mixes neighbouring channels")
    return Signature((axes,), (axes,), pins=pins)


def _mixed(site: Site, axes: Axes) -> list[str]:
    if site.op == "LRN":
        return list(axes[1])
    if site.op == "LpNormalization":
        return list(axes[int(site.attrs.get("axis", -1)) % len(axes)])
    chosen = site.attrs.get("axes", [0, 2, 3])
    return [subscript for axis in chosen for subscript in axes[axis % len(axes)]]


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax_1(site: Site) -> Verdict:
    """Pins the axes it runs over: all from `axis` on (before opset 13)."""
    axes = numbered(site.shape())
    first = int(site.attrs.get("axis", 1)) % max(len(axes), 1)
    return _pinned_along(site, axes, range(first, len(axes)))


@rule("Softmax", "LogSoftmax", "Hardmax", since=13)
def softmax_13(site: Site) -> Verdict:
    """Pins the one axis it runs over."""
    axes = numbered(site.shape())
    return _pinned_along(site, axes, [int(site.attrs.get("axis", -1)) % max(len(axes), 1)])


@rule("CumProd", "CumSum")
def cumulative(site: Site) -> Verdict:
    """Pins the axis it accumulates along; the others pass."""
    axes = numbered(site.shape())
    axis = site.value(1)
    along = range(len(axes)) if axis is None else [int(axis.ravel()[0]) % len(axes)]
    return _pinned_along(site, axes, along)


def _pinned_along(site: Site, axes: Axes, along: range | list[int]) -> Signature:
    pins = {subscript: f"{site.op} runs over this axis" for a in along for subscript in axes[a]}
    return Signature((axes, *(None for _ in site.inputs[1:])), (axes,), pins=pins)
