"""Probing: how far the outputs drift when a share of one group goes, so that losses compare between groups.

The consumers of the whole coupled group are folded (channel-level least squares) and nothing else
changes, so the drift tells what the group costs by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx

from onnxprune.analysis.units import Group, Units
from onnxprune.data.consumers import Consumer, View
from onnxprune.data.moments import Gram
from onnxprune.evaluation.drift import distance
from onnxprune.model.runtime import open_session, run
from onnxprune.progress import Steps, unseen
from onnxprune.recovery.least_squares import Folds, with_values

Feeds = dict[str, np.ndarray]
PROBE = 0.4  # share at which a group is measured for the allocation


class Probe:
    """Measures the drift of the outputs when units go, on a few batches."""

    def __init__(
        self,
        model: onnx.ModelProto,
        found: Units,
        evidence: tuple[Sequence[Consumer], Mapping[View, Gram]],
        batches: Sequence[Feeds],
    ) -> None:
        self.model, self.found, self.batches = model, found, batches
        self._folds = Folds(*evidence)
        self.reference = self._outputs(model)

    def _outputs(self, model: onnx.ModelProto) -> list[dict[str, np.ndarray]]:
        session = open_session(model, optimised=True)
        return [
            {
                n: a
                for n, a in run(session, batch).items()
                if isinstance(a, np.ndarray) and a.dtype.kind == "f"
            }
            for batch in self.batches
        ]

    def removal(self, group: Group, scores: np.ndarray, share: float) -> np.ndarray:
        """Choose the cheapest units of a group, and what must go with them; booleans by unit."""
        count = min(int(share * len(group.units) + 1e-9), len(group.units) - 1)
        own = group.units[~self.found.pinned[group.units]]
        dead = np.zeros(self.found.count, dtype=bool)
        dead[own[np.argsort(scores[own], kind="stable")[:count]]] = True
        return self.found.rows.close(dead)

    def drift(self, dead: np.ndarray) -> float | None:
        """Return the drift without these units: of the outputs the mean, root mean square over batches.

        None where no stored weight reads them.
        """
        values = self._folds.values(dead)
        if not values:
            return None
        outputs = self._outputs(with_values(self.model, values))
        squares = [
            distance(after[name], value) ** 2
            for before, after in zip(self.reference, outputs, strict=True)
            for name, value in before.items()
        ]
        return float(np.sqrt(np.mean(squares))) if squares else None


def calibrated(
    found: Units, scores: np.ndarray, probes: Iterable[Probe], progress: Steps = unseen
) -> np.ndarray:
    """Scale the losses of each group so that their sum is the squared drift that is measured.

    scores: [units] losses relative to the outputs of the consumers, comparable within a group only; probes:
    their squared drifts are averaged. Returns losses that compare between groups; a group that cannot be
    measured gets the median scale.
    """
    leaves = [g for g in found.groups if g.level == 0]
    measured: dict[int, list[float]] = {}
    for probe in probes:
        for number, group in enumerate(leaves):
            dead = probe.removal(group, scores, PROBE)
            told = float(scores[group.units][dead[group.units]].sum())
            drift = probe.drift(dead) if told > 0 else None
            if drift is not None and np.isfinite(drift):
                measured.setdefault(group.id, []).append(drift**2 / told)
            progress(number + 1, len(leaves))
    scales = {number: float(np.mean(ratios)) for number, ratios in measured.items()}
    usual = float(np.median(list(scales.values()))) if scales else 1.0
    result = scores.copy()
    for group in found.groups:
        result[group.units] = scores[group.units] * scales.get(group.id, usual)
    return result
