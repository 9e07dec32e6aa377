"""Element-wise operators: every output element depends on the input elements at its own place.

Specification: https://onnx.ai/onnx/operators/, one page for each (onnx__Relu.html, onnx__Add.html).
"""

from __future__ import annotations

import numpy as np

from onnxprune.rules import arithmetic_gradients as gradients
from onnxprune.rules import values
from onnxprune.rules.active_ranges import above, clipped, hard_sigmoid, passing
from onnxprune.rules.gradients import RESHAPED
from onnxprune.rules.registry import rows, rule
from onnxprune.rules.signature import (
    NOTHING,
    Arithmetic,
    Axes,
    Facets,
    Pinned,
    Shape,
    Signature,
    Site,
    Verdict,
    numbered,
)
from onnxprune.rules.tape import SLOPE
from onnxprune.rules.values import folded, pointwise, typed

SMOOTH = Facets(gradient=SLOPE)
UNARY = {
    "Abs": Facets(evaluate=pointwise(np.abs), gradient=SLOPE),
    "Acos": Facets(gradient=gradients.ACOS),
    "Acosh": Facets(gradient=gradients.ACOSH),
    "Asin": Facets(gradient=gradients.ASIN),
    "Asinh": SMOOTH,
    "Atan": SMOOTH,
    "Atanh": Facets(gradient=gradients.ATANH),
    "BitwiseNot": NOTHING,
    "Cast": Facets(evaluate=values.cast, moves=True, element_type="to"),
    "Ceil": Facets(evaluate=pointwise(np.ceil)),
    "Celu": SMOOTH,
    "Cos": SMOOTH,
    "Cosh": SMOOTH,
    "Elu": SMOOTH,
    "Erf": SMOOTH,
    "Exp": SMOOTH,
    "Floor": Facets(evaluate=pointwise(np.floor)),
    "Gelu": SMOOTH,
    "HardSigmoid": Facets(gradient=SLOPE, active_range=hard_sigmoid),
    "HardSwish": Facets(gradient=SLOPE, active_range=above(-3.0)),
    "Identity": Facets(evaluate=pointwise(lambda x: x), moves=True, gradient=RESHAPED, active_range=passing),
    "IsInf": NOTHING,
    "IsNaN": NOTHING,
    "LeakyRelu": SMOOTH,
    "Log": Facets(gradient=gradients.LOG),
    "Mish": SMOOTH,
    "Neg": Facets(evaluate=pointwise(np.negative), gradient=SLOPE),
    "Not": Facets(evaluate=pointwise(np.logical_not)),
    "Reciprocal": Facets(evaluate=typed(np.reciprocal), gradient=gradients.RECIPROCAL),
    "Relu": Facets(gradient=SLOPE, active_range=above(0.0)),
    "Round": NOTHING,
    "Selu": SMOOTH,
    "Shrink": Facets(gradient=gradients.OUTSIDE),
    "Sigmoid": SMOOTH,
    "Sign": NOTHING,
    "Sin": SMOOTH,
    "Sinh": SMOOTH,
    "Softplus": SMOOTH,
    "Softsign": SMOOTH,
    "Sqrt": Facets(evaluate=typed(np.sqrt), gradient=gradients.SQRT),
    "Swish": SMOOTH,
    "Tan": Facets(gradient=gradients.TAN),
    "Tanh": SMOOTH,
    "ThresholdedRelu": Facets(gradient=gradients.ABOVE),
}
BROADCASTING = {
    "Add": Facets(evaluate=pointwise(np.add), arithmetic=Arithmetic.SUM, gradient=gradients.SUM),
    "And": Facets(evaluate=pointwise(np.logical_and)),
    "BitShift": NOTHING,
    "BitwiseAnd": NOTHING,
    "BitwiseOr": NOTHING,
    "BitwiseXor": NOTHING,
    "Div": Facets(
        evaluate=pointwise(values.quotient), arithmetic=Arithmetic.QUOTIENT, gradient=gradients.QUOTIENT
    ),
    "Equal": Facets(evaluate=pointwise(np.equal)),
    "Greater": Facets(evaluate=pointwise(np.greater)),
    "GreaterOrEqual": Facets(evaluate=pointwise(np.greater_equal)),
    "Less": Facets(evaluate=pointwise(np.less)),
    "LessOrEqual": Facets(evaluate=pointwise(np.less_equal)),
    "Max": Facets(evaluate=folded(np.maximum), gradient=gradients.EXTREME),
    "Mean": Facets(gradient=gradients.MEAN),
    "Min": Facets(evaluate=folded(np.minimum), gradient=gradients.EXTREME),
    "Mod": Facets(evaluate=values.remainder),
    "Mul": Facets(evaluate=pointwise(np.multiply), arithmetic=Arithmetic.PRODUCT, gradient=gradients.PRODUCT),
    "Or": Facets(evaluate=pointwise(np.logical_or)),
    "Pow": Facets(evaluate=typed(np.power), gradient=gradients.POWER),
    "PRelu": SMOOTH,
    "Sub": Facets(evaluate=pointwise(np.subtract), gradient=gradients.DIFFERENCE),
    "Sum": Facets(gradient=gradients.SUM),
    "Where": Facets(evaluate=pointwise(np.where), gradient=gradients.CHOSEN),
    "Xor": NOTHING,
}
GUARDED = {
    "Clip": Facets(gradient=SLOPE, active_range=clipped),
    "Dropout": Facets(gradient=RESHAPED, active_range=passing),
}


def aligned(shape: Shape, out: Shape) -> Axes:
    """Give the axes of a broadcast operand the subscripts of the output axes they fall on."""
    return numbered(shape, start=len(out) - len(shape))


@rows(UNARY)
def unary(site: Site) -> Verdict:
    """Labels pass; one input, one output."""
    return Signature((numbered(site.shape()),), (numbered(site.out()),))


@rows(BROADCASTING)
def broadcasting(site: Site) -> Verdict:
    """Labels that meet at the same index are tied; operands broadcast to the right (ONNX spec)."""
    out = site.out()
    axes = tuple(aligned(shape, out) if shape is not None else None for shape in site.inputs)
    return Signature(axes, (numbered(out),))


@rows({"Affine": SMOOTH, "ImageScaler": SMOOTH})
def scaled(site: Site) -> Verdict:
    """Labels pass but for ImageScaler's bias attribute, which has one value per channel."""
    axes = numbered(site.shape())
    pins = (
        {"x1": "ImageScaler keeps one bias per channel in an attribute"} if site.op == "ImageScaler" else {}
    )
    return Signature((axes,), (axes,), pins=pins)


@rule("CastLike", since=15, facets=Facets(moves=True))
def cast_like(site: Site) -> Verdict:
    """Labels of the first input pass; the second lends its type, whatever its axes become."""
    axes = numbered(site.shape())
    return Signature((axes, numbered(site.shape(1), "like")), (axes,), neutral=None)


@rows(GUARDED)
def guarded(site: Site) -> Verdict:
    """Labels of the first input pass; the others are scalars or only lend their type."""
    training = site.value(2)
    if site.op == "Dropout" and site.has(2) and (training is None or training.any()):
        return Pinned("Dropout in training mode, or perhaps so")
    axes = numbered(site.shape())
    others = tuple(None for _ in site.inputs[1:])
    return Signature((axes, *others), tuple(axes for _ in site.outputs))
