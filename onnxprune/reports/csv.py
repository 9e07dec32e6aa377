"""A run as CSV: one row a model, for spreadsheets."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from typing import Any

from onnxprune.errors import printable
from onnxprune.reports.outcome import Outcome
from onnxprune.reports.reading import prune_report
from onnxprune.reports.record import Record, Run

RECORD = (
    "id", "status", "exit_code", "reason", "attempts", "seconds", "peak_bytes", "log", "output", "page",
    "source", "input_sha256", "settings_sha256", "version",
)  # fmt: skip
TIMES = {
    "ms_before": "before",
    "ms_after": "after",
    "time_ratio": "ratio",
    "time_low": "low",
    "time_high": "high",
}
QUANTITIES = ("params", "macs", "bytes")
COLUMNS = (
    *RECORD, "proof", *(f"{q}_{side}" for q in QUANTITIES for side in ("before", "after")), *TIMES,
    "drift", "drift_inputs", "metric", "metric_before",
    "metric_after",
)  # fmt: skip
FORMULA = ("=", "+", "-", "@")  # what spreadsheets take for the beginning of one


def table(run: Run) -> bytes:
    """Return a run as CSV in UTF-8; what a spreadsheet would run as a formula begins with an apostrophe."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    for record in run.records:
        row = dict(_cells(record))
        writer.writerow([_safe(row.get(column)) for column in COLUMNS])
    return file.getvalue().encode()


def _cells(record: Record) -> Iterator[tuple[str, Any]]:
    for name in RECORD:
        yield name, getattr(record, name)
    if record.report is None:
        return
    report = prune_report(record.report)
    outcome = Outcome(report)
    yield "proof", report.verification.status
    for quantity in QUANTITIES:
        yield f"{quantity}_before", getattr(report.before, quantity)
        yield f"{quantity}_after", getattr(report.after, quantity)
    if outcome.latency is not None:
        for column, field in TIMES.items():
            yield column, getattr(outcome.latency, field)
    if outcome.drift is not None:
        yield from (("drift", outcome.drift.value), ("drift_inputs", outcome.drift.inputs))
    if outcome.quality is not None:
        judged = outcome.quality
        yield from (
            ("metric", judged.metric),
            ("metric_before", judged.before),
            ("metric_after", judged.after),
        )


def _safe(value: Any) -> Any:
    """Make a text harmless in a spreadsheet; a number that is not finite is an empty cell."""
    if isinstance(value, float):
        return value if math.isfinite(value) else ""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text
