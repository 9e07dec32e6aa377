"""A run as JUnit XML."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as Tree

from onnxprune.reports.record import STATUSES
from onnxprune.reports.writing import write_all
from tests.report_data import zoo


def test_junit_counts_and_is_xml(tmp_path: Path) -> None:
    given = zoo()
    write_all(given, tmp_path)
    suite = Tree.parse(tmp_path / "junit.xml").getroot()[0]
    cases = suite.findall("testcase")
    assert len(cases) == len(given.records) == int(suite.attrib["tests"])
    assert int(suite.attrib["failures"]) == len(suite.findall("testcase/failure")) == 4
    assert int(suite.attrib["skipped"]) == len(suite.findall("testcase/skipped")) == 1
    assert int(suite.attrib["errors"]) == len(suite.findall("testcase/error")) == len(STATUSES) - 6 + 1
    by_name = {c.attrib["name"]: c for c in cases}
    assert not by_name["a/good.onnx"].findall("*[@message]")
    found = by_name["bad/timeout"].find("error")
    assert found is not None
    assert found.attrib == {"message": "why bad/timeout", "type": "timeout"}
    assert found.text == "timeout: why bad/timeout; log: logs/bad/timeout.log"
