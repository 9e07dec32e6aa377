"""Validation: what is read beside the inputs, what metrics say, and the gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import onnxprune
from onnxprune import PruneSettings
from onnxprune.cli.app import program
from onnxprune.data.read import Validation, read_calibration, read_validation
from onnxprune.errors import GateFailed, UsageError
from onnxprune.evaluation.metrics import Judged, metric_of
from onnxprune.evaluation.validation import Validated, answers, judge
from onnxprune.model.runtime import open_session, run
from onnxprune.registries import METRICS
from tests.unit.test_calibration import CALIB, EVAL, MODELS, accuracy, digits, pair, rows

SHUFFLE, TRANSFORMER = MODELS / "digits_shuffle.onnx", MODELS / "digits_transformer.onnx"
FEW = {"input": np.load(CALIB)["input"][:96]}
HALF: dict[str, Any] = {"targets": {"macs": 0.5}, "align": 1, "bench": False}


def compared(found: np.ndarray, wanted: np.ndarray, **more: Any) -> Judged:
    """One batch of one output."""
    return Judged([{"y": found}], [{"y": wanted}], Validation(({"x": found},), **more))


# -- data ----------------------------------------------------------------------------------------------------
def folder_of(path: Path) -> Path:
    for i in range(3):
        np.savez(path / f"{i}.npz", x=rows(2), labels=np.asarray([i, 1]), o=np.full((2, 2), i, np.float32))
    return path


def feeds(count: int = 3) -> list[dict[str, np.ndarray]]:
    one = {"labels": np.asarray([0, 1]), "o": np.zeros((2, 2), np.float32)}
    return [{"x": rows(2), **one, "labels": np.asarray([i, 1])} for i in range(count)]


@pytest.mark.parametrize("source", [folder_of, lambda _: feeds(), lambda _: iter(feeds())])
def test_labels_and_targets_stand_beside_the_inputs(source: Callable[[Path], Any], tmp_path: Path) -> None:
    found = read_validation(source(tmp_path), pair())
    assert sum(len(batch["x"]) for batch in found.batches) == 6
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 1, 1, 2, 1]
    assert found.targets["o"].shape == (6, 2)


def test_arrays_are_read_whole_and_an_input_called_labels_is_an_input() -> None:
    labels = np.arange(2000) % 2
    found = read_validation({"x": rows(2000), "labels": labels, "o": np.zeros((2000, 2))}, pair())
    assert found.labels is not None
    assert np.array_equal(found.labels, labels)
    assert sum(len(batch["x"]) for batch in found.batches) == 2000
    odd = read_validation({"x": rows(5), "labels": np.arange(5)}, pair((2, 3)))
    assert odd.labels is not None
    assert odd.labels.tolist() == [0, 1, 2, 3]  # a fixed batch of two drops the fifth
    renamed = pair()
    renamed.graph.input[0].name = "labels"
    renamed.graph.node[0].input[0] = "labels"
    assert read_validation({"labels": rows(5)}, renamed).labels is None


LABELS_THAT_DO_NOT_FIT: list[tuple[Any, str]] = [
    ({"x": rows(5), "labels": np.arange(4)}, "'labels': got 4, expected 5, one for each 'x'"),
    ({"x": rows(5), "labels": np.asarray(3)}, "got a single value"),
    ([*feeds(2), {"x": rows(1)}], "feed 2 lacks 'labels', which feed 0 holds"),
    ([{"x": rows(1)}, *feeds(1)], "feed 0 lacks 'labels', which feed 1 holds"),
    ({"x": rows(5), "labels": np.ones(5)}, "got float64, expected integers"),
    ({"x": rows(5), "labels": np.full(5, 2)}, "got classes 2 to 2, expected 0 to 1"),
    ({"x": rows(5), "labels": np.full(5, -1)}, "got classes -1 to -1, expected 0 to 1"),
    ({"x": rows(5), "labels": np.zeros((5, 2), int)}, "got shape [5, 2], expected one for each of 5"),
    ({"x": rows(5)}, "holds no array 'labels'"),
]


@pytest.mark.parametrize(("source", "says"), LABELS_THAT_DO_NOT_FIT)
def test_labels_that_do_not_fit_are_refused(source: Any, says: str) -> None:
    with pytest.raises(UsageError) as error:
        judge(pair(), PruneSettings(ratio=0.5, validate=source, metric="top1"))
    assert says in str(error.value)


def test_targets_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match=r"target 'o' .* float64 \[5, 3\], expected numbers \[5, 2\]"):
        judge(
            pair(),
            PruneSettings(ratio=0.5, validate={"x": rows(5), "o": rows(5).astype(float)}, metric="psnr"),
        )


# -- metrics -------------------------------------------------------------------------------------------------
def test_metrics_on_numbers_that_a_person_can_check() -> None:
    wanted = np.asarray([[3.0, 4.0], [0.0, 2.0]])
    found = np.asarray([[3.0, 0.0], [0.0, 1.0]])
    values = {m.name: m(compared(found, wanted)) for m in METRICS if not m.needs_labels and m.name != "boxes"}
    assert values["agreement"] == 0.5
    assert values["cosine"] == pytest.approx((9 / 15 + 1) / 2)
    assert values["drift"] == pytest.approx((4 / 5 + 1 / 2) / 2)
    peak = 4.0**2
    assert values["psnr"] == pytest.approx((10 * np.log10(peak / 8) + 10 * np.log10(peak / 0.5)) / 2)
    labels = np.asarray([0, 0])
    assert METRICS.get("top1")(compared(found, wanted, labels=labels)) == 0.5
    same = {m.name: m(compared(wanted, wanted)) for m in METRICS if m.name in values}
    assert same == pytest.approx({"agreement": 1, "cosine": 1, "drift": 0, "psnr": 100})


def test_targets_replace_the_unpruned_model_for_cosine_and_psnr_only() -> None:
    found, first, wanted = (np.asarray([[a, 1.0]]) for a in (1.0, 2.0, 1.0))
    targets = {"y": wanted}
    assert METRICS.get("cosine")(compared(found, first, targets=targets)) == pytest.approx(1)
    assert METRICS.get("cosine")(compared(found, first)) < 0.99
    assert METRICS.get("drift")(compared(found, first, targets=targets)) == pytest.approx(1 / np.sqrt(5))


def test_the_worst_output_counts_and_an_output_without_samples_is_one() -> None:
    batch = {"x": rows(4)}
    good, bad = np.ones((4, 2)), np.ones(3)
    c = Judged([{"a": good, "b": 2 * bad}], [{"a": good, "b": bad}], Validation((batch,)))
    assert METRICS.get("drift")(c) == pytest.approx(1)
    with pytest.raises(UsageError, match=r"needs class scores.*output 'b' is \[3\]"):
        METRICS.get("agreement")(Judged([{"b": bad}], [{"b": bad}], Validation((batch,))))


def test_the_metric_suits_the_data() -> None:
    labelled = judge(digits("shuffle"), PruneSettings(ratio=0.5, validate=EVAL))
    plain = judge(digits("shuffle"), PruneSettings(ratio=0.5, validate=CALIB))
    assert labelled is not None
    assert plain is not None
    assert (labelled.metric.name, labelled.before) == ("top1", accuracy(digits("shuffle")))
    assert (plain.metric.name, plain.before) == ("agreement", 1.0)
    image = onnx.helper.make_tensor_value_info("o", 1, ["B", 3, 4])
    model = pair()
    del model.graph.node[:], model.graph.initializer[:], model.graph.output[:]
    model.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("x", 1, ["B", 3, 4]))
    model.graph.output.append(image)
    model.graph.node.append(onnx.helper.make_node("Relu", ["x"], ["o"]))
    found = judge(model, PruneSettings(ratio=0.5, validate={"x": np.ones((5, 3, 4), np.float32)}))
    assert found is not None
    assert found.metric.name == "drift"


def script(path: Path, body: str) -> str:
    (path / "metric.py").write_text(body)
    return f"{path / 'metric.py'}:score"


def test_a_script_gets_outputs_by_name_and_labels(tmp_path: Path) -> None:
    text = script(
        tmp_path, "def score(outputs, labels):\n    return (outputs['logits'].argmax(1) == labels).mean()\n"
    )
    for metric in (text, lambda outputs, labels: (outputs["logits"].argmax(1) == labels).mean()):
        found = judge(digits("shuffle"), PruneSettings(ratio=0.5, validate=EVAL, metric=metric))
        assert found is not None
        assert found.before == accuracy(digits("shuffle"))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("def score(outputs, labels):\n    return 1 / 0\n", "fails: ZeroDivisionError: division by zero"),
        ("def score(outputs, labels):\n    return 'much'\n", "fails: ValueError"),
        ("def score(outputs, labels):\n    return float('nan')\n", "gives nan, expected a finite number"),
        ("def score():\n    return 1\n", "fails: TypeError"),
        ("import sys\nsys.exit(3)\n", "fails: SystemExit: 3"),
        ("def score(:\n", "fails: SyntaxError"),
        ("x = 1\n", "has no function 'score'"),
    ],
)
def test_a_script_that_fails_is_one_line(body: str, says: str, tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    result = CliRunner().invoke(
        program,
        ["prune", str(SHUFFLE), "-o", str(out), "--ratio", "0.5", "--validate", str(EVAL),
         "--metric", script(tmp_path, body)],
    )  # fmt: skip
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"metric": "top1"}, "--metric judges on validation data"),
        ({"max_drop": 0.1}, "--max-drop judges on validation data"),
        ({"validate": EVAL, "metric": "top5"}, "unknown metric 'top5', expected one of top1"),
        ({"validate": EVAL, "max_drop": -0.1}, "at least 0: got -0.1"),
        ({"validate": EVAL, "max_drop": float("nan")}, "at least 0: got nan"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as error:
        PruneSettings(ratio=0.5, **given)
    assert says in str(error.value)


# -- the gate ------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_the_report_says_the_metric_of_the_file_that_is_written(tmp_path: Path) -> None:
    settings = PruneSettings(**HALF, calib=CALIB, validate=EVAL, max_drop=0.02)
    report = onnxprune.prune(SHUFFLE, settings, tmp_path / "o.onnx").report
    assert report.validation is not None
    assert report.validation.before == accuracy(onnx.load(SHUFFLE))
    assert report.validation.after == accuracy(onnx.load(tmp_path / "o.onnx"))
    assert report.validation.passed
    assert report.validation.samples == 500


@pytest.mark.slow
def test_a_gate_that_fails_writes_nothing_and_says_by_how_much(tmp_path: Path) -> None:
    out, plan = tmp_path / "o.onnx", tmp_path / "p.json"
    arguments = ["prune", str(SHUFFLE), "-o", str(out), "--plan", str(plan), "--target", "macs=0.5",
                 "--align", "1", "--validate", str(EVAL), "--max-drop", "0.02", "--json"]  # fmt: skip
    result = CliRunner().invoke(program, arguments)
    assert result.exit_code == 1
    assert not out.exists()
    assert not plan.exists()
    told = json.loads(result.stdout)["validation"]
    assert told["drop"] == pytest.approx(told["before"] - told["after"])
    assert told["drop"] > 0.02
    assert told["passed"] is False
    assert f"worse by {told['drop']:.4g} where --max-drop allows 0.02; nothing is written" in result.stderr
    with pytest.raises(GateFailed) as error:
        onnxprune.prune(SHUFFLE, PruneSettings(**HALF, validate=EVAL, max_drop=0.02), out)
    assert isinstance(error.value.result, onnxprune.PruneResult)
    assert error.value.exit_code == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("metric", "after", "passes"),
    [("top1", 0.98, True), ("top1", 0.979, False), ("top1", float("nan"), False), ("top1", 1.0, True)],
)
def test_a_gate_lets_through_what_is_allowed(metric: str, after: float, passes: bool) -> None:
    assert Validated.of(METRICS.get(metric), 0.99, after, 100, 0.01).passed is passes


def test_less_drift_is_better() -> None:
    drift = METRICS.get("drift")
    assert Validated.of(drift, 0.0, 0.3, 1).drop == pytest.approx(0.3)
    assert not Validated.of(drift, 0.0, 0.3, 1, 0.2).passed
    assert metric_of("drift") is drift
    model, data = pair(), read_validation({"x": rows(40)}, pair())
    assert len(answers(model, data.batches, "it")) == 2


# -- the search ----------------------------------------------------------------------------------------------
def sought(**given: Any) -> onnxprune.PruneResult:
    settings = PruneSettings(calib=FEW, recover="ls", align=1, bench=False, **given)
    return onnxprune.prune(TRANSFORMER, settings)


@pytest.mark.slow
def test_a_search_finds_the_fewest_macs_at_which_the_drift_holds() -> None:
    result = sought(targets={"drift": 0.3})
    report, trials = result.report, result.report.search
    assert 3 <= len(trials) <= 8
    assert [t.holds for t in trials] == [t["drift"] <= 0.3 for t in trials]
    good = [t.macs_share for t in trials if t.holds]
    bad = [t.macs_share for t in trials if not t.holds]
    assert report.after.macs / report.before.macs == pytest.approx(min(good))
    assert 0 < min(good) - max(bad) < 0.02
    original = onnx.load(TRANSFORMER)
    held = read_calibration(FEW, original).held_out
    pairs = [(run(open_session(m), b)["logits"] for m in (result.model, original)) for b in held]
    apart = [np.linalg.norm(y - t, axis=1) / np.linalg.norm(t, axis=1) for y, t in pairs]
    assert report.targets["drift"].reached == pytest.approx(np.concatenate(apart).mean(), rel=1e-3)
    assert report.targets["drift"].limit == 0.3
    assert not report.missed
    assert onnxprune.verify(result.model, TRANSFORMER, result.plan).matches_plan


@pytest.mark.slow
def test_a_search_by_drop_asks_the_metric() -> None:
    report = sought(targets={"drop": 0.02, "drift": 0.6}, validate=EVAL).report
    assert report.validation is not None
    assert report.validation.drop == report.targets["drop"].reached <= 0.02
    assert all(t.holds == (t["drop"] <= 0.02 and t["drift"] <= 0.6) for t in report.search)


@pytest.mark.slow
def test_the_same_search_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.pipeline.search.TRIALS", 2)
    first, second = (sought(targets={"drift": 0.5}) for _ in range(2))
    assert first.report.search == second.report.search
    assert first.model.SerializeToString() == second.model.SerializeToString()


@pytest.mark.slow
def test_a_search_ends_where_nothing_more_can_go_or_nothing_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    report = sought(targets={"drift": 1e6}, min_channels=8).report
    assert report.search[-1].macs_share > report.search[-1]["asked"]
    assert report.after.macs / report.before.macs == pytest.approx(report.search[-1].macs_share)
    monkeypatch.setattr("onnxprune.pipeline.search.TRIALS", 3)
    missed = sought(targets={"drift": 1e-9}).report
    assert missed.missed == ("drift",)
    assert missed.targets["drift"].floor == min(trial["drift"] for trial in missed.search)
    assert missed.after.macs < missed.before.macs


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"targets": {"drift": 0.1}}, "give --calib DATA or --validate DATA"),
        ({"targets": {"drop": 0.1}, "calib": CALIB}, "give --validate DATA"),
        ({"targets": {"drift": 0.1, "macs": 0.5}, "calib": CALIB}, "leave out target macs"),
        ({"targets": {"drift": 0.0}, "calib": CALIB}, "must be above 0"),
        ({"targets": {"drop": -0.1}, "validate": EVAL}, "must be above 0"),
        ({"targets": {"drift": float("nan")}, "calib": CALIB}, "must be above 0"),
    ],
)
def test_a_search_without_data_or_sense_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as error:
        PruneSettings(**given)
    assert says in str(error.value)


@pytest.mark.slow
def test_the_trials_are_listed(tmp_path: Path) -> None:
    arguments = ["prune", str(SHUFFLE), "-o", str(tmp_path / "o.onnx"), "--target", "drift=0.5",
                 "--align", "1", "--validate", str(CALIB), "--no-bench", "-v"]  # fmt: skip
    result = CliRunner().invoke(program, arguments)
    assert result.exit_code == 0, result.stderr
    assert "good enough" in result.stdout
    assert "target reached  drift" in result.stdout
    refused = CliRunner().invoke(program, [*arguments, "--target", "drop=1%"])
    assert refused.exit_code == 2
    assert "expected a number without a unit: drop=0.05" in refused.stderr
