"""The columns of a model's outcome, each defined once: CSV, pages, `batch -v` and `compare` read them here.

A package may add its own: it names a module in the entry-point group `onnxprune.columns`, and that module
calls `COLUMNS.add`. Nothing heavy is imported here, so that the command line makes options of the limits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxprune.quantities import count, share, size
from onnxprune.registry import Registry
from onnxprune.reports.outcome import PLAIN
from onnxprune.reports.quality import UNRELIABLE, decimal, inputs_of, metric_value
from onnxprune.reports.wording import milliseconds

if TYPE_CHECKING:
    from onnxprune.reports.outcome import Outcome

SHARE, DIFFERENCE, RANK = "share", "difference", "rank"  # what a change is measured in
PROOFS = ("proved", "weak", "unproved", "failed")  # from best to worst


@dataclass(frozen=True)
class Cell:
    """What tables show: a number to sort by ("" for none), its text, small lines below, those to mind.

    tone: of the text.
    """

    sort: float | str
    text: str
    notes: tuple[str, ...] = ()
    minded: tuple[str, ...] = ()
    tone: str = PLAIN


@dataclass(frozen=True)
class Reading:
    """What a column says of one outcome: the value that is compared, and its text.

    cell: what tables show, where that is something else. fields: what CSV shows, where the column has more
    than one there. kept: the share of the original. interval: of the value, 95 %; a change counts only where
    these are apart. basis: what it was measured on or in; values on different bases are not compared, but
    told by `on_basis`.
    """

    value: float
    text: str
    cell: Cell | None = None
    fields: tuple[Any, ...] | None = None
    kept: float | None = None
    interval: tuple[float, float] | None = None
    basis: str = ""
    on_basis: str = ""
    less_is_better: bool = True

    @property
    def shown(self) -> Cell:
        """Return what tables show."""
        return self.cell or Cell(self.value, self.text)


@dataclass(frozen=True)
class Column:
    """One quantity of an outcome; read: None where it was not measured.

    name: in JSON, and the option of its limit; title: the head in tables; summary: what the limit is of.
    fields: its columns in CSV, () for one of its own name. place: tables show columns in the order of these,
    None for in none. limit: how much worse it may get before `compare` counts it, None where it is not
    compared; by: SHARE of the old value, DIFFERENCE in its own unit, or RANK, which has no option. spread:
    what the chart of kept shares calls it, "" where it is not there.
    """

    name: str
    title: str
    summary: str
    read: Callable[[Outcome], Reading | None]
    fields: tuple[str, ...] = ()
    place: int | None = 100
    limit: float | None = None
    by: str = SHARE
    spread: str = ""

    @property
    def csv(self) -> tuple[str, ...]:
        """Return its columns in CSV."""
        return self.fields or (self.name,)

    def cells(self, outcome: Outcome | None) -> tuple[Any, ...]:
        """Return what CSV shows under these; None for what was not measured."""
        found = None if outcome is None else self.read(outcome)
        if found is None:
            return (None,) * len(self.csv)
        return (found.value,) if found.fields is None else found.fields


COLUMNS: Registry[Column] = Registry("column", ("onnxprune.reports.columns",), "onnxprune.columns")


def tabled() -> list[Column]:
    """Return the columns of tables, in their order."""
    return sorted((c for c in COLUMNS if c.place is not None), key=lambda c: c.place or 0)


def _proof(outcome: Outcome) -> Reading:
    status = outcome.report.verification.status
    rank = PROOFS.index(status) if status in PROOFS else len(PROOFS)
    return Reading(rank, status, fields=(status,))


def _kept(name: str, printed: Callable[[float], str]) -> Callable[[Outcome], Reading]:
    """Read one of the quantities of a model, before and after."""

    def read(outcome: Outcome) -> Reading:
        before, after = getattr(outcome.report.before, name), getattr(outcome.report.after, name)
        kept = after / before if before else None
        cell = Cell(
            "" if kept is None else kept, share(after, before), (f"{printed(before)} → {printed(after)}",)
        )
        return Reading(after, printed(after), cell, (before, after), kept)

    return read


def _latency(outcome: Outcome) -> Reading | None:
    found = outcome.latency
    if found is None:
        return None
    times = f"{milliseconds(found.before)} → {milliseconds(found.after)}"
    minded = () if found.verdict == "faster" else (found.verdict,)
    return Reading(
        found.ratio, f"{100 * found.ratio:.1f} % of the original's",
        Cell(found.speedup, f"{found.speedup:.2f}×", (times,), minded),
        (found.before, found.after, found.ratio, found.low, found.high), found.ratio, (found.low, found.high),
    )  # fmt: skip


def _drift(outcome: Outcome) -> Reading | None:
    found = outcome.drift
    if found is None:
        return None
    text, inputs = decimal(found.value), found.inputs
    minded = ("unreliable",) if not found.judged and found.value > UNRELIABLE else ()
    notes = (inputs.replace(" data", ""),)
    cell = Cell(found.value, text if found.judged else f"({text})", notes, minded, outcome.shade)
    return Reading(
        found.value, text, cell, (found.value, inputs), basis=inputs, on_basis=f"{text} on {inputs}"
    )


def _agreement(outcome: Outcome) -> Reading | None:
    close = outcome.report.closeness
    if close is None or close.agreement is None:
        return None
    text, inputs = metric_value(close.agreement, "%"), inputs_of(close)
    notes = (close.metric, inputs.replace(" data", ""))
    return Reading(
        close.agreement, text,
        Cell(close.agreement, text if close.judged else f"({text})", notes, (), outcome.shade),
        (close.agreement, close.metric), basis=f"{close.metric} {inputs}",
        on_basis=f"{close.title} {text} on {inputs}", less_is_better=False,
    )  # fmt: skip


def _metric(outcome: Outcome) -> Reading | None:
    found = outcome.quality
    if found is None:
        return None
    before, after = (metric_value(v, found.unit) for v in (found.before, found.after))
    text = f"{found.metric} {after}"
    return Reading(
        found.after, text, Cell(found.after, after, (f"{before} before", found.name)),
        (found.metric, found.before, found.after), basis=found.metric, on_basis=text,
        less_is_better=found.lower_is_better,
    )  # fmt: skip


COLUMNS.add(Column("proof", "Proof", "", _proof, place=None, limit=0.0, by=RANK))
COLUMNS.add(Column(
    "params", "Parameters", "", _kept("params", count), ("params_before", "params_after"), 6,
    spread="Parameters",
))  # fmt: skip
COLUMNS.add(Column(
    "macs", "MACs", "Share by which MACs may grow.", _kept("macs", count), ("macs_before", "macs_after"), 5,
    limit=0.0, spread="MACs",
))  # fmt: skip
COLUMNS.add(Column(
    "size", "Bytes", "Share by which bytes may grow.", _kept("bytes", size), ("bytes_before", "bytes_after"),
    7, limit=0.0, spread="Bytes",
))  # fmt: skip
COLUMNS.add(Column(
    "latency", "Speed", "Share by which time, relative to the original's, may grow; it counts only where the "
    "95 % intervals are apart as well.",
    _latency, ("ms_before", "ms_after", "time_ratio", "time_low", "time_high"), 1, limit=0.05, spread="Time",
))  # fmt: skip
COLUMNS.add(Column(
    "drift", "Drift", "Share by which drift may grow.", _drift, ("drift", "drift_inputs"), 2, limit=0.05,
))  # fmt: skip
COLUMNS.add(Column(
    "agreement", "Agreement", "How much less both models may agree (0.01 is one point).",
    _agreement, ("agreement", "agreement_metric"), 3, limit=0.005, by=DIFFERENCE,
))  # fmt: skip
COLUMNS.add(Column(
    "metric", "Metric", "How much worse the metric may get, in its own units (0.01 of top1 is one point).",
    _metric, ("metric", "metric_before", "metric_after"), 4, limit=0.005, by=DIFFERENCE,
))  # fmt: skip
