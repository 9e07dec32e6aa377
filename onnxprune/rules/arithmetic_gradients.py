"""Gradients of elementwise operators and of normalisations by stored statistics, for rules that name them.

Most functions of one input have a measured slope (`SLOPE` of the tape). Written out are those that it is
wrong for: where a function ends (a logarithm below zero), grows without bounds, or jumps.
"""

from __future__ import annotations

import numpy as np

from onnxprune.rules.tape import Gradient, NodeUse, Tape

FLOAT = 1  # the element type of what is differentiated


# -- functions of one input ----------------------------------------------------------------------------------
def _log(use: NodeUse, tape: Tape, coming: str) -> str:
    return tape.emit("Div", coming, use.name)


def _sqrt(use: NodeUse, tape: Tape, coming: str) -> str:
    return tape.emit("Div", coming, tape.emit("Mul", use.made, tape.number(2.0)))


def _reciprocal(use: NodeUse, tape: Tape, coming: str) -> str:
    return tape.emit("Neg", tape.emit("Mul", coming, tape.emit("Mul", use.made, use.made)))


def _tan(use: NodeUse, tape: Tape, coming: str) -> str:
    slope = tape.emit("Add", tape.emit("Mul", use.made, use.made), tape.number(1.0))
    return tape.emit("Mul", coming, slope)


def _left_of_one(use: NodeUse, tape: Tape) -> str:
    """Write 1 - x^2."""
    return tape.emit("Sub", tape.number(1.0), tape.emit("Mul", use.name, use.name))


def _asin(use: NodeUse, tape: Tape, coming: str) -> str:
    return tape.emit("Div", coming, tape.emit("Sqrt", _left_of_one(use, tape)))


def _acos(use: NodeUse, tape: Tape, coming: str) -> str:
    return tape.emit("Neg", _asin(use, tape, coming))


def _acosh(use: NodeUse, tape: Tape, coming: str) -> str:
    return tape.emit("Div", coming, tape.emit("Sqrt", tape.emit("Neg", _left_of_one(use, tape))))


def _atanh(use: NodeUse, tape: Tape, coming: str) -> str:
    return tape.emit("Div", coming, _left_of_one(use, tape))


def _power(use: NodeUse, tape: Tape, coming: str) -> str:
    exponent = use.piece.stored[use.node.input[1]].astype(np.float64)
    lower, factor = (tape.constant(values, np.float32) for values in (exponent - 1, exponent))
    slope = tape.emit("Mul", tape.emit("Pow", use.name, lower), factor)
    return tape.summed(tape.emit("Mul", coming, slope), use.made, use.name)


def _where(tape: Tape, condition: str, coming: str) -> str:
    """Pass a gradient on where a condition holds."""
    return tape.emit("Mul", coming, tape.emit("Cast", condition, to=FLOAT))


def _above(use: NodeUse, tape: Tape, coming: str) -> str:
    limit = tape.number(use.attributes.get("alpha", 1.0))
    return _where(tape, tape.emit("Greater", use.name, limit), coming)


def _outside(use: NodeUse, tape: Tape, coming: str) -> str:
    limit = tape.number(use.attributes.get("lambd", 0.5))
    return _where(tape, tape.emit("Greater", tape.emit("Abs", use.name), limit), coming)


LOG, SQRT, RECIPROCAL, TAN = Gradient(_log), Gradient(_sqrt), Gradient(_reciprocal), Gradient(_tan)
ASIN, ACOS, ACOSH, ATANH = Gradient(_asin), Gradient(_acos), Gradient(_acosh), Gradient(_atanh)
POWER = Gradient(_power, when=lambda use: use.fixed)
ABOVE, OUTSIDE = Gradient(_above), Gradient(_outside)


# -- operands that broadcast ---------------------------------------------------------------------------------
def _add(use: NodeUse, tape: Tape, coming: str) -> str:
    return tape.summed(coming, use.made, use.name)


def _sub(use: NodeUse, tape: Tape, coming: str) -> str:
    return _add(use, tape, tape.emit("Neg", coming) if use.place else coming)


def _mul(use: NodeUse, tape: Tape, coming: str) -> str:
    return _add(use, tape, tape.emit("Mul", coming, use.node.input[1 - use.place]))


def _div(use: NodeUse, tape: Tape, coming: str) -> str:
    if use.place:
        coming = tape.emit("Neg", tape.emit("Mul", coming, use.made))
    return _add(use, tape, tape.emit("Div", coming, use.node.input[1]))


def _mean(use: NodeUse, tape: Tape, coming: str) -> str:
    return _add(use, tape, tape.emit("Mul", coming, tape.number(1 / len(use.node.input))))


def _extreme(use: NodeUse, tape: Tape, coming: str) -> str:
    return _add(use, tape, _where(tape, tape.emit("Equal", use.name, use.made), coming))


def _chosen(use: NodeUse, tape: Tape, coming: str) -> str:
    condition = use.node.input[0]
    return _add(use, tape, _where(tape, condition if use.place == 1 else tape.emit("Not", condition), coming))


def _chosen_by_constant(use: NodeUse) -> bool:
    return use.place > 0 and use.node.input[0] in use.piece.stored


SUM, DIFFERENCE = Gradient(_add, every=True), Gradient(_sub, every=True)
PRODUCT, QUOTIENT = Gradient(_mul, every=True), Gradient(_div, every=True)
MEAN, EXTREME = Gradient(_mean, every=True), Gradient(_extreme, every=True)
CHOSEN = Gradient(_chosen, every=True, when=_chosen_by_constant)


# -- normalisations by stored statistics ---------------------------------------------------------------------
def _batch_norm(use: NodeUse, tape: Tape, coming: str) -> str:
    scale, _, _, variance = (use.piece.stored[name].astype(np.float64) for name in use.node.input[1:])
    slope = scale / np.sqrt(variance + use.attributes.get("epsilon", 1e-5))
    return tape.emit("Mul", coming, tape.constant(slope.reshape(-1, *[1] * (len(use.size) - 2)), np.float32))


def _uses_statistics(use: NodeUse) -> bool:
    return use.fixed and not use.attributes.get("training_mode", 0)


BATCH_NORM = Gradient(_batch_norm, when=_uses_statistics)
