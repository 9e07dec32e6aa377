"""What got better and what got worse between two reports."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

from onnxprune.errors import UsageError
from onnxprune.quantities import count, size
from onnxprune.registries import METRICS
from onnxprune.reports.data import SCHEMA_VERSION, PruneReport
from onnxprune.reports.outcome import Outcome, decimal, metric_value
from onnxprune.reports.reading import prune_report, read_json, run_of
from onnxprune.reports.record import GOOD

MISSING = "missing"
BETTER, WORSE, SAME, CHANGED = "better", "worse", "same", "changed"
RANKS = {"done": 0, "nothing": 1, "target-missed": 2, "gate-failed": 3, "unproved": 3}
LAST = 4  # rank of everything that ended otherwise
PROOFS = ("proved", "weak", "unproved", "failed")  # from best to worst
ROUNDING = 1e-9


@dataclass(frozen=True)
class CompareLimits:
    """How much worse a number may get before it counts: shares of the old one, and for metric its own units.

    Latency counts only where the 95 % intervals are apart as well. Raises UsageError below 0.
    """

    size: float = 0.0
    macs: float = 0.0
    latency: float = 0.05
    drift: float = 0.05
    metric: float = 0.005

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value < math.inf:
                raise UsageError(f"--{name} must be at least 0: got {value:g}")


@dataclass(frozen=True)
class Finding:
    """One quantity of one model: old and new as text, the change as a share or difference, and a verdict."""

    model: str
    what: str
    old: str
    new: str
    change: float | None
    verdict: str


@dataclass(frozen=True)
class Compared:
    """Everything that was compared; notes: what the reader must know besides."""

    findings: tuple[Finding, ...]
    models: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def having(self, verdict: str) -> tuple[str, ...]:
        """Return the models with a finding of this verdict."""
        return tuple(dict.fromkeys(f.model for f in self.findings if f.verdict == verdict))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON of `compare`."""
        verdicts = {verdict: list(self.having(verdict)) for verdict in (WORSE, BETTER)}
        told = {"findings": [asdict(f) for f in self.findings], "notes": list(self.notes)}
        return {"schema_version": SCHEMA_VERSION, "models": len(self.models), **verdicts, **told}


@dataclass(frozen=True)
class Ended:
    """How one model ended in one of the reports."""

    status: str
    sha256: str
    outcome: Outcome | None


def compare(old: Path, new: Path, limits: CompareLimits | None = None) -> Compared:
    """Compare two report.json of batches, or two `prune --json`, model by model.

    Raises UsageError for files that are neither, or one of each.
    """
    before, after = _ends(old), _ends(new)
    if isinstance(before, Ended) != isinstance(after, Ended):
        raise UsageError(f"'{old}' and '{new}' are of different kinds: one is of a batch, one of a model")
    if isinstance(before, Ended) and isinstance(after, Ended):
        name = _name(after) or _name(before) or "the model"
        before, after = {name: before}, {name: after}
    assert isinstance(before, Mapping)
    assert isinstance(after, Mapping)
    names = sorted(before.keys() | after.keys())
    chosen = limits or CompareLimits()
    findings = [f for n in names for f in _findings(n, before.get(n), after.get(n), chosen)]
    return Compared(tuple(findings), tuple(names), tuple(_notes(before, after)))


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
        outcome = None if record.report is None else Outcome(prune_report(record.report))
        result[record.id] = Ended(record.status, record.input_sha256, outcome)
    return result


def _status(report: PruneReport) -> str:
    if report.validation is not None and not report.validation["passed"]:
        return "gate-failed"
    return "target-missed" if report.missed else "done"


def _name(ended: Ended) -> str:
    source = ended.outcome.report.source if ended.outcome is not None else None
    return "" if source is None else PurePath(source.name).name


def _findings(name: str, old: Ended | None, new: Ended | None, limits: CompareLimits) -> Iterator[Finding]:
    if old is None or new is None:
        before, after = (MISSING if side is None else side.status for side in (old, new))
        broken = after not in GOOD if old is None else before == "done"
        yield Finding(name, "model", before, after, None, WORSE if broken else CHANGED)
        return
    yield Finding(name, "status", old.status, new.status, None, _status_verdict(old.status, new.status))
    if old.sha256 != new.sha256:
        yield Finding(name, "input", old.sha256[:12] or "unread", new.sha256[:12] or "unread", None, CHANGED)
    if old.outcome is not None and new.outcome is not None:
        yield from _measured(name, old.outcome, new.outcome, limits)


