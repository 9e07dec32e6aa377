"""An attempt: decide, rewrite, prove, drop what fails, and again; then repair what is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
import onnx

from onnxprune.analysis.analyse import Analysis
from onnxprune.analysis.cost import macs
from onnxprune.analysis.replay import Removal
from onnxprune.data.moments import Evidence
from onnxprune.errors import NothingToPrune, UnprovedError
from onnxprune.oracle.cases import Cases, proof, suspects
from onnxprune.oracle.prove import FAILED, PROVED, UNPROVED, WEAK, Proof
from onnxprune.pipeline.iterative_schedule import Stage, scheduled
from onnxprune.planning.decide import Decision, Request, decide
from onnxprune.progress import Stopwatch
from onnxprune.recovery.repair import Recovery, Repairs
from onnxprune.reports.data import Dropped, Step, TargetReport, Trial
from onnxprune.rewrite.apply import apply as rewritten

MAX_DROPS = 20


@dataclass(frozen=True)
class Attempt:
    """A decision carried out and judged; dropped: groups that stay, unproved, and why."""

    decision: Decision
    model: onnx.ModelProto
    outcome: Proof
    dropped: tuple[Dropped, ...]


@dataclass(frozen=True)
class Candidate:
    """A proved removal and its repair: what may become the result.

    reached: the qualities that were searched for; trials: the search; steps: what was left after those
    before the last.
    """

    attempt: Attempt
    repair: Recovery | None
    reached: Mapping[str, float] = field(default_factory=dict)
    trials: tuple[Trial, ...] = ()
    steps: tuple[Step, ...] = ()

    def targets(self, sought: Mapping[str, float]) -> dict[str, TargetReport]:
        """Return the limits of what was searched for, and what was reached."""
        least = {k: min((t[k] for t in self.trials), default=self.reached[k]) for k in sought}
        return {k: TargetReport(v, self.reached[k], least[k]) for k, v in sought.items()}

    @property
    def removal(self) -> Removal:
        """Return what goes."""
        return self.attempt.decision.removal

    @property
    def model(self) -> onnx.ModelProto:
        """Return the pruned model, repaired where that helped."""
        return self.attempt.model if self.repair is None else self.repair.model


@dataclass(frozen=True)
class RunContext:
    """What every attempt of a run starts from, worked out once.

    request: what is asked for; cases: inputs to prove with; scores: importance by unit of the original;
    evidence: what the calibration data says of it, None without data.
    """

    analysis: Analysis
    request: Request
    cases: Cases
    scores: np.ndarray
    evidence: Evidence | None
    watch: Stopwatch

    @cached_property
    def repairs(self) -> Repairs | None:
        """Return how models are repaired; None without data."""
        if self.evidence is None:
            return None
        settings = self.request.settings
        return Repairs(
            self.analysis.model, settings.resolved_recover, self.evidence.data, settings.memory_limit,
            self.watch.progress, self.analysis.units.traced.tensors,
        )  # fmt: skip

    def carried_out(self, limits: Mapping[str, float]) -> Candidate:
        """Remove, prove and repair. Raises as `attempted` does.

        limits: what may remain, instead of the request's.
        """
        request = replace(self.request, limits=limits)
        if self.evidence is None or self.repairs is None:
            return Candidate(attempted(self.analysis, request, self.cases, self.scores, self.watch), None)
        stage, taken = self._stepped(request, Stage(self.analysis, self.scores, self.evidence), self.repairs)
        attempt = attempted(self.analysis, request, self.cases, stage.scores, self.watch)
        removal = attempt.decision.removal
        begun = stage.pruned(removal.removed) if taken else attempt.model
        repair = self.repairs.repaired(begun, removal, stage.evidence)
        if repair is not None:
            repair = self.repairs.since(attempt.model, repair) if taken else repair
            repair = self.repairs.finished(repair, removal, self.evidence)
        self.watch.lap("recover")
        return Candidate(attempt, repair, steps=tuple(taken))

    def _stepped(self, request: Request, stage: Stage, repairs: Repairs) -> tuple[Stage, list[Step]]:
        """Take the steps before the last; return where they lead, and what each left."""
        units, steps = self.analysis.units, request.settings.steps
        taken: list[Step] = []
        for number in range(1, steps):
            removal = decide(units, scheduled(request, units, number / steps), stage.scores).removal
            if removal.removed.any():
                begun = stage.pruned(removal.removed)
                repair = repairs.repaired(begun, removal, stage.evidence)
                stage = stage.after(removal, begun if repair is None else repair.model, request)
                taken.append(Step(macs(units.traced, removal.replayed.sizes)))
            self.watch.lap("steps")
        return stage, taken


def attempted(
    analysis: Analysis, request: Request, cases: Cases, scores: np.ndarray, watch: Stopwatch
) -> Attempt:
    """Decide, rewrite and prove; drop the groups that fail, and try again.

    scores: importance by unit. Raises NothingToPrune where no channel goes, UnprovedError where
    nothing could be proved.
    """
    dropped: list[Dropped] = []
    banned: set[int] = set()
    for _ in range(MAX_DROPS):
        decision = decide(analysis.units, request, scores, banned)
        watch.lap("decide")
        if not decision.removal.removed.any():
            break
        pruned = rewritten(analysis.model, decision.removal)
        watch.lap("rewrite")
        steps = partial(watch.progress, "proof")
        outcome = proof(analysis, pruned, decision.removal, cases, steps)
        watch.lap("verify")
        if outcome.status in (PROVED, WEAK) or (
            outcome.status == UNPROVED and request.settings.allow_unproved
        ):
            return Attempt(decision, pruned, outcome, tuple(dropped))
        if outcome.status == UNPROVED:
            raise UnprovedError(
                f"nothing could be proved: {outcome.reason}; --allow-unproved writes it all the same"
            )
        banned |= _drop(analysis, decision.removal, outcome, dropped)
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


def _drop(analysis: Analysis, removal: Removal, outcome: Proof, dropped: list[Dropped]) -> set[int]:
    assert outcome.status == FAILED
    groups = suspects(analysis, removal, outcome)
    first = outcome.failures[0]
    reason = (
        f"'{first.tensor}' differs by {first.max_abs_error:.2g}, allowed {first.tolerance:.2g} ({first.case})"
    )
    for g in sorted(groups):
        group = analysis.units.groups[g]
        dropped.append(Dropped(f"g{group.id}", group.name, reason))
    return groups
