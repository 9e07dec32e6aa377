"""Reports are read back as they were written, and what is none is refused in one line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from msgspec import to_builtins

import onnxprune
from onnxprune.errors import UsageError
from onnxprune.evaluation.validation import Validated
from onnxprune.oracle.prove import Verification
from onnxprune.reports.compare import compare
from onnxprune.reports.data import RecoveryReport, TargetReport, Trial
from onnxprune.reports.model_page import Page, model_page
from onnxprune.reports.plain import plain, versioned
from onnxprune.reports.reading import prune_report, read_json, read_run
from onnxprune.reports.writing import write_all
from tests.report_data import harmless, record, report, run_of, zoo


def test_json_is_read_back_as_it_was(tmp_path: Path) -> None:
    given = zoo()
    write_all(given, tmp_path)
    found = read_run(tmp_path / "report.json")
    assert plain(to_builtins(found.records)) == plain(to_builtins(given.records))
    assert (found.environment, found.settings, found.seconds) == (given.environment, given.settings, 60.0)
    again = tmp_path / "again"
    again.mkdir()
    write_all(found, again)
    for name in ("report.html", "report.json", "report.csv", "junit.xml"):
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema_version": 2}', '{"schema_version": 1}', '"\xff'])
def test_what_is_no_report_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError) as caught:
        read_run(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="cannot be read"):
        read_json(tmp_path / "none")


def test_a_status_of_another_version_is_refused(tmp_path: Path) -> None:
    write_all(run_of(record("a", "shrunk")), tmp_path)
    with pytest.raises(UsageError, match="status 'shrunk'"):
        read_run(tmp_path / "report.json")


def test_numbers_that_are_not_finite_do_not_stop_a_report(tmp_path: Path) -> None:
    odd = report(
        verification=Verification("failed", math.inf, math.nan, 1),
        recovery=RecoveryReport("ls", 4, 1, math.inf, math.nan),
        validation=Validated("psnr", 100.0, -math.inf, math.inf, 1.0, False, 4),
        targets={"drift": TargetReport(0.1, math.inf)},
        search=(Trial({"asked": 0.5, "macs_share": 0.5, "drift": math.inf, "holds": False}),),
    )
    write_all(run_of(record("odd", "gate-failed", odd)), tmp_path)
    (found,) = read_run(tmp_path / "report.json").records
    assert found.report is not None
    back = prune_report(found.report)
    assert back.missed == ("drift",)
    page = harmless(model_page(Page(back, {})))
    assert "not finite" in page.text
    assert back.search == odd.search
    assert back.recovery == RecoveryReport("ls", 4, 1, math.inf, math.inf)


def holds(new: object, old: object) -> bool:
    """Tell whether all that an older file says stands in a newer one, which may say more."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(key in new and holds(new[key], old[key]) for key in old)
    return new == old


def test_a_file_of_0_1_0_is_compared_and_another_shape_is_refused_with_the_version(
    tmp_path: Path,
) -> None:
    old = Path(__file__).with_name("prune_0_1_0.json")
    assert holds(versioned(prune_report(read_json(old))), json.loads(old.read_text()))
    assert not compare(old, old).worse
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**json.loads(old.read_text()), "verification": {"state": "proved"}}))
    with pytest.raises(UsageError, match=rf"prune --json` {onnxprune.__version__}: .*verification") as caught:
        compare(old, other)
    assert "\n" not in str(caught.value)
