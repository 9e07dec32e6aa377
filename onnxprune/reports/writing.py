"""The reports of a batch, each written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

from onnxprune.model.files import write_file
from onnxprune.reports.batch_page import batch_page
from onnxprune.reports.csv import table
from onnxprune.reports.junit import junit
from onnxprune.reports.plain import versioned
from onnxprune.reports.ranking import ranked
from onnxprune.reports.record import Run


def write_all(run: Run, folder: Path) -> None:
    """Write report.html, report.json, report.csv and junit.xml into a folder.

    Raises UsageError where that is not possible, ResourceError when the disk is full.
    """
    write_file(folder / "report.json", run_json(run))
    write_file(folder / "report.csv", table(run))
    write_file(folder / "junit.xml", junit(run))
    write_file(folder / "report.html", batch_page(run))


def run_json(run: Run) -> bytes:
    """Return a run as JSON, one record a line, with the ids in the order of the leaderboard (`ranking`);
    `read_run` is the inverse.
    """
    data = versioned(run) | {"ranking": [record.id for record, _ in ranked(run.records)]}
    lines = ",\n".join(json.dumps(record) for record in data.pop("records"))
    rest = json.dumps(data)[1:-1]
    return f'{{{rest}, "records": [\n{lines}\n]}}\n'.encode()
