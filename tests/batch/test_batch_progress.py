"""How far a model is travels from its worker through the fork server to whoever watches."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

import onnxprune
from onnxprune.batches import worker
from onnxprune.batches.server import Child
from onnxprune.batches.watch import Watch
from onnxprune.cli.batch_progress import _Bars

MODELS = Path(__file__).parents[2] / "models"


def test_parts_of_lines_are_put_together_and_stages_taken_out() -> None:
    child = Child(3, psutil.Process(), -1)
    assert child.hear(b'{"inputs": {}}\n{"sta') == ""
    assert child.hear(b'ge": "refit 1/9"}\n{"stage": "refit 2/9"}\n{"status"') == "refit 2/9"
    assert child.hear(b': "done"}\n') == ""
    assert child.result == {"inputs": {}, "status": "done"}


def test_a_worker_says_so_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.1, 0.6, 0.6, 0.7, 1.3, 1.3])
    monkeypatch.setattr(worker.time, "monotonic", lambda: next(clock))
    told: list[object] = []
    note = worker._stages(told.append)
    for done in range(1, 5):
        note("proof", done, 4)
    assert told == [{"stage": "proof 2/4"}, {"stage": "proof 4/4"}]


@pytest.mark.slow
def test_a_run_hears_it_of_the_right_model(tmp_path: Path) -> None:
    active_range: list[tuple[str, str]] = []

    class Hearing(Watch):
        def at(self, name: str, stage: str) -> None:
            active_range.append((name, stage))

    settings = {"targets": {"macs": 0.7}, "calib": str(MODELS / "digits_calib.npz"), "bench": False}
    source = str(MODELS / "digits_transformer.onnx")
    [record] = onnxprune.batch(source, tmp_path / "out", settings, watch=Hearing())
    assert record.status == "done"
    assert {name for name, _ in active_range} == {"digits_transformer.onnx"}
    assert all(
        stage.split()[0] in ("calibration", "scoring", "proof", "refit", "joint") for _, stage in active_range
    )


def test_the_bar_shows_it() -> None:
    from rich.progress import Progress

    with Progress(disable=True) as bars:
        watch = _Bars(bars)
        watch.begun("a.onnx", 1)
        watch.at("a.onnx", "refit 2/9")
        assert [task.fields["stage"] for task in bars.tasks] == ["", "refit 2/9"]
