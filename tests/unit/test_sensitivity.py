"""Sensitivity: what a removal does to the outputs, group by group, as numbers, table and picture."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Tree

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

import onnxprune
from onnxprune import PruneSettings, SensitivitySettings
from onnxprune.cli.app import program
from onnxprune.data.read import read_calibration
from onnxprune.errors import UsageError
from onnxprune.evaluation.drift import drift
from onnxprune.model.runtime import open_session
from onnxprune.reports.data import SensitivityReport
from onnxprune.reports.sensitivity_chart import drawn

MODELS = Path(__file__).parents[2] / "models"
CALIB, EVAL = MODELS / "digits_calib.npz", MODELS / "digits_eval.npz"


def digits(name: str) -> onnx.ModelProto:
    return onnx.load(MODELS / f"digits_{name}.onnx")


def images(count: int) -> dict[str, np.ndarray]:
    return {"input": np.load(EVAL)["input"][:count], "labels": np.load(EVAL)["labels"][:count]}


def measured(name: str, **given: Any) -> SensitivityReport:
    settings = SensitivitySettings(calib=images(64), samples=64, shares=(0.5,), criterion="l2")
    return onnxprune.sensitivity(digits(name), dataclasses.replace(settings, **given))


def run(*args: object) -> Result:
    return CliRunner().invoke(program, [str(a) for a in args])


@pytest.mark.parametrize("name", ["resnet", "transformer"])
@pytest.mark.parametrize("criterion", ["l2", "wanda"])
def test_the_drift_is_that_of_the_pruned_model(name: str, criterion: str) -> None:
    model, data = digits(name), images(64)
    report = measured(name, criterion=criterion, shares=(0.25, 0.5))
    batches = read_calibration({"input": data["input"]}, model).batches
    for group in (report.groups[0], report.groups[3]):
        for point in group.points:
            settings = PruneSettings(
                ratios=((group.name, point.share),), criterion=criterion, align=1, bench=False,
                calib={"input": data["input"]}, recover="none",
            )  # fmt: skip
            result = onnxprune.prune(model, settings)
            assert point.macs == result.report.after.macs
            kept = next(g.kept for g in result.report.groups if g.id == group.id)
            assert point.removed == group.channels - kept == int(point.share * group.channels)
            assert point.drift == pytest.approx(drift(model, result.model, batches), rel=1e-3)


def test_more_removed_costs_more_and_groups_differ() -> None:
    report = measured("resnet", shares=(0.75, 0.1, 0.1, 0.5))
    assert report.settings.shares == (0.1, 0.5, 0.75)
    for group in report.groups:
        found = [p.drift for p in group.points]
        assert len(found) == 3
        assert 0 < found[0] < found[2]
    assert len({round(g.points[1].drift, 4) for g in report.groups}) == len(report.groups)


def test_labels_give_top_1_of_the_same_samples() -> None:
    report = measured("resnet", calib=images(40))
    data, result = images(40), digits("resnet")
    assert report.samples == 40
    session = open_session(result)
    right = session.run(None, {"input": data["input"]})[0].argmax(1) == data["labels"]
    assert report.top1 == pytest.approx(float(right.mean()))
    assert all(p.top1 is not None for g in report.groups for p in g.points)
    swapped = measured("resnet", calib={**data, "labels": (data["labels"] + 1) % 10})
    assert swapped.top1 is not None
    assert swapped.top1 < 0.1
    assert measured("resnet", calib=CALIB).top1 is None
    with pytest.raises(UsageError, match="3 labels for 40 samples"):
        measured("resnet", calib={**data, "labels": data["labels"][:3]})


def test_groups_that_cannot_go_alone_take_others_with_them() -> None:
    report = measured("shuffle")
    linked = [g for g in report.groups if g.linked]
    assert linked
    assert all(g.points[0].removed == g.channels // 2 for g in report.groups)
    one = linked[0]
    others = [g for g in linked if g.id in one.linked]
    assert {g.points[0].drift for g in others} == {one.points[0].drift}


def test_a_share_below_one_channel_leaves_all() -> None:
    for group in measured("resnet", shares=(0.001,)).groups:
        assert (group.points[0].removed, group.points[0].drift) == (0, 0.0)


def test_what_is_excluded_is_not_measured() -> None:
    whole, less = measured("resnet"), measured("resnet", exclude=("2.body*",))
    assert {g.id for g in less.groups} < {g.id for g in whole.groups}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"calib": None}, "give --calib DATA"),
        ({"shares": ()}, "no share"),
        ({"shares": (0.5, 1.0)}, "got share 1,"),
        ({"shares": (0.0,)}, "got share 0,"),
        ({"samples": 0}, "--samples"),
        ({"criterion": "best"}, "unknown criterion 'best'"),
    ],
)
def test_settings_that_make_no_sense(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        measured("resnet", **given)


def test_progress_is_told_to_who_asks() -> None:
    seen: list[tuple[str, int, int]] = []
    settings = SensitivitySettings(calib=images(32), shares=(0.5,), samples=32)
    onnxprune.sensitivity(digits("transformer"), settings, progress=lambda *step: seen.append(step))
    assert [s for s in seen if s[0] == "sensitivity"] == [("sensitivity", i + 1, 10) for i in range(10)]
    assert any(stage == "calibration" for stage, _, _ in seen)


def test_the_command_prints_a_table_and_json(tmp_path: Path) -> None:
    given = ("--calib", EVAL, "--samples", 32, "--criterion", "l1", "--share", 0.5, "--share", 0.25)
    model, picture = MODELS / "digits_transformer.onnx", tmp_path / "it.svg"
    result = run("sensitivity", model, *given, "--picture", picture)
    assert result.exit_code == 0, result.output
    header = next(line for line in result.stdout.splitlines() if line.startswith("id"))
    assert header.split() == ["id", "group", "made", "by", "channels", "MACs", "25", "%", "50", "%"]
    assert "channels ranked by l1, no repair" in result.stdout
    assert any(block in result.stdout for block in "▅▆▇█")
    assert result.stderr == ""
    again = run("sensitivity", model, *given, "--json")
    report = json.loads(again.stdout)
    assert report["schema_version"] == 1
    assert len(report["groups"]) == 10
    assert report["groups"][0]["members"][0] == "/patch/Conv"
    assert [p["share"] for p in report["groups"][0]["points"]] == [0.25, 0.5]
    assert run("sensitivity", model, *given, "--picture", picture).exit_code == 2
    assert "exists" in run("sensitivity", model, *given, "--picture", picture).stderr


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ((), 2, "Missing option '--calib'"),
        (("--calib", "nowhere.npz"), 2, "does not exist"),
        (("--calib", CALIB, "--share", "2"), 2, "got share 2"),
        (("--calib", CALIB, "--picture", MODELS / "digits_resnet.onnx"), 2, "named for two files"),
        (("--calib", CALIB, "--exclude", "nothing*"), 2, "matches no node or tensor"),
    ],
)
def test_errors_are_one_line(args: tuple[object, ...], code: int, says: str) -> None:
    result = run("sensitivity", MODELS / "digits_resnet.onnx", *args)
    assert result.exit_code == code
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_picture_is_well_formed_and_needs_nothing_from_outside() -> None:
    report = measured("resnet", shares=(0.25, 0.75))
    hostile = replace(report.groups[0], name="<b>&\x1b[31m", members=("<script>",))
    text = drawn(replace(report, groups=(hostile, *report.groups[1:]))).decode()
    svg = Tree.fromstring(text)
    assert svg.get("role") == "img"
    space = {"s": "http://www.w3.org/2000/svg"}
    titles = [t.text or "" for t in svg.findall("s:g/s:title", space)]
    assert len(titles) == len(report.groups)
    assert titles[0].startswith("<b>&\\x1b[31m: 32 channels")
    assert "75 % removed: drift" in titles[1]
    circles = svg.findall("s:g/s:circle", space)
    assert len(circles) == 2 * 2 * len(report.groups)
    xs = [float(c.get("cx", "nan")) for c in circles]
    assert all(0 < x < float(svg.get("width", "0")) for x in xs)
    assert text.count("http") == 1
    assert "<script" not in text
    assert "prefers-color-scheme: dark" in text


def test_the_picture_shows_what_is_infinite_or_not_measured() -> None:
    report = measured("resnet", shares=(0.25, 0.75))
    first, second = report.groups[:2]
    far = replace(first.points[0], drift=float("inf"))
    groups = (replace(first, points=(far,)), replace(second, points=(), reason="no kernel"))
    text = drawn(replace(report, groups=groups)).decode()
    assert "nan" not in text
    assert "not measured: no kernel" in text
