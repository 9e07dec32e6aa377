"""What data says of a result: quality beside speed, gates, and that made-up inputs judge nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import onnxprune
from onnxprune import PruneSettings
from onnxprune.cli.app import program
from onnxprune.errors import GateFailed, UsageError
from onnxprune.pipeline.prune import SideFiles
from onnxprune.reports.data import PruneReport
from onnxprune.reports.outcome import Outcome
from tests.report_data import two_convs

DATA = {"x": np.random.default_rng(0).normal(size=(40, 3, 8, 8)).astype(np.float32)}
HALF: dict[str, Any] = {"ratio": 0.5, "align": 1, "bench": False}


def pruned(**given: Any) -> PruneReport:
    return onnxprune.prune(two_convs("n"), PruneSettings(**{**HALF, **given})).report


def test_held_out_data_judges_also_without_a_repair() -> None:
    report = pruned(calib=DATA, recover="none")
    assert report.recovery is None
    assert report.closeness is not None
    assert (report.closeness.inputs, report.closeness.samples) == ("held out", 8)
    assert report.closeness.drift is not None
    assert 0 < report.closeness.drift < 2


def test_validation_data_judges_before_held_out_data_and_as_the_metric_does() -> None:
    report = pruned(calib=DATA, recover="ls", validate={"x": DATA["x"][:9]})
    assert report.closeness is not None
    assert report.validation is not None
    assert (report.closeness.inputs, report.closeness.samples) == ("validation", 9)
    assert report.closeness.drift == pytest.approx(report.validation.after)


def test_nothing_judges_without_data_and_with_inputs_that_are_made_up() -> None:
    assert pruned().closeness is None
    assert "not judged: no data" in Outcome(pruned()).verdict
    report = pruned(calib="synthetic", recover="none")
    assert report.closeness is not None
    assert not report.closeness.judged
    assert not report.closeness.ruined
    assert "not judged: no data (" in Outcome(report).verdict
    assert "made-up samples" in Outcome(report).verdict


def test_far_on_data_is_ruined_and_on_made_up_inputs_unreliable() -> None:
    (text,) = (t for t in pruned(calib=DATA, recover="none", ruined=0.01).warnings if "ruined" in t)
    assert text.startswith("the result is ruined, drift ")
    assert "on 8 held-out samples (above a drift of 0.01 or below an agreement of 0.99)" in text
    (text,) = (
        t for t in pruned(calib="synthetic", recover="none", ruined=0.01).warnings if "unreliable" in t
    )
    assert "made-up samples, and no data says more" in text
    assert not [t for t in pruned(calib=DATA, ruined=9).warnings if "ruined" in t]


@pytest.mark.parametrize("data", [{"calib": DATA}, {"validate": DATA}])
def test_the_gate_keeps_what_drifts_from_being_written(data: dict[str, Any], tmp_path: Path) -> None:
    settings = PruneSettings(**HALF, **data, max_drift=0.001)
    output, plan = tmp_path / "o.onnx", tmp_path / "plan.json"
    with pytest.raises(GateFailed, match=r"drift .* samples, where --max-drift allows 0.001; nothing"):
        onnxprune.prune(two_convs("n"), settings, output, beside=SideFiles(plan))
    assert not list(tmp_path.iterdir())
    onnxprune.prune(two_convs("n"), PruneSettings(**HALF, **data, max_drift=9), output)
    assert output.exists()


def test_both_gates_are_told() -> None:
    settings = PruneSettings(**HALF, validate=DATA, max_drift=0.001, max_drop=0.001)
    with pytest.raises(
        GateFailed, match=r"--max-drop allows 0.001; drift .*--max-drift allows 0.001; nothing"
    ):
        onnxprune.prune(two_convs("n"), settings)


@pytest.mark.parametrize(("calib", "says"), [(None, "there is none"), ("synthetic", "made up cannot judge")])
def test_the_gate_wants_data(calib: Any, says: str) -> None:
    with pytest.raises(UsageError, match=f"--max-drift judges on data, and .*{says}: give --calib DATA"):
        PruneSettings(ratio=0.5, calib=calib, max_drift=0.1)


def run(*words: object) -> Result:
    return CliRunner().invoke(program, [str(word) for word in words])


def test_the_verdict_stands_first_and_the_gate_ends_with_1(tmp_path: Path) -> None:
    model, data, out = (tmp_path / name for name in ("m.onnx", "d.npz", "o.onnx"))
    model.write_bytes(two_convs("n").SerializeToString())
    np.savez(data, **DATA)
    usual = ("prune", model, "-o", out, "--ratio", 0.5, "--align", 1, "--no-bench", "--calib", data)
    failed = run(*usual, "--max-drift", 0.001)
    assert failed.exit_code == 1
    assert not out.exists()
    assert "nothing: the gate failed" in failed.stdout
    done = run(*usual, "--ruined", 0.001)
    assert done.exit_code == 0
    assert done.stdout.startswith("ruined: kept 50 % of MACs, not timed, drift ")
    assert "warning: the result is ruined" in done.stderr


def test_a_batch_calls_it_ruined_and_exits_with_7(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **DATA)
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "m.onnx").write_bytes(two_convs("n").SerializeToString())
    given = ("--ratio", 0.5, "--align", 1, "--no-bench", "--calib", tmp_path / "d.npz", "--ruined", 0.001)
    result = run("batch", tmp_path / "zoo", "-o", tmp_path / "out", *given, "-v")
    assert result.exit_code == 7
    assert "ruined" in result.stdout
    assert (tmp_path / "out" / "models" / "m.onnx").exists()
    assert 'type="ruined"' in (tmp_path / "out" / "junit.xml").read_text()
    again = run("batch", tmp_path / "zoo", "-o", tmp_path / "fine", *given[:-1], 9)
    assert again.exit_code == 0, again.stdout
