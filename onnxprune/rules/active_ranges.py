"""What rules say of bounds: which values of its input a node tells apart.

A Relu hears nothing below zero. A rule's `active_range` returns the bounds of the first input: all below the
lower is alike to the node, and so is all above the upper. Bounds are scalars, or one for each channel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from onnxprune.rules.tape import NodeUse

Bounds: TypeAlias = tuple[np.ndarray, np.ndarray]
# A node whose stored inputs are known, and what asks for the bounds that hold for its output.
ActiveRange: TypeAlias = Callable[[NodeUse, Callable[[], Bounds]], Bounds]


def bounds(low: float = -np.inf, high: float = np.inf) -> Bounds:
    """Write two numbers as bounds."""
    return np.asarray(low), np.asarray(high)


def above(low: float) -> ActiveRange:
    """Hear what lies above a number (Relu, HardSwish)."""
    return lambda _use, _behind: bounds(low)


def hard_sigmoid(use: NodeUse, _behind: Callable[[], Bounds]) -> Bounds:
    """Hear where alpha x + beta lies between 0 and 1."""
    alpha, beta = use.attributes.get("alpha", 0.2), use.attributes.get("beta", 0.5)
    return bounds(-beta / alpha, (1 - beta) / alpha) if alpha > 0 else bounds()


def clipped(use: NodeUse, _behind: Callable[[], Bounds]) -> Bounds:
    """Hear what lies between the limits of a Clip; one that is computed is none."""
    return bounds(_limit(use, 1, "min", -np.inf), _limit(use, 2, "max", np.inf))


def _limit(use: NodeUse, place: int, word: str, unbounded: float) -> float:
    if not use.has(place):
        return float(use.attributes.get(word, unbounded))
    found = use.stored(place)
    return unbounded if found is None else float(found)


def passing(_use: NodeUse, behind: Callable[[], Bounds]) -> Bounds:
    """Hear what is heard behind: a bound of the output is one of the input."""
    return behind()


def pooled(use: NodeUse, behind: Callable[[], Bounds]) -> Bounds:
    """Hear what is heard behind a maximum, unless it also tells where it was found."""
    return bounds() if any(use.node.output[1:]) else behind()


def before_norm(use: NodeUse, behind: Callable[[], Bounds]) -> Bounds:
    """Carry bounds from behind a normalisation by stored statistics to its input [channels]."""
    stored = [use.stored(place) for place in range(1, len(use.node.input))]
    if use.attributes.get("training_mode", 0) or any(values is None for values in stored):
        return bounds()
    scale, shift, mean, variance = (np.asarray(values, np.float64) for values in stored)
    slope = scale / np.sqrt(variance + float(use.attributes.get("epsilon", 1e-5)))
    if not slope.all():
        return bounds()
    ends = [(bound - shift) / slope + mean for bound in behind()]
    return np.where(slope > 0, ends[0], ends[1]), np.where(slope > 0, ends[1], ends[0])
