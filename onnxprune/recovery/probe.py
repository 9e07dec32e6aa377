"""Probing: how far the outputs drift when a share of one group goes, so that losses compare between groups.

The consumers of the whole coupled group are folded (channel-level least squares) and nothing else
changes, so the drift tells what the group costs by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx

from onnxprune.analysis.units import Group, Units
from onnxprune.data.consumers import Consumer
from onnxprune.data.moments import Moments
from onnxprune.data.read import Feeds
from onnxprune.evaluation.drift import Reference
from onnxprune.progress import Steps, unseen
from onnxprune.recovery.context import with_values
from onnxprune.recovery.least_squares import Folds

PROBE = 0.4  # share at which a group is measured for the allocation


class Probe:
    """Measures the drift of the outputs when units go, on a few batches.

    evidence: the consumers, and the moments of what they read.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        units: Units,
        evidence: tuple[Sequence[Consumer], Moments],
        batches: Sequence[Feeds],
    ) -> None:
        self.model, self.found = model, units
        self._folds = Folds(*evidence)
        self._reference = Reference(model, batches)

    def removal(self, group: Group, scores: np.ndarray, share: float) -> np.ndarray:
        """Choose the cheapest units of a group, and what must go with them; booleans by unit."""
        count = min(int(share * len(group.units) + 1e-9), len(group.units) - 1)
        own = group.units[~self.found.pinned[group.units]]
        removed = np.zeros(self.found.count, dtype=bool)
        removed[own[np.argsort(scores[own], kind="stable")[:count]]] = True
        return self.found.rows.close(removed)

    def drift(self, removed: np.ndarray) -> float | None:
        """Return the drift without these units: of the outputs the mean, root mean square over batches.

        None where no stored weight reads them.
        """
        values = self._folds.values(removed)
        if not values:
            return None
        return self._reference.distances(with_values(self.model, values)).root_mean_square


def calibrated(
    units: Units, scores: np.ndarray, probes: Iterable[Probe], progress: Steps = unseen
) -> np.ndarray:
    """Scale the losses of each group so that their sum is the squared drift that is measured.

    scores: [units] losses relative to the outputs of the consumers, comparable within a group only; probes:
    their squared drifts are averaged. Returns losses that compare between groups; a group that cannot be
    measured gets the median scale.
    """
    leaves = [g for g in units.groups if g.level == 0]
    measured: dict[int, list[float]] = {}
    for probe in probes:
        for number, group in enumerate(leaves):
            removed = probe.removal(group, scores, PROBE)
            told = float(scores[group.units][removed[group.units]].sum())
            drift = probe.drift(removed) if told > 0 else None
            if drift is not None and np.isfinite(drift):
                measured.setdefault(group.id, []).append(drift**2 / told)
            progress(number + 1, len(leaves))
    scales = {number: float(np.mean(ratios)) for number, ratios in measured.items()}
    usual = float(np.median(list(scales.values()))) if scales else 1.0
    result = scores.copy()
    for group in units.groups:
        result[group.units] = scores[group.units] * scales.get(group.id, usual)
    return result
