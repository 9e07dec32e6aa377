"""Workers below a fork server: limits, deaths, and that nothing they started stays behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from onnxprune.batches.job import Job, ResourceLimits, Stage, WorkerOutcome
from onnxprune.batches.processes import Workers
from onnxprune.errors import OnnxPruneError
from tests.batch.batch_pools import TINY, tiny

pytestmark = pytest.mark.slow

METRIC = """
import os, pathlib, subprocess, time
here = pathlib.Path(__file__).parent

def waits(outputs, labels):
    child = subprocess.Popen(["sleep", "600"])
    (here / "child.tmp").write_text(f"{os.getppid()} {child.pid}")
    (here / "child.tmp").rename(here / "child")
    time.sleep(600)

def closes(outputs, labels):
    os.closerange(3, 256)
    os._exit(5)

def threads(outputs, labels):
    (here / "threads").write_text(os.environ["OMP_NUM_THREADS"] + os.environ["ONNXPRUNE_THREADS"])
    return 1.0
"""


@pytest.fixture
def job(tmp_path: Path) -> Callable[[str], Job]:
    """Makes the job of a model that is judged by one of the metrics above, or none."""
    tiny(tmp_path / "a.onnx")
    np.savez(tmp_path / "data.npz", x=np.ones((8, 4), np.float32))
    (tmp_path / "metric.py").write_text(METRIC)

    def made(metric: str = "") -> Job:
        judged = {"validate": str(tmp_path / "data.npz"), "metric": f"{tmp_path}/metric.py:{metric}"}
        settings = {**TINY, **(judged if metric else {})}
        scratch = tmp_path / f"scratch-{metric}"
        scratch.mkdir()
        log = str(tmp_path / "log")
        return Job(7, 1, "a.onnx", str(tmp_path / "a.onnx"), settings, str(scratch), log, "a.onnx")

    return made


def end(workers: Workers, until: float = 120.0) -> WorkerOutcome:
    stop = time.monotonic() + until
    while time.monotonic() < stop:
        for event in workers.wait():
            if not isinstance(event, Stage):
                return event
    raise AssertionError("no worker ended")


def child(folder: Path, workers: Workers) -> tuple[int, psutil.Process]:
    """Wait until a metric has started a process; return the server's number and the process."""
    stop = time.monotonic() + 120
    while not (folder / "child").exists():
        assert time.monotonic() < stop
        assert workers.wait() == []
    server, started = map(int, (folder / "child").read_text().split())
    return server, psutil.Process(started)


def test_a_job_ends_with_what_its_worker_told(job: Callable[[str], Job]) -> None:
    made = job("threads")
    with Workers(2, ResourceLimits()) as workers:
        assert workers.free() == 2
        workers.submit(made)
        assert workers.free() == 1
        ended = end(workers)
        assert workers.free() == 2
    told = ended.result
    assert (ended.number, told.status, told.exit_code, ended.code, ended.stopped) == (7, "done", 0, 0, "")
    assert told.inputs is not None
    assert list(told.inputs) == [made.path]
    assert Path(told.folder).parent == Path(made.scratch)
    assert set(told.files) >= {"a.onnx", ".plan.json"}
    assert (ended.peak_bytes or 0) > 10e6
    assert (Path(made.path).parent / "threads").read_text() == "11"


@pytest.mark.parametrize(
    ("limits", "stopped"),
    [(ResourceLimits(seconds=0.5), "timeout"), (ResourceLimits(memory=1_000_000), "out-of-memory")],
)
def test_a_worker_over_a_limit_is_killed(
    job: Callable[[str], Job], limits: ResourceLimits, stopped: str
) -> None:
    with Workers(1, limits) as workers:
        workers.submit(job("waits"))
        ended = end(workers)
    assert (ended.code, ended.stopped, ended.result.status, ended.lost) == (-9, stopped, "", False)


def test_what_a_worker_started_ends_with_the_workers(job: Callable[[str], Job], tmp_path: Path) -> None:
    with Workers(1, ResourceLimits()) as workers:
        workers.submit(job("waits"))
        _, started = child(tmp_path, workers)
    started.wait(10)


def test_what_a_worker_started_ends_with_a_server_that_was_killed(
    job: Callable[[str], Job], tmp_path: Path
) -> None:
    with Workers(1, ResourceLimits()) as workers:
        workers.submit(job("waits"))
        server, started = child(tmp_path, workers)
        os.kill(server, signal.SIGKILL)
        ended = end(workers)
        started.wait(10)
        assert (ended.lost, ended.code, ended.result.inputs, ended.peak_bytes) == (True, -9, None, None)
        workers.submit(job(""))
        assert end(workers).result.status == "done", "another server was started"


def test_a_worker_that_closes_its_pipe_is_still_heard_to_end(job: Callable[[str], Job]) -> None:
    with Workers(1, ResourceLimits(seconds=60)) as workers:
        workers.submit(job("closes"))
        ended = end(workers)
    assert (ended.code, ended.result.status, ended.stopped) == (5, "", "")
    assert ended.result.inputs


def test_a_server_that_cannot_start_is_told_with_its_last_words(
    job: Callable[[str], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxprune.batches.processes._CODE", "raise SystemExit('no such server')")
    with Workers(1, ResourceLimits()) as workers:
        for number in range(5):
            workers.submit(job(str(number)))
            assert end(workers).lost
        workers.submit(job("last"))
        with pytest.raises(OnnxPruneError, match="died 6 times: no such server"):
            end(workers)
