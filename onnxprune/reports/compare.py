"""What got better and what got worse between two reports."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from msgspec import Struct

from onnxprune.errors import UsageError
from onnxprune.reports.columns import COLUMNS, RANK, SHARE, Column
from onnxprune.reports.data import PruneReport
from onnxprune.reports.outcome import RUINED, Outcome
from onnxprune.reports.reading import outcome_of, prune_report, read_json, run_of
from onnxprune.reports.record import GOOD

MISSING = "missing"
BETTER, WORSE, SAME, CHANGED = "better", "worse", "same", "changed"
RANKS = {"done": 0, "nothing": 1, "target-missed": 2, "ruined": 3, "gate-failed": 3, "unproved": 3}
LAST = 4  # rank of everything that ended otherwise
ROUNDING = 1e-9


class Finding(Struct, frozen=True):
    """One quantity of one model: old and new as text, the change as a share or difference, and a verdict."""

    model: str
    what: str
    old: str
    new: str
    change: float | None
    verdict: str


class Compared(Struct, frozen=True):
    """How many models were compared, which got worse and better, and all that was found of each.

    notes: what the reader must know besides.
    """

    models: int
    worse: tuple[str, ...]
    better: tuple[str, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    def having(self, verdict: str) -> tuple[str, ...]:
        """Return the models with a finding of this verdict."""
        return _having(self.findings, verdict)


@dataclass(frozen=True)
class Ended:
    """How one model ended in one of the reports."""

    status: str
    sha256: str
    outcome: Outcome | None


def compare(old: Path, new: Path, limits: Mapping[str, float] | None = None) -> Compared:
    """Compare two report.json of batches, or two `prune --json`, model by model.

    limits: how much worse a column may get before it counts, instead of its own limit. Raises UsageError
    for files that are neither, or one of each, for an unknown column, and for a limit below 0.
    """
    chosen = _limits(limits or {})
    before, after = _ends(old), _ends(new)
    if isinstance(before, Ended) != isinstance(after, Ended):
        raise UsageError(f"'{old}' and '{new}' are of different kinds: one is of a batch, one of a model")
    if isinstance(before, Ended) and isinstance(after, Ended):
        name = _name(after) or _name(before) or "the model"
        before, after = {name: before}, {name: after}
    assert isinstance(before, Mapping)
    assert isinstance(after, Mapping)
    names = sorted(before.keys() | after.keys())
    findings = tuple(f for n in names for f in _findings(n, before.get(n), after.get(n), chosen))
    worse, better = (_having(findings, verdict) for verdict in (WORSE, BETTER))
    return Compared(len(names), worse, better, findings, tuple(_notes(before, after)))


def _limits(given: Mapping[str, float]) -> dict[str, float]:
    """Return the limit of every column that is compared."""
    for name, value in given.items():
        COLUMNS.get(name)
        if not 0 <= value < math.inf:
            raise UsageError(f"--{name} must be at least 0: got {value:g}")
    return {c.name: given.get(c.name, c.limit) for c in COLUMNS if c.limit is not None}


def _having(findings: tuple[Finding, ...], verdict: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(f.model for f in findings if f.verdict == verdict))


def _ends(path: Path) -> Ended | Mapping[str, Ended]:
    """Read a report: of a model, or of several by their names."""
    data = read_json(path)
    if "records" not in data:
        report = prune_report(data)
        return Ended(
            _status(report), report.source.sha256 if report.source is not None else "", Outcome(report)
        )
    result = {}
    for record in run_of(data, f"'{path}'").records:
        result[record.id] = Ended(record.status, record.input_sha256, outcome_of(record))
    return result


def _status(report: PruneReport) -> str:
    outcome = Outcome(report)
    if not all(outcome.gates):
        return "gate-failed"
    if outcome.ruined:
        return RUINED
    return "target-missed" if report.missed else "done"


def _name(ended: Ended) -> str:
    source = ended.outcome.report.source if ended.outcome is not None else None
    return "" if source is None else PurePath(source.name).name


def _findings(
    name: str, old: Ended | None, new: Ended | None, limits: Mapping[str, float]
) -> Iterator[Finding]:
    if old is None or new is None:
        before, after = (MISSING if side is None else side.status for side in (old, new))
        broken = after not in GOOD if old is None else before == "done"
        yield Finding(name, "model", before, after, None, WORSE if broken else CHANGED)
        return
    yield Finding(name, "status", old.status, new.status, None, _status_verdict(old.status, new.status))
    if old.sha256 != new.sha256:
        yield Finding(name, "input", old.sha256[:12] or "unread", new.sha256[:12] or "unread", None, CHANGED)
    if old.outcome is not None and new.outcome is not None:
        for column, limit in limits.items():
            yield from _compared(name, COLUMNS.get(column), (old.outcome, new.outcome), limit)


def _status_verdict(old: str, new: str) -> str:
    before, after = RANKS.get(old, LAST), RANKS.get(new, LAST)
    return _verdict(after - before, 0) if before != after else SAME if old == new else CHANGED


def _compared(
    model: str, column: Column, outcomes: tuple[Outcome, Outcome], limit: float
) -> Iterator[Finding]:
    """Compare one column; what only one side has, or has on another basis, is told as a change."""
    old, new = (column.read(outcome) for outcome in outcomes)
    if old is None or new is None:
        if old is not new:
            texts = ("not measured", "measured") if old is None else ("measured", "not measured")
            yield Finding(model, column.name, *texts, None, CHANGED)
        return
    if old.basis != new.basis:
        yield Finding(model, column.name, old.on_basis, new.on_basis, None, CHANGED)
        return
    change = _change(column.by, old.value, new.value)
    verdict = _verdict(change if new.less_is_better else -change, limit)
    if old.interval is not None and new.interval is not None and _meet(old.interval, new.interval):
        verdict = SAME
    yield Finding(model, column.name, old.text, new.text, None if column.by == RANK else change, verdict)


def _change(by: str, old: float, new: float) -> float:
    """Return a change: a difference, or a share of the old value."""
    if old == new:  # both infinite, too
        return 0.0
    if by != SHARE:
        return new - old
    return new / old - 1 if old and math.isfinite(old) else math.copysign(math.inf, new - old)


def _meet(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def _verdict(change: float, limit: float) -> str:
    """Judge a change of which less is better."""
    if abs(change) <= limit + ROUNDING:
        return SAME
    return WORSE if change > 0 else BETTER


def _notes(old: Mapping[str, Ended], new: Mapping[str, Ended]) -> Iterator[str]:
    """Say where times were measured on different machines."""
    cpus = [
        {e.outcome.report.bench.cpu for e in side.values() if e.outcome and e.outcome.report.bench}
        for side in (old, new)
    ]
    if all(cpus) and cpus[0] != cpus[1]:
        names = " and ".join(", ".join(sorted(c)) or "an unknown one" for c in cpus)
        yield f"timed on other processors ({names}): times relative to the original's may differ for that"
