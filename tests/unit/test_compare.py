"""Comparing two reports: what counts as worse, what is noise, and the exit code."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

from onnxprune.cli.app import program
from onnxprune.errors import UsageError
from onnxprune.evaluation.closeness import Closeness, Inputs
from onnxprune.evaluation.profile import SampledDrift
from onnxprune.evaluation.validation import Validated
from onnxprune.reports.compare import compare
from onnxprune.reports.data import PruneReport, Quantities, TargetReport
from onnxprune.reports.plain import versioned
from onnxprune.reports.record import GOOD, STATUSES, Record
from onnxprune.reports.writing import write_all
from tests.report_data import HOSTILE, PROOF, bench, record, report, run_of

UNPROVED = replace(PROOF, status="unproved")
MODELS = Path(__file__).parents[2] / "models"


def run(*args: object) -> Result:
    return CliRunner().invoke(program, [str(a) for a in args])


def batch(folder: Path, *records: Record) -> Path:
    folder.mkdir()
    write_all(run_of(*records), folder)
    return folder / "report.json"


def one(path: Path, found: PruneReport) -> Path:
    path.write_text(json.dumps(versioned(found)))
    return path


def judged(after: float, metric: str = "top1", passed: bool = True, lower: bool = False) -> dict[str, Any]:
    limit = None if passed else 0.0
    return {"validation": Validated(metric, 0.9, after, 0.0, limit, passed, 9, lower_is_better=lower)}


def close(drift: float, agreement: float | None = None, inputs: Inputs = "held out") -> dict[str, Any]:
    metric = "" if agreement is None else "agreement"
    return {"closeness": Closeness(inputs, 9, drift, agreement, metric, metric, 0.5, None)}


def drifted(value: float, inputs: str = "generated") -> dict[str, Any]:
    return {"drift": SampledDrift(value, 8, inputs)}


def sized(macs: int, bytes_: int) -> dict[str, Any]:
    return {"after": Quantities(500, macs, bytes_)}


def verdicts(folder: Path, old: PruneReport, new: PruneReport, **limits: float) -> dict[str, str]:
    found = compare(one(folder / "old.json", old), one(folder / "new.json", new), limits)
    return {f.what: f.verdict for f in found.findings if f.verdict != "same"}


@pytest.mark.parametrize(
    ("old", "new", "limits", "wanted"),
    [
        ({}, {}, {}, {}),
        (sized(600, 2000), sized(600, 2001), {}, {"size": "worse"}),
        (sized(600, 2000), sized(600, 2001), {"size": 0.01}, {}),
        (sized(600, 2000), sized(500, 1900), {}, {"size": "better", "macs": "better"}),
        (sized(600, 2000), sized(660, 2000), {"macs": 0.1}, {}),
        (sized(600, 2000), sized(661, 2000), {"macs": 0.1}, {"macs": "worse"}),
        (sized(0, 2000), sized(1, 2000), {}, {"macs": "worse"}),
        ({"bench": bench(10.0, 0.5)}, {"bench": bench(99.0, 0.5)}, {}, {}),
        ({"bench": bench(10.0, 0.5)}, {"bench": bench(10.0, 0.55)}, {}, {"latency": "worse"}),
        ({"bench": bench(10.0, 0.5)}, {"bench": bench(10.0, 0.539)}, {}, {}),  # the intervals meet
        ({"bench": bench(10.0, 1.5)}, {"bench": bench(10.0, 1.56)}, {}, {}),  # apart, but 4 %
        ({"bench": bench(10.0, 0.55)}, {"bench": bench(10.0, 0.5)}, {}, {"latency": "better"}),
        ({"bench": bench(10.0, 0.5)}, {"bench": None}, {}, {"latency": "changed"}),
        (drifted(0.1), drifted(0.104), {}, {}),
        (drifted(0.1), drifted(0.106), {}, {"drift": "worse"}),
        (drifted(0.1), drifted(inf), {}, {"drift": "worse"}),
        (drifted(inf), drifted(inf), {}, {}),
        (drifted(inf), drifted(0.1), {}, {"drift": "better"}),
        (drifted(0.0), drifted(0.0), {}, {}),
        (drifted(0.1), {"drift": None}, {}, {"drift": "changed"}),
        (judged(0.9), judged(0.896), {}, {}),
        (judged(0.9), judged(0.894), {}, {"metric": "worse"}),
        (judged(0.9), judged(0.92), {}, {"metric": "better"}),
        (judged(0.9), judged(0.85), {"metric": 0.05}, {}),
        (judged(0.9), judged(99.0, "psnr"), {}, {"metric": "changed"}),
        (judged(0.9), {}, {}, {"metric": "changed"}),
        (judged(0.1, "drift", lower=True), judged(0.2, "drift", lower=True), {}, {"metric": "worse"}),
        (close(0.1), close(0.2), {}, {"drift": "worse"}),
        (close(0.1), close(0.2, inputs="made up"), {}, {"drift": "changed"}),
        (close(0.1), close(0.6), {}, {"drift": "worse", "status": "worse"}),
        (close(0.1, 0.9), close(0.1, 0.8), {}, {"agreement": "worse"}),
        (close(0.1, 0.9), close(0.1, 0.4), {}, {"agreement": "worse", "status": "worse"}),
        (judged(0.9), judged(0.9, passed=False), {}, {"status": "worse"}),
        ({"verification": PROOF}, {"verification": replace(PROOF, status="weak")}, {}, {"proof": "worse"}),
        (
            {"verification": replace(PROOF, status="unproved")},
            {"verification": PROOF},
            {},
            {"proof": "better"},
        ),
        ({}, {"targets": {"macs": TargetReport(1.0, 2.0)}}, {}, {"status": "worse"}),
    ],
)
def test_verdicts(
    tmp_path: Path, old: dict[str, Any], new: dict[str, Any], limits: dict[str, float], wanted: dict[str, str]
) -> None:
    assert verdicts(tmp_path, report(**old), report(**new), **limits) == wanted


@pytest.mark.parametrize("old", STATUSES)
@pytest.mark.parametrize("new", STATUSES)
def test_a_status_is_worse_where_less_came_of_it(tmp_path: Path, old: str, new: str) -> None:
    found = compare(batch(tmp_path / "a", record("x", old)), batch(tmp_path / "b", record("x", new)))
    (status,) = [f for f in found.findings if f.what == "status"]
    if old == new:
        assert status.verdict == "same"
    if old in GOOD and new not in GOOD:
        assert status.verdict == "worse"
    if new in GOOD and old not in GOOD:
        assert status.verdict == "better"
    back = compare(tmp_path / "b" / "report.json", tmp_path / "a" / "report.json").findings[0].verdict
    assert back == {"worse": "better", "better": "worse"}.get(status.verdict, status.verdict)


def test_models_that_are_missing_or_come_broken_are_worse_and_others_are_told(tmp_path: Path) -> None:
    gone = record("gone", found=report()), record("gone too", "invalid")
    old = batch(tmp_path / "a", *gone, record("kept", found=report()))
    come = record("come", found=report()), record("come broken", "crashed"), record("come whole", "nothing")
    new = batch(tmp_path / "b", *come, record("kept", found=report()))
    found = compare(old, new)
    assert found.having("worse") == ("come broken", "gone")
    assert found.having("changed") == ("come", "come whole", "gone too")
    assert found.models == 6
    assert tuple(dict.fromkeys(f.model for f in found.findings)) == (
        "come",
        "come broken",
        "come whole",
        "gone",
        "gone too",
        "kept",
    )
    assert not [f for f in found.findings if f.model == "kept" and f.verdict != "same"]


def test_the_command_tells_and_exits_with_1_where_something_got_worse(tmp_path: Path) -> None:
    slow = report(bench=bench(10.0, 0.9))
    old = batch(tmp_path / "a", record("x.onnx", found=report()), record("y.onnx", found=slow))
    new = batch(tmp_path / "b", record("x.onnx", found=slow), record("y.onnx", found=report()))
    result = run("compare", old, new)
    assert result.exit_code == 1
    assert result.stderr == "error: 1 model got worse: x.onnx\n"
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[1][:2] == ["x.onnx", "latency"]
    assert lines[1][-1] == "worse"
    assert "+80.0 %" in result.stdout
    assert "2: 1 worse, 1 better, 0 changed" in result.stdout
    assert run("compare", old, new, "--latency", 1).exit_code == 0
    assert run("compare", old, old).exit_code == 0
    again = run("compare", old, new, "--json")
    assert again.exit_code == 1
    data = json.loads(again.stdout)
    assert (data["models"], data["worse"], data["better"]) == (2, ["x.onnx"], ["y.onnx"])
    assert {f["what"] for f in data["findings"]} == {"status", "proof", "size", "macs", "latency", "drift"}
    assert "same" not in result.stdout
    assert "same" in run("compare", old, new, "-v").stdout


def test_reports_of_prune_compare(tmp_path: Path) -> None:
    paths = []
    for share in (0.25, 0.5):
        made = run(
            "prune", MODELS / "digits_shuffle.onnx", "--dry-run", "--ratio", share, "--align", 4, "--json"
        )
        paths.append(tmp_path / f"{share}.json")
        paths[-1].write_text(made.stdout)
    result = run("compare", *paths)
    assert result.exit_code == 0, result.stderr
    assert "digits_shuffle.onnx" in result.stdout
    assert run("compare", *paths[::-1]).exit_code == 1
    mixed = batch(tmp_path / "zoo", record("x", found=report()))
    refused = run("compare", paths[0], mixed)
    assert refused.exit_code == 2
    assert "different kinds" in refused.stderr


def test_another_input_and_another_processor_are_said(tmp_path: Path) -> None:
    base = report()
    assert base.source is not None
    other = replace(base, source=replace(base.source, sha256="00" * 32))
    timed = [bench(10.0, 0.5, cpu) for cpu in ("A", "B")]
    old, new = replace(base, bench=timed[0]), replace(other, bench=timed[1])
    found = compare(one(tmp_path / "old.json", old), one(tmp_path / "new.json", new))
    assert {f.what for f in found.findings if f.verdict == "changed"} == {"input"}
    assert "(A and B)" in found.notes[0]
    result = run("compare", tmp_path / "old.json", tmp_path / "new.json")
    assert result.exit_code == 0
    assert result.stderr.startswith("note: ")


@pytest.mark.parametrize("option", ["--size", "--macs", "--latency", "--drift", "--agreement", "--metric"])
@pytest.mark.parametrize("value", ["-0.1", "nan", "inf"])
def test_limits_below_0_are_refused(tmp_path: Path, option: str, value: str) -> None:
    path = one(tmp_path / "x.json", report())
    result = run("compare", path, path, option, value)
    assert result.exit_code == 2
    assert option in result.stderr


def test_hostile_names_are_printed_harmlessly(tmp_path: Path) -> None:
    old = batch(tmp_path / "a", record(HOSTILE, found=report(HOSTILE)))
    new = batch(tmp_path / "b", record(HOSTILE, "crashed"))
    result = run("compare", old, new)
    assert result.exit_code == 1
    assert "\x1b" not in result.output
    assert "\u202e" not in result.output


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"schema_version": 1, "records": [{}]}')
    with pytest.raises(UsageError, match=r"report\.json"):
        compare(path, path)
    path.write_text('{"schema_version": 1}')
    with pytest.raises(UsageError, match="prune --json"):
        compare(path, path)
