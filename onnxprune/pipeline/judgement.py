"""What data says of a result: its metric, how close it is to the original, and the gates on both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from onnxprune.data.read import Calibration, samples_in
from onnxprune.evaluation.closeness import (
    FITTED,
    HELD_OUT,
    MADE_UP,
    VALIDATION,
    Closeness,
    Inputs,
    Measured,
    measured,
)
from onnxprune.evaluation.drift import Reference, opened, ran
from onnxprune.evaluation.validation import Judge, Validated, answers, samples
from onnxprune.model.graph import input_specs
from onnxprune.pipeline.attempt import Candidate, RunContext
from onnxprune.recovery.unrepaired import unrepaired
from onnxprune.reports.data import RecoveryReport
from onnxprune.reports.quality import closeness_line
from onnxprune.settings import PruneSettings


@dataclass(frozen=True)
class Judgement:
    """validated: None without validation data; closeness: None without any; recovery: what a repair did."""

    validated: Validated | None = None
    closeness: Closeness | None = None
    recovery: RecoveryReport | None = None

    @property
    def passed(self) -> bool:
        """Tell whether the gates let the result through."""
        return not list(self.failures())

    def failures(self) -> Iterator[str]:
        """Say which gates failed, and by how much."""
        found, close = self.validated, self.closeness
        if found is not None and not found.passed:
            yield (
                f"{found} on {found.samples} samples, worse by {found.drop:.4g} where --max-drop allows "
                f"{found.max_drop:.4g}"
            )
        if close is not None and not close.passed:
            told = "no drift is known" if close.drift is None else closeness_line(close)
            yield f"{told}, where --max-drift allows {close.max_drift:.4g}"


def judgement(
    context: RunContext, judged: Judge | None, candidate: Candidate, result: onnx.ModelProto
) -> Judgement:
    """Judge a result on the validation data, else on what is held out of the calibration data.

    Raises UsageError where it does not run on the data.
    """
    settings, repairs, repair = context.request.settings, context.repairs, candidate.repair
    held = None if repairs is None else _on(repairs.reference, result)
    recovery = None
    if repairs is not None and repair is not None and held is not None:
        before = _on(repairs.reference, repair.pruned).drift if repair.repaired else held.drift
        recovery = RecoveryReport(
            repair.method, repair.samples, len(repair.repaired),
            repair.drift_before if before is None else before,
            repair.drift_after if held.drift is None else held.drift,
            unrepaired(context.analysis.units, candidate.removal.removed, repair.repaired),
        )  # fmt: skip
    if judged is not None:
        batches = judged.data.batches
        found = answers(result, batches, "the pruned model")
        seen = measured(zip(batches, judged.reference, found, strict=True))
        close = _closeness(seen, VALIDATION, samples(batches), settings)
        return Judgement(judged.of(found), close, recovery)
    if repairs is None or held is None:
        return Judgement()
    specs = input_specs(repairs.original)
    count = sum(samples_in(dict(batch), specs) for batch in repairs.data.judge)
    return Judgement(None, _closeness(held, _kind(repairs.data), count, settings), recovery)


def _on(reference: Reference, model: onnx.ModelProto) -> Measured:
    session = opened(model, "the pruned model")
    found = (ran(session, batch) for batch in reference.batches)
    return measured(zip(reference.batches, reference.outputs(), found, strict=True))


def _kind(data: Calibration) -> Inputs:
    if data.synthesised:
        return MADE_UP
    return HELD_OUT if data.held_out else FITTED


def _closeness(found: Measured, inputs: Inputs, count: int, settings: PruneSettings) -> Closeness:
    metric = found.metric
    name, title = ("", "") if metric is None else (metric.name, metric.title or metric.name)
    return Closeness(
        inputs, count, found.drift, found.agreement, name, title, settings.ruined, settings.max_drift
    )
