"""The page of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any
from urllib.parse import quote

from onnxprune.reports.distribution_chart import Distribution, distribution_chart
from onnxprune.reports.facts import facts
from onnxprune.reports.outcome import BAD, CARE, PLAIN, Badge, Outcome, decimal
from onnxprune.reports.outcome import GOOD as FINE
from onnxprune.reports.pages import page
from onnxprune.reports.reading import prune_report
from onnxprune.reports.record import GOOD, Record, Run
from onnxprune.reports.scatter import Dot, scatter
from onnxprune.reports.wording import number, proof_line

TONES = {"done": FINE, "nothing": PLAIN, "target-missed": CARE, "gate-failed": CARE, "unproved": CARE}
NAMES = {"nothing": "nothing to prune"}
QUANTITIES = (("MACs", "macs"), ("Parameters", "params"), ("Bytes", "bytes"))


@dataclass(frozen=True)
class Row:
    """One model of the page; anchor: the id of its row."""

    record: Record
    anchor: str

    @cached_property
    def outcome(self) -> Outcome | None:
        """Return how it came out, None where there is no report."""
        return None if self.record.report is None else Outcome(prune_report(self.record.report))

    @property
    def badge(self) -> Badge:
        """Return its status."""
        status = self.record.status
        tone = TONES.get(status, BAD)
        return Badge(NAMES.get(status, status.replace("-", " ")), tone, self.record.reason)

    @property
    def log(self) -> str:
        """Return the address of its log, relative to the page of the batch."""
        return _address(self.record.log)

    @property
    def page(self) -> str:
        """Return the address of its own page, "" where there is none."""
        return "" if self.record.page is None else _address(self.record.page)

    @property
    def proof(self) -> str:
        """Say how the proof came out."""
        return "" if self.outcome is None else proof_line(self.outcome.report.verification)


def _address(path: str) -> str:
    """Quote a relative path; bytes that are no text stay as they are."""
    return quote(path, errors="surrogateescape" if _from_bytes(path) else "replace")


def _from_bytes(path: str) -> bool:
    """Tell whether all surrogates stand for bytes, as those of `os.fsdecode` do."""
    return not any("\ud800" <= c <= "\udfff" and not "\udc80" <= c <= "\udcff" for c in path)


def batch_page(run: Run) -> bytes:
    """Return the page as HTML."""
    rows = [Row(record, f"model-{place}") for place, record in enumerate(run.records)]
    pruned = [row for row in rows if row.record.status == "done" and row.outcome is not None]
    board = sorted((row for row in rows if row.outcome is not None), key=_rank)
    dots = list(_dots(board))
    return page(
        "batch.html",
        run=run,
        headline=_headline(rows),
        tone=FINE if all(r.record.status in GOOD for r in rows) else CARE,
        badges=list(_counts(rows)),
        tiles=list(_tiles(pruned)),
        board=board,
        failures=[row for row in rows if row.record.status not in GOOD],
        whole=[row for row in rows if row.record.status == "nothing"],
        scatter=scatter(dots) if dots else None,
        fell_short=any(dot.tone != FINE for dot in dots),
        unplaced=len(board) - len(dots),
        distribution_chart=distribution_chart(list(_strips(board))) if board else None,
        settings=list(facts(run.settings)),
        environment=list(facts(run.environment)),
    )


def _rank(row: Row) -> tuple[bool, float, str]:
    """Put done models first, the fastest on top."""
    latency = None if row.outcome is None else row.outcome.latency
    return row.record.status != "done", latency.ratio if latency is not None else 9e9, row.record.id


def _headline(rows: Sequence[Row]) -> str:
    done = sum(row.record.status == "done" for row in rows)
    whole = sum(row.record.status == "nothing" for row in rows)
    bad = len(rows) - done - whole
    parts = [f"{done} of {number(len(rows), 'model')} pruned and written"]
    parts += [f"{whole} had nothing to prune"] if whole else []
    parts += [f"{bad} failed or fell short"] if bad else []
    return ", ".join(parts) + "."


def _counts(rows: Sequence[Row]) -> Iterator[Badge]:
    """Count models by status, the good ones first."""
    order = (FINE, PLAIN, CARE, BAD)
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.record.status, []).append(row)
    for _, same in sorted(
        found.items(), key=lambda item: (order.index(item[1][0].badge.tone), -len(item[1]), item[0])
    ):
        yield Badge(f"{len(same)} {same[0].badge.text}", same[0].badge.tone)


def _tiles(pruned: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Sum up what was written: medians over models, and the bytes in all."""
    outcomes = [row.outcome for row in pruned if row.outcome is not None]
    timed = [o.latency.speedup for o in outcomes if o.latency is not None]
    if timed:
        faster = sum(o.latency is not None and o.latency.verdict == "faster" for o in outcomes)
        yield {
            "label": "Speed, median",
            "value": f"{median(timed):.2f}×",
            "note": f"{faster} of {len(timed)} faster beyond noise",
        }
    for label, name in QUANTITIES[:2]:
        kept = [s for o in outcomes if (s := _kept(o, name)) is not None]
        if kept:
            yield {
                "label": f"{label}, median",
                "value": f"{100 * median(kept):.0f} %",
                "share": median(kept),
                "note": "of the original",
            }
    before, after = (sum(getattr(o.report, side).bytes for o in outcomes) for side in ("before", "after"))
    if before:
        yield {
            "label": "Bytes, in all",
            "value": f"{100 * after / before:.0f} %",
            "share": after / before,
            "sizes": (before, after),
        }
    moved = [o.drift.value for o in outcomes if o.drift is not None]
    if moved:
        yield {
            "label": "Drift, median",
            "value": decimal(median(moved)),
            "note": f"at most {decimal(max(moved))}",
        }


def _kept(outcome: Outcome, name: str) -> float | None:
    before, after = (getattr(q, name) for q in (outcome.report.before, outcome.report.after))
    return after / before if before else None


def _dots(board: Sequence[Row]) -> Iterator[Dot]:
    for row in board:
        outcome = row.outcome
        if outcome is not None and outcome.latency is not None and outcome.drift is not None:
            speedup, moved = outcome.latency.speedup, outcome.drift
            place = f"{speedup:.2f}× as fast, drift {decimal(moved.value)} on {moved.inputs}"
            told = f"{row.record.id}: {place}, {row.badge.text}"
            name = row.record.id.rsplit("/", 1)[-1].removesuffix(".onnx")
            yield Dot(name, moved.value, speedup, row.badge.tone, told, row.anchor)


def _strips(board: Sequence[Row]) -> Iterator[Distribution]:
    outcomes = [(row.outcome, row.record.id) for row in board if row.outcome is not None]
    for label, name in QUANTITIES:
        yield Distribution(label, [(s, id_) for o, id_ in outcomes if (s := _kept(o, name)) is not None])
    yield Distribution("Time", [(o.latency.ratio, id_) for o, id_ in outcomes if o.latency is not None])
