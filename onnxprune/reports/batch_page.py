"""The page of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from typing import Any
from urllib.parse import quote

from onnxprune.reports.columns import COLUMNS
from onnxprune.reports.outcome import BAD, CARE, PLAIN, Badge, Outcome
from onnxprune.reports.outcome import GOOD as FINE
from onnxprune.reports.pages import page
from onnxprune.reports.quality import decimal
from onnxprune.reports.ranking import rank
from onnxprune.reports.reading import outcome_of
from onnxprune.reports.record import GOOD, Record, Run
from onnxprune.reports.section import BATCH, drawn
from onnxprune.reports.wording import number, proof_line

TONES = {
    "done": FINE,
    "nothing": PLAIN,
    "ruined": BAD,
    "target-missed": CARE,
    "gate-failed": CARE,
    "unproved": CARE,
}
NAMES = {"nothing": "nothing to prune"}


@dataclass(frozen=True)
class Row:
    """One model of the page; anchor: the id of its row."""

    record: Record
    anchor: str

    @cached_property
    def outcome(self) -> Outcome | None:
        """Return how it came out, None where there is no report."""
        return outcome_of(self.record)

    @property
    def badge(self) -> Badge:
        """Return its status."""
        status = self.record.status
        tone = TONES.get(status, BAD)
        return Badge(NAMES.get(status, status.replace("-", " ")), tone, self.record.reason)

    @property
    def tone(self) -> str:
        """Return how good it is: of what was written on data, else that of its status."""
        done = self.record.status == "done" and self.outcome is not None
        return self.outcome.shade if done and self.outcome is not None else self.badge.tone

    @property
    def shaded(self) -> Badge:
        """Return its status in the tone of its quality."""
        return replace(self.badge, tone=self.tone)

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


@dataclass(frozen=True)
class Batch:
    """What the page of a batch tells."""

    run: Run

    @cached_property
    def rows(self) -> list[Row]:
        """Return all models."""
        return [Row(record, f"model-{place}") for place, record in enumerate(self.run.records)]

    @cached_property
    def board(self) -> list[Row]:
        """Return the models that were pruned, in the order of the leaderboard."""
        pruned = (row for row in self.rows if row.outcome is not None)
        return sorted(pruned, key=lambda row: rank(row.record, row.outcome))

    @cached_property
    def failures(self) -> list[Row]:
        """Return the models that failed or fell short."""
        return [row for row in self.rows if row.record.status not in GOOD]


def batch_page(run: Run) -> bytes:
    """Return the page as HTML."""
    batch = Batch(run)
    pruned = [row.outcome for row in batch.rows if row.record.status == "done" and row.outcome is not None]
    told = {
        "run": run, "headline": _headline(batch.rows), "badges": list(_counts(batch.rows)),
        "tiles": list(_tiles(pruned)), "sections": list(drawn(BATCH, batch)),
    }  # fmt: skip
    return page("batch.html", told)


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


def _tiles(pruned: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    """Sum up what was written: medians over models, and the bytes in all."""
    timed = [o.latency for o in pruned if o.latency is not None]
    if timed:
        faster = sum(latency.verdict == "faster" for latency in timed)
        yield {
            "label": "Speed, median",
            "value": f"{median(latency.speedup for latency in timed):.2f}×",
            "note": f"{faster} of {len(timed)} faster beyond noise",
        }
    for column in (COLUMNS.get("macs"), COLUMNS.get("params")):
        kept = [r.kept for o in pruned if (r := column.read(o)) is not None and r.kept is not None]
        if kept:
            yield {
                "label": f"{column.title}, median",
                "value": f"{100 * median(kept):.0f} %",
                "share": median(kept),
                "note": "of the original",
            }
    before, after = (sum(getattr(o.report, side).bytes for o in pruned) for side in ("before", "after"))
    if before:
        yield {
            "label": "Bytes, in all",
            "value": f"{100 * after / before:.0f} %",
            "share": after / before,
            "sizes": (before, after),
        }
    moved = [o.drift.value for o in pruned if o.drift is not None and o.judged]
    unsure = len(pruned) - len(moved)
    if moved:
        rest = f", {unsure} not judged" if unsure else ""
        yield {
            "label": "Drift on data, median",
            "value": decimal(median(moved)),
            "note": f"at most {decimal(max(moved))}{rest}",
        }
    elif pruned:
        yield {"label": "Quality", "value": "–", "note": "not judged: no data"}
