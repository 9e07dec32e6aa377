"""How many calibration batches a repair holds at a time.

A repair walks the original and the pruned network side by side, layer by layer over all batches, and keeps
what the layers ahead still read; what a window of layers is to make is kept besides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxprune.data.read import Calibration
from onnxprune.recovery.regression import linears
from onnxprune.recovery.walk import Walk

FEWEST = 2  # batches: one to fit with, one to judge with


@dataclass(frozen=True)
class ActivationBudget:
    """Bytes that one batch takes, and bytes that there are."""

    each: int
    limit: int

    def holds(self, batches: int) -> bool:
        """Tell whether so many batches fit."""
        return batches * self.each <= self.limit

    def thinned(self, data: Calibration) -> Calibration:
        """Return as many batches as fit, evenly chosen."""
        return data.thinned(max(self.limit // self.each, FEWEST))


def activation_budget(
    model: onnx.ModelProto, batches: Sequence[Mapping[str, np.ndarray]], limit: int
) -> ActivationBudget:
    """Run a model on the largest batch to learn what is kept of it between its layers, at most.

    The pruned network keeps no more than that, and nor does a window of what it is to make. Raises
    UsageError where the model does not run.
    """
    largest = max(batches, key=lambda batch: sum(values.nbytes for values in batch.values()))
    walk, most = Walk(model, [largest]), 1
    for layer in linears(walk):
        for place in (layer.place, layer.place + 1):
            walk.until(place)
            most = max(most, walk.size)
    return ActivationBudget(3 * most, limit)
