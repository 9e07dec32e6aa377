"""A run as CSV: one row a model, for spreadsheets."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from onnxprune.errors import printable
from onnxprune.reports.columns import COLUMNS
from onnxprune.reports.ranking import ranked
from onnxprune.reports.record import Run

RECORD = (
    "id", "status", "exit_code", "reason", "attempts", "seconds", "peak_bytes", "log", "output", "page",
    "source", "input_sha256", "settings_sha256", "version",
)  # fmt: skip
FORMULA = ("=", "+", "-", "@")  # what spreadsheets take for the beginning of one


def header() -> tuple[str, ...]:
    """Return the names of all columns: the rank, of the record, then of the outcome."""
    return ("rank", *RECORD, *(name for column in COLUMNS for name in column.csv))


def table(run: Run) -> bytes:
    """Return a run as CSV in UTF-8, in the order of the leaderboard.

    What a spreadsheet would run as a formula begins with an apostrophe.
    """
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(header())
    for place, (record, outcome) in enumerate(ranked(run.records), 1):
        measured = [cell for column in COLUMNS for cell in column.cells(outcome)]
        told = (getattr(record, name) for name in RECORD)
        writer.writerow([_safe(cell) for cell in (place, *told, *measured)])
    return file.getvalue().encode()


def _safe(value: Any) -> Any:
    """Make a text harmless in a spreadsheet; a number that is not finite is an empty cell."""
    if isinstance(value, float):
        return value if math.isfinite(value) else ""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text
