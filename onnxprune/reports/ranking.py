"""The order of a leaderboard: what data calls good above what nobody judged, and that above failures."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.reports.outcome import Outcome
from onnxprune.reports.reading import outcome_of
from onnxprune.reports.record import Record


def rank(record: Record, outcome: Outcome | None) -> tuple[int, float, float, str]:
    """Return what leaderboards sort by: the least lost on data first, of equals the fastest.

    Models that were not judged follow, the fastest first; then those that fell short, and those without
    a result.
    """
    if outcome is None:
        return 3, 0.0, 0.0, record.id
    loss = outcome.loss
    level = 2 if record.status != "done" else 1 if loss is None else 0
    speed = outcome.latency.ratio if outcome.latency is not None else float("inf")
    return level, 0.0 if loss is None else loss, speed, record.id


def ranked(records: Sequence[Record]) -> list[tuple[Record, Outcome | None]]:
    """Return records with how they came out, in the order of a leaderboard. Raises UsageError."""
    found = [(record, outcome_of(record)) for record in records]
    return sorted(found, key=lambda pair: rank(*pair))
