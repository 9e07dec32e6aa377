"""Attempts: decide, rewrite, prove, and drop what fails; then repair what is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter

import numpy as np
import onnx

from onnxprune.analysis.analyse import Analysis
from onnxprune.analysis.cost import macs
from onnxprune.analysis.replay import Replayed
from onnxprune.errors import NothingToPrune, OnnxPruneError, UnprovedError
from onnxprune.evaluation.drift import drift
from onnxprune.oracle.cases import Cases, proof, suspects
from onnxprune.oracle.equal import model_differences
from onnxprune.oracle.prove import FAILED, PROVED, UNPROVED, WEAK, Proof
from onnxprune.pipeline.iterative_schedule import Stage, differing, scheduled
from onnxprune.pipeline.recover import Evidence, Recovery, joined, recovered
from onnxprune.planning.decide import Decision, Request, decide
from onnxprune.progress import Progress, silent
from onnxprune.reports.data import Dropped, Step, Target, Trial
from onnxprune.rewrite.apply import apply as rewritten

MAX_DROPS = 20


class Stopwatch:
    """Seconds by stage, in the order in which the stages end; progress: whom to tell within a stage."""

    def __init__(self, progress: Progress = silent) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self._last = perf_counter()

    def lap(self, stage: str) -> None:
        """End a stage."""
        now = perf_counter()
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + now - self._last, 4)
        self._last = now


@dataclass(frozen=True)
class Attempt:
    """A decision carried out and judged."""

    decision: Decision
    model: onnx.ModelProto
    outcome: Proof
    dropped: tuple[Dropped, ...]


@dataclass(frozen=True)
class Candidate:
    """A proved removal and its repair; reached: the qualities that were searched for, trials: the search;
    steps: what was left after those before the last.
    """

    attempt: Attempt
    repair: Recovery | None
    reached: Mapping[str, float] = field(default_factory=dict)
    trials: tuple[Trial, ...] = ()
    steps: tuple[Step, ...] = ()

    def targets(self, sought: Mapping[str, float]) -> dict[str, Target]:
        """Return the limits of what was searched for, and what was reached."""
        return {k: Target(v, self.reached[k]) for k, v in sought.items()}

    @property
    def model(self) -> onnx.ModelProto:
        """Return the pruned model, repaired where that helped."""
        return self.attempt.model if self.repair is None else self.repair.model


@dataclass(frozen=True)
class RunContext:
    """What every attempt of a run starts from; scores: importance by unit of the original."""

    analysis: Analysis
    request: Request
    cases: Cases
    scores: np.ndarray
    evidence: Evidence | None
    watch: Stopwatch

    def carried_out(self, limits: Mapping[str, float]) -> Candidate:
        """Remove, prove and repair. Raises as `attempted` does.

        limits: what may remain, instead of the request's.
        """
        request = replace(self.request, limits=limits)
        if self.evidence is None:
            return Candidate(attempted(self.analysis, request, self.cases, self.scores, self.watch), None)
        stage, taken = self._stepped(request, Stage(self.analysis, self.scores, self.evidence))
        attempt = attempted(self.analysis, request, self.cases, stage.scores, self.watch)
        begun = stage.pruned(attempt.decision.removed) if taken else attempt.model
        repair = self._repaired(stage.evidence, begun, attempt.decision)
        if repair is not None and taken:
            repair = _since(self.analysis.model, attempt.model, repair, self.evidence)
        self.watch.lap("recover")
        return self._joined(Candidate(attempt, repair, steps=tuple(taken)))

    def _joined(self, candidate: Candidate) -> Candidate:
        """Fit the layers of what was chosen together, where that is asked for."""
        if self.evidence is None or candidate.repair is None or candidate.repair.method != "joint":
            return candidate
        replayed, progress = candidate.attempt.decision.replayed, self.watch.progress
        limit = self.request.settings.memory_limit
        repair = joined(self.analysis, replayed, candidate.repair, self.evidence.data, limit, progress)
        self.watch.lap("recover")
        return replace(candidate, repair=repair)

    def _stepped(self, request: Request, stage: Stage) -> tuple[Stage, list[Step]]:
        """Take the steps before the last; return where they lead, and what each left."""
        units, steps = self.analysis.units, request.settings.steps
        taken: list[Step] = []
        for number in range(1, steps):
            decision = decide(units, scheduled(request, units, number / steps), stage.scores)
            if decision.removed.any():
                begun = stage.pruned(decision.removed)
                repair = self._repaired(stage.evidence, begun, decision)
                left = begun if repair is None else repair.model
                stage = stage.after((decision.removed, decision.replayed), left, request)
                taken.append(Step(macs(units.traced, decision.replayed.sizes)))
            self.watch.lap("steps")
        return stage, taken

    def _repaired(self, evidence: Evidence, pruned: onnx.ModelProto, decision: Decision) -> Recovery | None:
        settings, removal = self.request.settings, (decision.removed, decision.replayed)
        if settings.resolved_recover == "none":
            return None
        return recovered(self.analysis, pruned, removal, evidence, settings, self.watch.progress)


def _since(
    original: onnx.ModelProto, plain: onnx.ModelProto, repair: Recovery, evidence: Evidence
) -> Recovery:
    """Tell of a repair in several steps what it changed of the model that was proved, and what it gained.

    Raises OnnxPruneError where they differ in more than values.
    """
    found = differing(plain, repair.model)
    others = model_differences(plain, repair.model, frozenset(found))
    if others:
        raise OnnxPruneError(f"internal error: several steps lead to another model: {others[0]}")
    before = drift(original, plain, evidence.data.judge)
    if before <= repair.drift_after:
        return replace(repair, model=plain, repaired={}, drift_before=before, drift_after=before)
    return replace(repair, repaired=found, drift_before=before)


def attempted(
    analysis: Analysis, request: Request, cases: Cases, scores: np.ndarray, watch: Stopwatch
) -> Attempt:
    """Decide, rewrite and prove; drop the groups that fail, and try again.

    scores: importance by unit. Raises NothingToPrune where no channel goes, UnprovedError where
    nothing could be proved.
    """
    units = analysis.units
    dropped: list[Dropped] = []
    banned: set[int] = set()
    for _ in range(MAX_DROPS):
        decision = decide(units, request, scores, banned)
        watch.lap("decide")
        if not decision.removed.any():
            break
        pruned = rewritten(analysis.model, units.traced, decision.replayed)
        watch.lap("rewrite")
        steps = partial(watch.progress, "proof")
        outcome = proof(analysis, pruned, decision.replayed, decision.removed, cases, steps)
        watch.lap("verify")
        if outcome.status in (PROVED, WEAK) or (
            outcome.status == UNPROVED and request.settings.allow_unproved
        ):
            return Attempt(decision, pruned, outcome, tuple(dropped))
        if outcome.status == UNPROVED:
            raise UnprovedError(
                f"nothing could be proved: {outcome.reason}; --allow-unproved writes it all the same"
            )
        banned |= _drop(analysis, decision.replayed, decision.removed, outcome, dropped)
    if dropped:
        raise UnprovedError(
            f"nothing could be proved: {len(dropped)} groups failed, the first: {dropped[0].reason}"
        )
    raise NothingToPrune(f"nothing to prune: {_why_whole(request)}")


def _why_whole(request: Request) -> str:
    if not request.limits and not any(request.ratios.values()):
        return "a ratio of 0 removes no channel; give a larger one, such as 0.5"
    least = request.settings.min_channels
    return (
        f"the settings leave every group whole (widths go by {request.step}, {least} or more channels stay); "
        "ask for more, or cut exactly with --align 1"
    )


def _drop(
    analysis: Analysis, replayed: Replayed, removed: np.ndarray, outcome: Proof, dropped: list[Dropped]
) -> set[int]:
    assert outcome.status == FAILED
    groups = suspects(analysis, replayed, removed, outcome)
    first = outcome.failures[0]
    reason = (
        f"'{first.tensor}' differs by {first.max_abs_error:.2g}, allowed {first.tolerance:.2g} ({first.case})"
    )
    for g in sorted(groups):
        group = analysis.units.groups[g]
        dropped.append(Dropped(f"g{group.id}", group.name, reason))
    return groups
