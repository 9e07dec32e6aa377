"""Batches on Dask: the same files as a local run, also where a Dask worker dies half-way."""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import onnxprune
from onnxprune.errors import UsageError
from tests.batch import batch_faults as faults
from tests.batch import batch_invariants as invariants
from tests.batch.test_batch import HALF, zoo

pytestmark = pytest.mark.slow

NAMES = {"deep/m.onnx", "mobilenet.onnx", "shuffle.onnx"}


def test_without_dask_it_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.delitem(sys.modules, "onnxprune.batches.dask", raising=False)
    with pytest.raises(UsageError, match=r"pip install 'onnxprune\[dask\]'"):
        list(onnxprune.batch(zoo(tmp_path / "zoo"), tmp_path / "out", HALF, {"dask": "local"}))


def place(cluster: Any) -> str:
    return str(cluster.scheduler_address)


def at_work(mark: str, out: Path, pids: set[int]) -> int:
    """Wait until a Dask worker's fork server has a model under way, and return the Dask worker's process."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for server in invariants.processes(mark, b"onnxprune.batches.server"):
            above = faults.parent(faults.parent(server))
            if above in pids and any((out / ".work").glob("*/run-*")):
                return above
    raise AssertionError("no model was begun")


def test_a_killed_dask_worker_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    source, local, out = zoo(tmp_path / "zoo"), tmp_path / "local", tmp_path / "out"
    list(onnxprune.batch(source, local, HALF))
    monkeypatch.setenv(invariants.MARK, tmp_path.name)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        pids = set(client.run(os.getpid).values())
        with ThreadPoolExecutor(1) as thread:
            running = thread.submit(
                lambda: list(onnxprune.batch(source, out, HALF, {"dask": place(cluster)}))
            )
            os.kill(at_work(tmp_path.name, out, pids), signal.SIGKILL)
            records = running.result(timeout=200)
    assert {r.status for r in records} == {"done"}
    assert 2 in {r.attempts for r in records}
    invariants.check_finished(out, NAMES)
    invariants.check_same_models(out, local)
    invariants.check_no_orphans(tmp_path.name, b"onnxprune.batches.server")


def test_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    from onnxprune.batches import dask as cluster

    monkeypatch.setattr(cluster, "_PATIENCE", 1.0)
    records = onnxprune.batch(zoo(tmp_path / "zoo"), tmp_path / "out", HALF, {"dask": "tcp://127.0.0.1:9"})
    with pytest.raises(UsageError, match="no Dask scheduler answers at 'tcp"):
        list(records)


def test_an_interrupted_run_on_dask_leaves_nothing_behind(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    bench = faults.Bench(zoo(tmp_path / "zoo"), tmp_path, tmp_path / "out")
    with faults.started(bench, "--dask", "local") as (process, _):
        while not any(bench.output.glob(".work/*/run-*")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert told.splitlines()[-1] == "interrupted"
    assert not (bench.output / ".work").exists()
    assert {r.status for r in onnxprune.batch(bench.source, bench.output, HALF)} == {"done"}
    invariants.check_finished(bench.output, NAMES)
