"""A run as JUnit XML, which build servers show: one test case a model."""

from __future__ import annotations

from xml.etree import ElementTree as Tree

from onnxprune.errors import printable
from onnxprune.reports.reading import outcome_of
from onnxprune.reports.record import Record, Run

SUITE = "onnxprune batch"
FAILURES = (
    "ruined",
    "target-missed",
    "gate-failed",
    "unproved",
)  # judged and found wanting; other bad ends are errors


def junit(run: Run) -> bytes:
    """Return a run as JUnit XML; what XML cannot hold is escaped as text."""
    kinds = [_kind(record) for record in run.records]
    counts = {"tests": len(kinds), "failures": kinds.count("failure"), "errors": kinds.count("error"),
              "skipped": kinds.count("skipped")}  # fmt: skip
    about = {"name": SUITE, **{k: str(v) for k, v in counts.items()}, "time": f"{run.seconds:.3f}"}
    root = Tree.Element("testsuites", about)
    suite = Tree.SubElement(root, "testsuite", about)
    for record, kind in zip(run.records, kinds, strict=True):
        case = Tree.SubElement(
            suite, "testcase", classname=SUITE, name=printable(record.id), time=f"{record.seconds:.3f}"
        )
        if kind:
            found = Tree.SubElement(case, kind, message=printable(record.reason or record.status))
            if kind != "skipped":
                found.set("type", record.status)
                found.text = printable(f"{record.status}: {record.reason}; log: {record.log}")
        outcome = outcome_of(record)
        if outcome is not None:
            Tree.SubElement(case, "system-out").text = printable(outcome.headline)
    Tree.indent(root)
    return Tree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _kind(record: Record) -> str:
    if record.status == "done":
        return ""
    if record.status == "nothing":
        return "skipped"
    return "failure" if record.status in FAILURES else "error"
