"""Sensitivity: how far the outputs drift when shares of one group's channels go, group by group.

What is run is the masked original, which computes exactly what the pruned model without repair would:
whatever belongs to a removed channel goes with it, and normalisations are restricted to what is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from onnxprune.analysis.analyse import Analysis
from onnxprune.analysis.cost import macs
from onnxprune.analysis.patterns import groups_matching
from onnxprune.data.read import Calibration
from onnxprune.errors import UnprovedError, UsageError
from onnxprune.evaluation.drift import distances
from onnxprune.model.mapped import MappedModel
from onnxprune.model.runtime import one_line, open_session, run, runtime_errors
from onnxprune.oracle.masked import masked_original
from onnxprune.paths import open_file
from onnxprune.pipeline.inspect import inspected
from onnxprune.pipeline.report import calibration_report, cautions
from onnxprune.pipeline.resolve import calibration, evidence_of, scored
from onnxprune.planning.constraints import bundles
from onnxprune.planning.criterion import criterion_of
from onnxprune.planning.decide import Decision, Request, decide
from onnxprune.progress import Progress, silent
from onnxprune.reports.data import GroupInfo, GroupSensitivity, Point, SensitivityReport, SensitivityRun
from onnxprune.settings import PruneSettings, SensitivitySettings

Feeds: TypeAlias = Mapping[str, np.ndarray]
LABELS = "labels"


@dataclass(frozen=True)
class _Sample:
    """Batches to run, and the labels of each; None without labels."""

    batches: Sequence[Feeds]
    labels: Sequence[np.ndarray] | None

    @property
    def count(self) -> int:
        return sum(_length(batch) for batch in self.batches)


def measured(
    analysis: Analysis, nbytes: int, settings: SensitivitySettings, progress: Progress = silent
) -> SensitivityReport:
    """Measure every group of a model.

    Raises UsageError for data that does not fit the model and where no output holds floats,
    UnprovedError where onnxruntime cannot run it.
    """
    units = analysis.units
    data = calibration(analysis, settings.pruning(settings.shares[0]))
    sample = _sampled(data, labels_of(settings.calib, data), settings.samples)
    pruning = settings.pruning(settings.shares[0])
    excluded = groups_matching(units, settings.exclude, folded=analysis.folded)
    evidence = None
    criterion = criterion_of(pruning.resolved_criterion)
    if criterion.needs_data:
        evidence = evidence_of(analysis, data, pruning, progress)
    meter = _Meter(analysis, sample, scored(analysis, evidence, pruning, progress), excluded)
    shown = inspected(analysis, nbytes, ())
    leaves = [g for g in units.groups if g.level == 0 and g.id not in excluded]
    result = []
    for number, group in enumerate(leaves):
        result.append(meter.measured(shown.groups[group.id], settings))
        progress("sensitivity", number + 1, len(leaves))
    told = SensitivityRun(
        tuple(settings.ordered), criterion.name, settings.granularity, tuple(settings.exclude),
        settings.seed, calibration_report(data),
    )  # fmt: skip
    return SensitivityReport(
        shown.quantities,
        tuple(result),
        sample.count,
        meter.top1,
        told,
        warnings=cautions(analysis.model, data),
    )


def labels_of(source: Any, data: Calibration) -> list[np.ndarray] | None:
    """Return the labels beside calibration data, batch by batch; None where there are none.

    Raises UsageError where there are fewer than samples.
    """
    found: Any = None
    if isinstance(source, Mapping):
        found = source.get(LABELS)
    elif isinstance(source, (str, Path)) and str(source).endswith(".npz"):
        with open_file(source) as file, np.load(file, allow_pickle=False) as arrays:
            found = dict(arrays).get(LABELS)
    if found is None or LABELS in data.batches[0]:
        return None
    ends = np.cumsum([_length(batch) for batch in data.batches])
    values = np.asarray(found).reshape(-1)
    if len(values) < ends[-1]:
        raise UsageError(f"the calibration data holds {len(values)} labels for {ends[-1]} samples")
    return np.split(values[: ends[-1]], ends[:-1])


def _length(batch: Feeds) -> int:
    first = next(iter(batch.values()), np.zeros(0))
    return len(first) if first.ndim else 1


def _sampled(data: Calibration, labels: list[np.ndarray] | None, most: int) -> _Sample:
    """Take whole batches until there are enough samples, those first that rank no channel."""
    order = sorted(range(len(data.batches)), key=lambda i: (not data.held(i), i))
    sizes = np.cumsum([_length(data.batches[i]) for i in order])
    chosen = order[: int(np.searchsorted(sizes, most)) + 1]
    return _Sample([data.batches[i] for i in chosen], None if labels is None else [labels[i] for i in chosen])


class _Meter:
    """Removes shares of groups, one after the other, and runs what is left."""

    def __init__(
        self, analysis: Analysis, sample: _Sample, scores: np.ndarray, excluded: frozenset[int]
    ) -> None:
        self.analysis, self.sample, self.scores, self.excluded = analysis, sample, scores, excluded
        self.linked = {g: bundle.groups for bundle in bundles(analysis.units) for g in bundle.groups}
        try:
            self.reference = list(self._outputs(analysis.light))
        except runtime_errors() as error:
            raise UsageError(f"the model does not run on the calibration data: {one_line(error)}") from error
        if not self.reference[0]:
            raise UsageError("sensitivity needs a float output: the model has none")
        self.top1 = self._top1(self.reference)

    def measured(self, group: GroupInfo, settings: SensitivitySettings) -> GroupSensitivity:
        """Measure one group at every share; what cannot be run has no points, and a reason."""
        units, place = self.analysis.units, int(group.id[1:])
        members = tuple(dict.fromkeys(m.node or m.tensor for m in group.members if m.role == "produces"))
        points: list[Point] = []
        others: set[int] = set()
        reason = ""
        known: dict[bytes, Point] = {}
        failures: tuple[type[Exception], ...] = (UnprovedError, *runtime_errors())
        try:
            for share in settings.ordered:
                decision = self._decided(place, settings.pruning(share))
                others |= set(units.group_of_units[decision.removal.removed].tolist()) - {place, -1}
                points.append(self._point(place, share, decision, known))
        except failures as error:
            reason = one_line(error)
        leaves = [f"g{g}" for g in sorted(others) if units.groups[g].level == 0]
        return GroupSensitivity(
            group.id, group.name, group.channels, group.params_share, group.macs_share, members,
            tuple(leaves), tuple(points), reason,
        )  # fmt: skip

    def _decided(self, place: int, settings: PruneSettings) -> Decision:
        """Remove a share of a group by itself, or of all that are linked with it where it cannot go alone."""
        share = settings.ratio or 0.0
        units = self.analysis.units
        decision = None
        for ratios in ({place: share}, dict.fromkeys(self.linked[place], share)):
            request = Request(ratios, {}, self.excluded, 1, 0, settings)
            decision = decide(units, request, self.scores)
            if decision.removal.removed[units.groups[place].units].any() or len(self.linked[place]) == 1:
                break
        assert decision is not None
        return decision

    def _point(self, place: int, share: float, decision: Decision, known: dict[bytes, Point]) -> Point:
        analysis = self.analysis
        units, removal = analysis.units, decision.removal
        removed = removal.removed
        key = removed.tobytes()
        count = int(removed[units.groups[place].units].sum())
        if key in known:
            seen = known[key]
            return Point(share, count, seen.macs, seen.drift, seen.top1)
        cost = macs(units.traced, removal.replayed.sizes)
        if not removed.any():
            return Point(share, 0, cost, 0.0, self.top1)
        masked = masked_original(analysis.light, removal, analysis.dtypes)
        outputs = list(self._outputs(masked.model))
        known[key] = Point(
            share,
            count,
            cost,
            distances(zip(self.reference, outputs, strict=True)).worst,
            self._top1(outputs),
        )
        return known[key]

    def _outputs(self, model: MappedModel) -> Iterator[dict[str, np.ndarray]]:
        session = open_session(model, optimised=True)
        for batch in self.sample.batches:
            values = run(session, batch)
            yield {n: a for n, a in values.items() if isinstance(a, np.ndarray) and a.dtype.kind == "f"}

    def _top1(self, outputs: Sequence[Mapping[str, np.ndarray]]) -> float | None:
        """Return the share of samples whose largest value of the first output stands at the label."""
        if self.sample.labels is None:
            return None
        right = [
            next(iter(values.values())).reshape(len(labels), -1).argmax(axis=1) == labels
            for values, labels in zip(outputs, self.sample.labels, strict=True)
        ]
        return float(np.concatenate(right).mean())
