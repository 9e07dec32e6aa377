"""Closeness: how far a pruned model is from the unpruned one, on the best inputs there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np

from onnxprune.data.read import Validation
from onnxprune.evaluation.drift import Distances
from onnxprune.evaluation.metrics import Judged, Metric, add_distances, agreement_of

Inputs: TypeAlias = Literal["validation", "held out", "fitted", "made up"]
VALIDATION: Inputs = "validation"
HELD_OUT: Inputs = "held out"
FITTED: Inputs = "fitted"
MADE_UP: Inputs = "made up"
Arrays: TypeAlias = Mapping[str, np.ndarray]
Outputs: TypeAlias = Mapping[str, Any]


class Closeness(msgspec.Struct, frozen=True):
    """How far a pruned model is from the unpruned one on inputs of one kind.

    inputs: VALIDATION or HELD_OUT; FITTED where the calibration data was too little to hold some out;
    MADE_UP, which tells nothing sure. drift: mean over samples, of the outputs the largest; None where no
    float outputs compare. agreement: from 0 to 1, None where outputs are neither class scores nor boxes;
    metric: the one that measured it, "" for none; title: what people call that. limit: beyond it, in drift
    or missing agreement, a model is ruined. max_drift: what the gate allows, None without a gate.
    """

    inputs: Inputs
    samples: int
    drift: float | None
    agreement: float | None
    metric: str
    title: str
    limit: float
    max_drift: float | None

    @property
    def loss(self) -> float | None:
        """Return the larger of drift and missing agreement; None where neither is known."""
        known = [] if self.drift is None else [self.drift]
        known += [] if self.agreement is None else [1 - self.agreement]
        return max(known, default=None)

    @property
    def judged(self) -> bool:
        """Tell whether this is of data that nothing was fitted to, so that it says how good the model is."""
        return self.inputs in (VALIDATION, HELD_OUT) and self.loss is not None

    @property
    def far(self) -> bool:
        """Tell whether the model is beyond the limit on these inputs, whatever they are."""
        return self.loss is not None and self.loss > self.limit

    @property
    def ruined(self) -> bool:
        """Tell whether the model is beyond the limit on data; on what it was fitted to it looks too good."""
        return self.far and self.inputs != MADE_UP

    @property
    def passed(self) -> bool:
        """Tell whether the gate lets it through; what has no drift does not pass."""
        return self.max_drift is None or (self.drift is not None and self.drift <= self.max_drift)


class Measured(msgspec.Struct, frozen=True):
    """Drift and agreement of a model on some inputs, as of `Closeness`; metric: None for no agreement."""

    drift: float | None
    agreement: float | None
    metric: Metric | None


def measured(runs: Iterable[tuple[Arrays, Outputs, Outputs]]) -> Measured:
    """Compare outputs, batch by batch, so that none are kept.

    runs: the inputs of each batch, and by name what the unpruned and the pruned model make of them.
    """
    distances, comparable = Distances(), True
    shares: list[np.ndarray] = []
    metric: Metric | None = None
    for batch, before, after in runs:
        reference, found = _arrays(before), _arrays(after)
        judged = Judged([found], [reference], Validation((dict(batch),)))
        comparable = comparable and _comparable(reference, found)
        if comparable:
            add_distances(distances, judged)
        suits = agreement_of(judged.reference, judged.data) if reference else None
        if suits is not None and suits.agreements is not None and found.keys() >= reference.keys():
            metric = suits
            shares.append(suits.agreements(judged))
    every = np.concatenate(shares) if shares else np.zeros(0)
    said = every[~np.isnan(every)]
    drift = distances.worst if comparable and distances else None
    return Measured(drift, float(said.mean()), metric) if said.size else Measured(drift, None, None)


def _arrays(outputs: Outputs) -> dict[str, np.ndarray]:
    return {name: array for name, array in outputs.items() if isinstance(array, np.ndarray)}


def _comparable(before: Arrays, after: Arrays) -> bool:
    """Tell whether there are float outputs, and each has the same shape in both."""
    floats = [name for name, array in before.items() if array.dtype.kind == "f"]
    return bool(floats) and all(n in after and after[n].shape == before[n].shape for n in floats)
