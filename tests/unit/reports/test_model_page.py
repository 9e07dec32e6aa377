"""The page of one model: it tells the numbers of the report, and shows hostile names harmlessly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import onnxprune
from onnxprune import PruneSettings, SideFiles
from onnxprune.cli.app import program
from onnxprune.errors import GateFailed, printable
from onnxprune.reports.data import PruneReport
from onnxprune.reports.model_page import Page, model_page
from onnxprune.reports.outcome import Outcome
from onnxprune.reports.reading import prune_report
from onnxprune.reports.sections.again import ranges
from onnxprune.reports.sections.work import kinds
from tests.report_data import HOSTILE, Elements, harmless, report, two_convs

MODELS = Path(__file__).parents[3] / "models"
RESNET, CALIB, EVAL = (MODELS / n for n in ("digits_resnet.onnx", "digits_calib.npz", "digits_eval.npz"))
QUICK = ("--ratio", "0.5", "--no-bench")


def run(*args: object) -> Result:
    return CliRunner().invoke(program, [str(a) for a in args])


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
    assert "(99.4 % before)" in found.text
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
    assert full.drift.inputs == "generated"
    assert 0 < full.drift.value < 2


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


@pytest.mark.parametrize(("keep", "text"), [([], ""), ([3], "3"), ([0, 1, 2, 5, 7, 8], "0–2, 5, 7–8")])
def test_keep_lists_are_written_as_ranges(keep: list[int], text: str) -> None:
    assert ranges(keep) == text
