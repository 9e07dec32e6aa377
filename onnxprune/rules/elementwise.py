"""Element-wise operators: every output element depends on the input elements at its own place."""

from __future__ import annotations

from onnxprune.rules.registry import rule
from onnxprune.rules.signature import (
    Axes,
    Pinned,
    Shape,
    Signature,
    Site,
    Verdict,
    attr_size,
    numbered,
    packed,
)

UNARY = [
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BitwiseNot",
    "Cast",
    "Ceil",
    "Celu",
    "Cos",
    "Cosh",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Not",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
]
BROADCASTING = [
    "Add",
    "And",
    "BitShift",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "Pow",
    "PRelu",
    "Sub",
    "Sum",
    "Where",
    "Xor",
]


def aligned(shape: Shape, out: Shape) -> Axes:
    """Give the axes of a broadcast operand the subscripts of the output axes they fall on."""
    return numbered(shape, start=len(out) - len(shape))


@rule(*UNARY)
def unary(site: Site) -> Verdict:
    """Labels pass; one input, one output."""
    return Signature((numbered(site.shape()),), (numbered(site.out()),))


@rule(*BROADCASTING)
def broadcasting(site: Site) -> Verdict:
    """Labels that meet at the same index are tied; operands broadcast to the right (ONNX spec)."""
    out = site.out()
    axes = tuple(aligned(shape, out) if shape is not None else None for shape in site.inputs)
    return Signature(axes, (numbered(out),))


@rule("Affine", "ImageScaler")
def scaled(site: Site) -> Verdict:
    """Labels pass but for ImageScaler's bias attribute, which has one value per channel."""
    axes = numbered(site.shape())
    pins = (
        {"x1": "ImageScaler keeps one bias per channel in an attribute"} if site.op == "ImageScaler" else {}
    )
    return Signature((axes,), (axes,), pins=pins)


@rule("Clip", "Dropout", "CastLike")
def guarded(site: Site) -> Verdict:
    """Labels of the first input pass; the others are scalars or only lend their type."""
    training = site.value(2)
    if site.op == "Dropout" and site.has(2) and (training is None or training.any()):
        return Pinned("Dropout in training mode, or perhaps so")
    axes = numbered(site.shape())
    others = tuple(None for _ in site.inputs[1:])
    return Signature((axes, *others), tuple(axes for _ in site.outputs))


@rule("BatchNormalization")
def batch_normalization(site: Site) -> Verdict:
    """Per channel: scale, bias, mean and variance are carried along axis 1."""
    if site.attrs.get("training_mode", 0) or len([s for s in site.outputs if s is not None]) > 1:
        return Pinned("BatchNormalization in training mode")
    axes = numbered(site.shape())
    channel = axes[1] if len(axes) > 1 else ()
    return Signature((axes, *((channel,) for _ in site.inputs[1:])), (axes,))


@rule("InstanceNormalization")
def instance_normalization(site: Site) -> Verdict:
    """Normalises each channel over its spatial axes; scale and bias are carried along axis 1."""
    axes = numbered(site.shape())
    spatial = frozenset(subscript for axis in axes[2:] for subscript in axis)
    return Signature((axes, (axes[1],), (axes[1],)), (axes,), normalised=spatial)


@rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def layer_normalization(site: Site) -> Verdict:
    """Normalises over the axes from `axis` on; the statistic is taken over the kept channels."""
    axes = numbered(site.shape())
    first = int(site.attrs.get("axis", -1)) % len(axes)
    subscripts = frozenset(subscript for axis in axes[first:] for subscript in axis)
    params = tuple(aligned(s, site.shape()) if s is not None else None for s in site.inputs[1:])
    statistics = tuple(numbered(s) if s is not None else None for s in site.outputs[1:])
    return Signature((axes, *params), (axes, *statistics), normalised=subscripts)


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


@rule("CumSum")
def cumulative(site: Site) -> Verdict:
    """Pins the axis it accumulates along; the others pass."""
    axes = numbered(site.shape())
    axis = site.value(1)
    along = range(len(axes)) if axis is None else [int(axis.ravel()[0]) % len(axes)]
    return _pinned_along(site, axes, along)


def _pinned_along(site: Site, axes: Axes, along: range | list[int]) -> Signature:
    pins = {subscript: f"{site.op} runs over this axis" for a in along for subscript in axes[a]}
    return Signature((axes, *(None for _ in site.inputs[1:])), (axes,), pins=pins)
