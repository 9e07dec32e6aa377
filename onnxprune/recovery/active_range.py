"""Which values of a layer's output its readers tell apart.

A Relu hears nothing below zero, so that a layer in front of one need not get right what was negative: only
keep it so (the non-linear reconstruction of Zhang et al. 2015, arXiv:1411.4229). What a node hears its rule
says (`onnxprune.rules.active_ranges`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxprune.recovery.regression import stored
from onnxprune.recovery.walk import Walk
from onnxprune.rules.active_ranges import Bounds, bounds
from onnxprune.rules.tape import NodeUse, Piece


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


def widest(ranges: Sequence[ActiveRange]) -> ActiveRange:
    """Return the range of values that one of several groups of readers tells apart."""
    low, high = [r.low for r in ranges], [r.high for r in ranges]
    return ActiveRange(np.minimum.reduce(low), np.maximum.reduce(high))


def active_range(walk: Walk, name: str, groups: int, width: int) -> ActiveRange:
    """Find what all readers of a tensor hear of it; width: its channels."""
    low, high = _bounds(walk, name)
    shape = (groups, 1, width // groups)
    return ActiveRange(
        *(np.broadcast_to(bound, (width,)).reshape(shape).astype(np.float32) for bound in (low, high))
    )


def _bounds(walk: Walk, name: str) -> Bounds:
    """Return the bounds of a tensor, scalars or one for each channel."""
    places = walk.readers.get(name, [])
    if not places or places[-1] >= len(walk.nodes):
        return bounds()
    found = [_bounds_of(walk, walk.nodes[place], name) for place in places]
    lows, highs = zip(*found, strict=True)
    return np.minimum.reduce(np.broadcast_arrays(*lows)), np.maximum.reduce(np.broadcast_arrays(*highs))


def _bounds_of(walk: Walk, node: onnx.NodeProto, name: str) -> Bounds:
    """Return what one reader hears."""
    heard = walk.facets(node).active_range
    if heard is None or list(node.input).count(name) > 1 or node.input[0] != name:
        return bounds()
    known = {n: stored(walk, n) for n in node.input if n in walk.weights}
    use = NodeUse(Piece([node], {}, known, walk.opsets), node, 0)
    return heard(use, lambda: _bounds(walk, node.output[0]))
