"""Which values of a layer's output its readers tell apart.

A Relu hears nothing below zero, so that a layer in front of one need not get right what was negative: only
keep it so (the non-linear reconstruction of Zhang et al. 2015, arXiv:1411.4229).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from onnxprune.recovery.regression import stored
from onnxprune.recovery.walk import Walk

PASSING = ("Dropout", "Identity", "MaxPool")  # a bound of their output is one of their input


@dataclass(frozen=True)
class ActiveRange:
    """Bounds [groups, 1, outputs]: all below `low` is alike to the readers, and so is all above `high`."""

    low: np.ndarray
    high: np.ndarray

    @property
    def everything(self) -> bool:
        """Tell whether no value is like another."""
        return bool(np.isneginf(self.low).all() and np.isposinf(self.high).all())

    def of(self, values: np.ndarray) -> np.ndarray:
        """Return what the readers hear of values [groups, rows, outputs]."""
        return values if self.everything else np.clip(values, self.low, self.high)

    def goal(self, target: np.ndarray, made: np.ndarray) -> np.ndarray:
        """Return the values nearest to what is made that sound like the target [groups, rows, outputs]."""
        if self.everything:
            return target
        below = np.where(target <= self.low, np.minimum(made, self.low), target)
        return np.where(target >= self.high, np.maximum(made, self.high), below)


def active_range(walk: Walk, name: str, groups: int, width: int) -> ActiveRange:
    """Find what all readers of a tensor hear of it; width: its channels."""
    low, high = _bounds(walk, name)
    shape = (groups, 1, width // groups)
    return ActiveRange(
        *(np.broadcast_to(bound, (width,)).reshape(shape).astype(np.float32) for bound in (low, high))
    )


def _bounds(walk: Walk, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of a tensor, scalars or one for each channel."""
    places = walk.readers.get(name, [])
    if not places or places[-1] >= len(walk.nodes):
        return np.asarray(-np.inf), np.asarray(np.inf)
    found = [_bounds_of(walk, walk.nodes[place], name) for place in places]
    lows, highs = zip(*found, strict=True)
    return np.minimum.reduce(np.broadcast_arrays(*lows)), np.maximum.reduce(np.broadcast_arrays(*highs))


def _bounds_of(walk: Walk, node: onnx.NodeProto, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return what one reader hears."""
    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    low, high = -np.inf, np.inf
    alone = list(node.input).count(name) == 1 and node.input[0] == name and node.domain in ("", "ai.onnx")
    match node.op_type if alone else "":
        case "Relu":
            low = 0.0
        case "HardSwish":
            low = -3.0
        case "HardSigmoid" if attrs.get("alpha", 0.2) > 0:
            alpha, beta = attrs.get("alpha", 0.2), attrs.get("beta", 0.5)
            low, high = -beta / alpha, (1 - beta) / alpha
        case "Clip":
            low, high = (
                _limit(walk, node, 1, attrs.get("min", -np.inf)),
                _limit(walk, node, 2, attrs.get("max", np.inf)),
            )
        case "BatchNormalization":
            return _before_norm(walk, node, attrs)
        case kind if kind in PASSING and not (kind == "MaxPool" and any(node.output[1:])):
            return _bounds(walk, node.output[0])
    return np.asarray(low), np.asarray(high)


def _limit(walk: Walk, node: onnx.NodeProto, place: int, default: float) -> float:
    """Return a limit of a Clip; one that is computed is none."""
    if len(node.input) <= place or not node.input[place]:
        return float(default)
    unknown = -np.inf if place == 1 else np.inf
    return float(stored(walk, node.input[place])) if node.input[place] in walk.weights else unknown


def _before_norm(walk: Walk, node: onnx.NodeProto, attrs: dict[str, object]) -> tuple[np.ndarray, np.ndarray]:
    """Carry bounds from behind a BatchNormalization of stored statistics to its input [channels]."""
    everything = np.asarray(-np.inf), np.asarray(np.inf)
    if attrs.get("training_mode", 0) or any(name not in walk.weights for name in node.input[1:]):
        return everything
    scale, shift, mean, variance = (stored(walk, name).astype(np.float64) for name in node.input[1:])
    slope = scale / np.sqrt(variance + float(attrs.get("epsilon", 1e-5)))  # type: ignore[arg-type]
    if not slope.all():
        return everything
    ends = [(bound - shift) / slope + mean for bound in _bounds(walk, node.output[0])]
    return np.where(slope > 0, ends[0], ends[1]), np.where(slope > 0, ends[1], ends[0])
