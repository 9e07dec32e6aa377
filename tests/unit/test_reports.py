"""Reports: pages, tables and JUnit say what the data says, and show hostile names harmlessly."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Tree

import numpy as np
import pytest
from click.testing import CliRunner, Result

import onnxprune
from onnxprune import PruneSettings, SideFiles
from onnxprune.cli.app import program
from onnxprune.errors import GateFailed, UsageError, printable
from onnxprune.reports.command import command
from onnxprune.reports.csv import COLUMNS, table
from onnxprune.reports.data import PruneReport
from onnxprune.reports.environment import environment
from onnxprune.reports.model_page import Page, kinds, model_page, ranges
from onnxprune.reports.outcome import Outcome
from onnxprune.reports.plain import plain
from onnxprune.reports.reading import prune_report, read_json, read_run
from onnxprune.reports.record import STATUSES, Run
from onnxprune.reports.scales import logarithmic, nice_ticks
from onnxprune.reports.writing import write_all
from tests.report_data import HOSTILE, Elements, bench, harmless, record, report, run_of, two_convs

MODELS = Path(__file__).parents[2] / "models"
RESNET, CALIB, EVAL = (MODELS / n for n in ("digits_resnet.onnx", "digits_calib.npz", "digits_eval.npz"))
QUICK = ("--ratio", "0.5", "--no-bench")


def run(*args: object) -> Result:
    return CliRunner().invoke(program, [str(a) for a in args])


# the page of one model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[PruneReport, bytes]:
    """A report with everything in it, and its page."""
    folder = tmp_path_factory.mktemp("page")
    curves = folder / "curves.json"
    first = run("sensitivity", RESNET, "--calib", EVAL, "--samples", 16, "--share", 0.5, "--json")
    curves.write_text(first.stdout)
    given = ("--target", "macs=0.5", "--align", 4, "--calib", CALIB, "--recover", "ls", "--validate", EVAL)
    made = run("prune", RESNET, "-o", folder / "o.onnx", *given, "--report", folder / "page.html",
               "--sensitivity", curves, "--json")  # fmt: skip
    assert made.exit_code == 0, made.stderr
    return prune_report(json.loads(made.stdout)), (folder / "page.html").read_bytes()


def test_the_page_tells_the_numbers_of_the_report(whole: tuple[PruneReport, bytes]) -> None:
    report_, page = whole
    found = harmless(page)
    outcome = Outcome(report_)
    assert outcome.headline in found.text
    assert outcome.latency is not None
    assert f"{outcome.latency.speedup:.2f}×" in found.text
    assert "18.7 M" in found.text
    assert "top-1 accuracy 99.4 %" in found.text
    assert "the interface of the model does not change" in found.text
    assert report_.source is not None
    assert report_.source.sha256 in found.text
    for group in report_.groups:
        assert group.maker in found.text
    for name in ("conv", "Conv", "onnxruntime", "--target macs=0.5"):
        assert name.lower() in found.text.lower()


def test_pictures_have_labels_and_every_place_tells_its_numbers(whole: tuple[PruneReport, bytes]) -> None:
    report_, page = whole
    found = harmless(page)
    pictures = found.all("svg")
    assert {p["class"] for p in pictures} == {"channels", "work", "sensitivity"}
    ids = [attributes["id"] for _, attributes in found.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for picture in pictures:
        assert picture["role"] == "img"
        assert set((picture["aria-labelledby"] or "").split()) <= set(ids)
    for group in report_.groups:
        assert f"{group.maker}: {group.channels} → {group.kept} channels" in found.text
    assert len([1 for tag, a in found.found if tag == "g" and a.get("class") == "place"]) == len(
        report_.groups
    ) + len(report_.layers)


def test_the_plan_in_the_page_makes_the_same_model(tmp_path: Path) -> None:
    from base64 import b64decode

    given = PruneSettings(ratio=0.5, bench=False)
    made = onnxprune.prune(RESNET, given, beside=SideFiles(page=tmp_path / "page.html"))
    (link,) = Elements((tmp_path / "page.html").read_bytes()).all("a")
    plan = b64decode((link["href"] or "").partition("base64,")[2])
    again = onnxprune.apply(RESNET, plan)
    assert again.model.SerializeToString() == made.model.SerializeToString()


def test_layers_and_makers_add_up_and_follow_the_graph(whole: tuple[PruneReport, bytes]) -> None:
    report_, _ = whole
    assert sum(x.before for x in report_.layers) == report_.before.macs
    assert sum(x.after for x in report_.layers) == report_.after.macs
    places = [x.place for x in report_.layers]
    assert places == sorted(places)
    first = {x.node: x.place for x in report_.layers}
    assert all(first[g.maker] == g.place for g in report_.groups)
    assert 0 < report_.frozen_params < report_.before.params
    by_kind = {k.op: k for k in kinds(report_)}
    assert by_kind["Conv"].macs[0] + by_kind["Gemm"].macs[0] == report_.before.macs
    assert by_kind["Conv"].ms is not None
    assert by_kind["Conv"].ms[0] > by_kind["Conv"].ms[1] > 0


def test_only_detailed_runs_measure_what_pages_show() -> None:
    brief = onnxprune.prune(two_convs("n"), PruneSettings(ratio=0.5, align=1, bench=False)).report
    assert brief.drift is None
    assert brief.profile is None
    full = onnxprune.prune(
        two_convs("n"), PruneSettings(ratio=0.5, align=1, bench=False, detailed=True)
    ).report
    assert full.drift is not None
    assert full.profile is None  # --no-bench
    assert full.drift["inputs"] == "generated"
    assert 0 < full.drift["value"] < 2


def test_hostile_names_are_shown_harmlessly(tmp_path: Path) -> None:
    name = HOSTILE.replace("\ud800", "").replace("\x00", "")  # what a model can hold
    given = PruneSettings(ratio=0.5, align=1)
    onnxprune.prune(two_convs(name), given, beside=SideFiles(page=tmp_path / "page.html"))
    found = harmless((tmp_path / "page.html").read_bytes())
    assert printable(f"first {name}") in found.text
    assert "\\u202e" in found.text
    assert "\\x1b[31m" in found.text
    assert "<script>alert('x')</script>" in found.text  # as text, which was escaped


def test_a_hostile_report_makes_a_harmless_page() -> None:
    found = harmless(model_page(Page(report(HOSTILE), {HOSTILE: HOSTILE}, output=HOSTILE)))
    assert found.text.count("\\ud800") > 10


def test_the_gate_failed_is_told_in_the_page_and_no_model_is_written(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    given = PruneSettings(ratio=0.75, bench=False, validate=EVAL, max_drop=0.01)
    with pytest.raises(GateFailed):
        onnxprune.prune(RESNET, given, tmp_path / "o.onnx", beside=SideFiles(page=page))
    found = harmless(page.read_bytes())
    assert "Refused by the gate" in found.text
    assert "gate failed" in found.text
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("other", ["o.onnx", "plan.json"])
def test_two_files_of_one_name_are_refused_before_any_work(tmp_path: Path, other: str) -> None:
    files = ("-o", tmp_path / "o.onnx", "--plan", tmp_path / "plan.json", "--report", tmp_path / other)
    result = run("prune", RESNET, *files, *QUICK)
    assert result.exit_code == 2
    assert "is named for two files" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_page_that_exists_is_kept_unless_forced(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine")
    files = ("-o", tmp_path / "o.onnx", "--report", page)
    result = run("prune", RESNET, *files, *QUICK)
    assert result.exit_code == 2
    assert "--force" in result.stderr
    assert page.read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    assert run("prune", RESNET, *files, *QUICK, "--force").exit_code == 0
    harmless(page.read_bytes())


def test_sensitivity_without_a_page_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "x.json"
    other.write_text('{"schema_version": 1, "groups": []}')
    files = ("prune", RESNET, "-o", tmp_path / "o.onnx", *QUICK, "--sensitivity", other)
    assert "--report" in run(*files).stderr
    result = run(*files, "--report", tmp_path / "p.html")
    assert result.exit_code == 2
    assert "sensitivity --json" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


# words and numbers


@pytest.mark.parametrize(
    ("given", "tone", "wanted"),
    [
        ({"dropped": ()}, "good", "2.00× as fast, with 30.0 % of the MACs and 50.0 % of the bytes"),
        ({}, "care", "2.00× as fast"),
        ({"dropped": (), "bench": bench(1.0, 1.0)}, "care", "No faster than the original"),
        ({"dropped": (), "bench": bench(1.0, 1.5)}, "care", "Slower than the original"),
        ({"dropped": (), "bench": None}, "good", "Not timed"),
        ({"dropped": (), "targets": {"macs": {"limit": 1.0, "reached": 2.0}}}, "care", "2.00× as fast"),
        ({"drift": {"value": None, "samples": 8, "inputs": "generated"}}, "care", "drift by not finite"),
    ],
)
def test_the_verdict(given: dict[str, Any], tone: str, wanted: str) -> None:
    outcome = Outcome(report(**given))
    assert outcome.tone == tone
    assert wanted in outcome.headline
    assert outcome.headline in harmless(model_page(Page(outcome.report, {}))).text


def test_the_command_of_a_page_is_the_one_that_was_run(tmp_path: Path) -> None:
    given = (
        "--ratio", "0.5", "--ratio", "2.body*=0.25", "--exclude", "re:^/[67]/ ?",
        "--criterion", "wanda", "--calib", str(CALIB), "--recover", "ls", "--align", "4", "--seed", "3",
        "--input-shape", "input:2,1,16,?", "--no-bench", "--json", "--dry-run",
    )  # fmt: skip
    first = json.loads(run("prune", RESNET, *given).stdout)
    text = " ".join(command(first["settings"], str(RESNET), str(tmp_path / "o.onnx")))
    again = json.loads(run(*shlex.split(text)[1:], "--no-bench", "--json").stdout)
    assert again["settings"] == first["settings"]
    assert again["groups"] == first["groups"]


def test_the_command_quotes_and_names_what_python_gave() -> None:
    settings = {
        "targets": {"macs": 0.5, "size": 12345678.0},
        "calib": "given in Python",
        "exclude": ["a b'c"],
    }
    text = " ".join(command(settings, "my model.onnx", ""))
    assert shlex.split(text) == [
        "onnxprune", "prune", "my model.onnx", "-o", "OUT", "--target", "macs=0.5", "--target",
        "size=12345678", "--exclude", "a b'c", "--calib", "DATA",
    ]  # fmt: skip


@pytest.mark.parametrize(("keep", "text"), [([], ""), ([3], "3"), ([0, 1, 2, 5, 7, 8], "0–2, 5, 7–8")])
def test_keep_lists_are_written_as_ranges(keep: list[int], text: str) -> None:
    assert ranges(keep) == text


@pytest.mark.parametrize("top", [1, 3, 7, 10, 64, 100, 128, 2048, 0.004, 1.23e12])
def test_ticks_are_few_round_and_cover_the_top(top: float) -> None:
    ticks = nice_ticks(top, 4)
    assert 3 <= len(ticks) <= 6
    assert ticks[0] == 0
    assert ticks[-2] < top <= ticks[-1] * (1 + 1e-9)


def test_the_environment_is_complete_and_plain() -> None:
    found = environment()
    assert found.keys() == {
        "onnxprune", "onnx", "onnxruntime", "numpy", "python", "system", "processor", "cores", "memory",
    }  # fmt: skip
    assert plain(found) == found
    assert found["cores"] >= 1


# the reports of a run


def zoo() -> Run:
    bad = [
        record(f"bad/{status}", status, None if i % 2 else report()) for i, status in enumerate(STATUSES[1:])
    ]
    hostile = record(f"=1+1 {HOSTILE}", "crashed", report(HOSTILE), reason=HOSTILE, exit_code=None)
    return run_of(
        record("a/good.onnx", found=report()), record("b.onnx", found=report(bench=None)), hostile, *bad
    )


def test_json_is_read_back_as_it_was(tmp_path: Path) -> None:
    given = zoo()
    write_all(given, tmp_path)
    found = read_run(tmp_path / "report.json")
    assert [plain(r.__dict__) for r in found.records] == [plain(r.__dict__) for r in given.records]
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


def test_csv_has_a_row_a_model_and_no_formula() -> None:
    given = zoo()
    rows = list(csv.DictReader(io.StringIO(table(given).decode(), newline="")))
    assert len(rows) == len(given.records)
    assert tuple(rows[0]) == COLUMNS
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


def test_junit_counts_and_is_xml(tmp_path: Path) -> None:
    given = zoo()
    write_all(given, tmp_path)
    suite = Tree.parse(tmp_path / "junit.xml").getroot()[0]
    cases = suite.findall("testcase")
    assert len(cases) == len(given.records) == int(suite.attrib["tests"])
    assert int(suite.attrib["failures"]) == len(suite.findall("testcase/failure")) == 3
    assert int(suite.attrib["skipped"]) == len(suite.findall("testcase/skipped")) == 1
    assert int(suite.attrib["errors"]) == len(suite.findall("testcase/error")) == len(STATUSES) - 5 + 1
    by_name = {c.attrib["name"]: c for c in cases}
    assert not by_name["a/good.onnx"].findall("*[@message]")
    found = by_name["bad/timeout"].find("error")
    assert found is not None
    assert found.attrib == {"message": "why bad/timeout", "type": "timeout"}
    assert found.text == "timeout: why bad/timeout; log: logs/bad/timeout.log"


def test_a_write_that_fails_leaves_the_old_reports_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(run_of(record("a", found=report())), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(onnxprune.errors.ResourceError):
        write_all(zoo(), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_numbers_that_are_not_finite_do_not_stop_a_report(tmp_path: Path) -> None:
    odd = report(
        verification={"status": "failed", "max_abs_error": np.inf, "tolerance_ratio": np.nan, "cases": 1,
                      "restricted": [], "reason": ""},
        recovery={"method": "ls", "samples": 4, "repaired": 1, "drift_before": np.inf, "drift_after": np.nan},
        validation={"metric": "psnr", "before": 100.0, "after": -np.inf, "drop": np.inf, "max_drop": 1.0,
                    "passed": False, "samples": 4},
        targets={"drift": {"limit": 0.1, "reached": np.inf}},
    )  # fmt: skip
    write_all(run_of(record("odd", "gate-failed", odd)), tmp_path)
    (found,) = read_run(tmp_path / "report.json").records
    assert found.report is not None
    back = prune_report(found.report)
    assert back.missed == ("drift",)
    page = harmless(model_page(Page(back, {})))
    assert "not finite" in page.text
    assert replace(back, search=({"holds": True, "asked": 0.5},)).search


def test_a_wide_axis_shows_the_decades_that_hold_most() -> None:
    scale = logarithmic([0.02, 0.3, 0.5, 0.9, 1.5, 1e4, 3e7])
    assert scale.ticks[0][0] == pytest.approx(0.01)
    assert [scale.place(v) for v in (0.0, 1e4, 3e7)] == [0.0, 1.0, 1.0]
    assert 0 < scale.place(0.02) < scale.place(0.3) < scale.place(1.5) < 1
    narrow = logarithmic([0.2, 0.3])
    assert [tick for tick, _ in narrow.ticks] == pytest.approx([0.1, 1.0])
