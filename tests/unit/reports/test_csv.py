"""A run as CSV."""

from __future__ import annotations

import csv
import io

import pytest

from onnxprune.errors import printable
from onnxprune.reports.csv import header, table
from tests.report_data import record, run_of, zoo


def test_csv_has_a_row_a_model_and_no_formula() -> None:
    given = zoo()
    rows = list(csv.DictReader(io.StringIO(table(given).decode(), newline="")))
    assert len(rows) == len(given.records)
    assert tuple(rows[0]) == header()
    for row in rows:
        for cell in row.values():
            assert cell == "" or cell[0] not in "=+-@\t\r" or cell.lstrip("-").replace(".", "").isdigit()
            assert cell == printable(cell)
    good = next(r for r in rows if r["id"] == "a/good.onnx")
    assert (good["macs_before"], good["macs_after"], good["time_ratio"]) == ("2000", "600", "0.5")
    assert (good["drift"], good["drift_inputs"], good["exit_code"]) == ("0.05", "generated inputs", "0")
    assert next(r for r in rows if r["id"].startswith("'=1+1"))["exit_code"] == ""


@pytest.mark.parametrize("start", ["=", "+", "-", "@", " =", "\t=", "\r="])
def test_a_text_that_spreadsheets_run_begins_with_an_apostrophe(start: str) -> None:
    text = table(run_of(record(f"{start}cmd|' /C calc'!A0", "invalid", reason=f"{start}1"))).decode()
    row = next(csv.DictReader(io.StringIO(text, newline="")))
    for cell in (row["id"], row["reason"]):
        assert cell.startswith(("'", "\\t", "\\r"))