def _status_verdict(old: str, new: str) -> str:
    before, after = RANKS.get(old, LAST), RANKS.get(new, LAST)
    return _verdict(after - before, 0) if before != after else SAME if old == new else CHANGED


def _measured(name: str, old: Outcome, new: Outcome, limits: CompareLimits) -> Iterator[Finding]:
    """Compare what was measured of a model; what only one side has is told as a change."""
    proofs = [o.report.verification["status"] for o in (old, new)]
    grades = [PROOFS.index(p) if p in PROOFS else len(PROOFS) for p in proofs]
    yield Finding(name, "proof", proofs[0], proofs[1], None, _verdict(grades[1] - grades[0], 0))
    sides = old.report.after, new.report.after
    yield _relative(name, "size", (sides[0].bytes, sides[1].bytes), limits.size, size)
    yield _relative(name, "macs", (sides[0].macs, sides[1].macs), limits.macs, count)
    if old.latency is not None and new.latency is not None:
        before, after = old.latency, new.latency
        change = after.ratio / before.ratio - 1
        apart = after.low > before.high or after.high < before.low
        verdict = _verdict(change, limits.latency) if apart else SAME
        yield Finding(name, "latency", _time(before.ratio), _time(after.ratio), change, verdict)
    elif old.latency is not None or new.latency is not None:
        yield _one_sided(name, "latency", old.latency is not None)
    yield from _drift(name, old, new, limits)
    yield from _metric(name, old, new, limits)


def _drift(name: str, old: Outcome, new: Outcome, limits: CompareLimits) -> Iterator[Finding]:
    if old.drift is None or new.drift is None:
        if old.drift is not new.drift:
            yield _one_sided(name, "drift", old.drift is not None)
    elif old.drift.inputs != new.drift.inputs:
        told = [f"{decimal(d.value)} on {d.inputs}" for d in (old.drift, new.drift)]
        yield Finding(name, "drift", told[0], told[1], None, CHANGED)
    else:
        yield _relative(name, "drift", (old.drift.value, new.drift.value), limits.drift, decimal)


def _metric(name: str, old: Outcome, new: Outcome, limits: CompareLimits) -> Iterator[Finding]:
    if old.quality is None or new.quality is None:
        if old.quality is not new.quality:
            yield _one_sided(name, "metric", old.quality is not None)
        return
    told = [f"{q.metric} {metric_value(q.after, q.metric)}" for q in (old.quality, new.quality)]
    if old.quality.metric != new.quality.metric:
        yield Finding(name, "metric", told[0], told[1], None, CHANGED)
        return
    change = new.quality.after - old.quality.after
    if old.quality.after == new.quality.after:  # both infinite, too
        change = 0.0
    metric = new.quality.metric
    lower_is_better = metric in METRICS and METRICS.get(metric).lower_is_better
    lost = change if lower_is_better else -change
    yield Finding(name, "metric", told[0], told[1], change, _verdict(lost, limits.metric))


def _relative(name: str, what: str, values: tuple[float, float], limit: float, printed: Any) -> Finding:
    """Compare two amounts of which less is better."""
    old, new = values
    if old == new:
        change = 0.0
    else:
        change = new / old - 1 if old and math.isfinite(old) else math.copysign(math.inf, new - old)
    return Finding(name, what, printed(old), printed(new), change, _verdict(change, limit))


def _one_sided(name: str, what: str, before: bool) -> Finding:
    texts = ("measured", "not measured") if before else ("not measured", "measured")
    return Finding(name, what, *texts, None, CHANGED)


def _verdict(change: float, limit: float) -> str:
    """Judge a change of which less is better."""
    if abs(change) <= limit + ROUNDING:
        return SAME
    return WORSE if change > 0 else BETTER


def _time(ratio: float) -> str:
    return f"{100 * ratio:.1f} % of the original's"


def _notes(old: Mapping[str, Ended], new: Mapping[str, Ended]) -> Iterator[str]:
    """Say where times were measured on different machines."""
    cpus = [
        {e.outcome.report.bench.get("cpu", "") for e in side.values() if e.outcome and e.outcome.report.bench}
        for side in (old, new)
    ]
    if all(cpus) and cpus[0] != cpus[1]:
        names = " and ".join(", ".join(sorted(c)) or "an unknown one" for c in cpus)
        yield f"timed on other processors ({names}): times relative to the original's may differ for that"
