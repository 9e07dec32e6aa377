"""A run as CSV: one row a model, for spreadsheets."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from onnxprune.errors import printable
from onnxprune.reports.columns import COLUMNS
from onnxprune.reports.reading import outcome_of
from onnxprune.reports.record import Run

RECORD = (
    "id", "status", "exit_code", "reason", "attempts", "seconds", "peak_bytes", "log", "output", "page",
    "source", "input_sha256", "settings_sha256", "version",
)  # fmt: skip
FORMULA = ("=", "+", "-", "@")  # what spreadsheets take for the beginning of one


def header() -> tuple[str, ...]:
    """Return the names of all columns: of the record, then of the outcome."""
    return (*RECORD, *(name for column in COLUMNS for name in column.csv))


def table(run: Run) -> bytes:
    """Return a run as CSV in UTF-8; what a spreadsheet would run as a formula begins with an apostrophe."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(header())
    for record in run.records:
        outcome = outcome_of(record)
        measured = [cell for column in COLUMNS for cell in column.cells(outcome)]
        writer.writerow([_safe(cell) for cell in (*(getattr(record, name) for name in RECORD), *measured)])
    return file.getvalue().encode()


def _safe(value: Any) -> Any:
    """Make a text harmless in a spreadsheet; a number that is not finite is an empty cell."""
    if isinstance(value, float):
        return value if math.isfinite(value) else ""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text
