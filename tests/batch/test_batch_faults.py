"""Batches under faults: a short slice of what scripts/fault_batch.py does at length."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

import onnxprune
from onnxprune.batches import run as running
from onnxprune.batches import worker
from onnxprune.batches.job import Job
from onnxprune.errors import ResourceError
from tests.batch import batch_faults as faults
from tests.batch import batch_invariants as invariants
from tests.batch.batch_pools import TINY, Here, tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> faults.Bench:
    return faults.prepared(tmp_path_factory.mktemp("faults"), ("mobilenet", "shuffle"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> faults.Bench:
    folder = tmp_path_factory.mktemp("small")
    (folder / "zoo").mkdir()
    for number, name in enumerate("ab"):
        tiny(folder / "zoo" / f"{name}.onnx", seed=number)
    return faults.undisturbed(folder, folder / "zoo")


def test_workers_killed_at_random_moments(bench: faults.Bench) -> None:
    assert faults.kill_workers(bench, 3, random.Random(1)) > 0


def test_the_server_killed(bench: faults.Bench) -> None:
    bench.fresh()
    with faults.started(bench) as (process, mark):
        while not (victims := faults.workers(mark, process.pid)):
            assert process.poll() is None
        server = faults.parent(victims[0])
        os.kill(server, signal.SIGKILL)
        _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert "the process that starts the workers was killed; it runs a second time" in told
    records = invariants.check_finished(bench.output, bench.names)
    assert {r["attempts"] for r in records.values()} <= {1, 2}
    invariants.check_same_models(bench.output, bench.reference)


def test_a_run_killed_at_random_moments(bench: faults.Bench) -> None:
    bench.fresh()
    rng = random.Random(2)
    faults.stop_twice(bench, signal.SIGKILL, rng)
    bench.finish()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_asked_to_stop(bench: faults.Bench, number: int) -> None:
    bench.fresh()
    rng = random.Random(3)
    faults.stop_twice(bench, number, rng)
    bench.finish()


@pytest.mark.parametrize(
    ("where", "code", "place"),
    [("run", errno.ENOSPC, 4), ("run", errno.EROFS, 1), ("run", errno.EACCES, 12), ("run", errno.ENOSPC, 20),
     ("worker", errno.ENOSPC, 3), ("worker", errno.EROFS, 4), ("worker", errno.EACCES, 5)],
)  # fmt: skip
def test_a_call_that_fails(small: faults.Bench, tmp_path: Path, where: str, code: int, place: int) -> None:
    assert faults.fail_call(small, tmp_path, where, code, place)


@pytest.mark.parametrize(("last", "step"), [("bad", 11), ("tiny", 197)])
def test_a_journal_cut_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str, step: int
) -> None:
    cut_everywhere(tmp_path, monkeypatch, last, step)


def cut_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str, step: int) -> int:
    """Cut a journal at every `step`-th byte of its last two lines and run again; return how often."""
    monkeypatch.setattr(running, "Workers", Here)
    source, whole, out = tmp_path / "zoo", tmp_path / "whole", tmp_path / "out"
    source.mkdir()
    tiny(source / "a.onnx")
    if last == "bad":
        (source / "z.onnx").write_bytes(b"bad")
    else:
        tiny(source / "z.onnx", seed=1)
    expected = {r.id: (r.status, r.input_sha256) for r in onnxprune.batch(source, whole, TINY)}
    data = (whole / "journal.jsonl").read_bytes()
    first = len(data) - len(b"".join(data.splitlines(keepends=True)[-2:]))
    assert b'"ended"' in data[first:]
    for length in range(first, len(data) + 1, step):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(whole, out)
        (out / "journal.jsonl").write_bytes(data[:length])
        found = {r.id: (r.status, r.input_sha256) for r in onnxprune.batch(source, out, TINY)}
        assert found == expected
        invariants.check_finished(out, expected)
        invariants.check_same_models(out, whole)
        ended = [e["id"] for e in invariants.lines(out) if e["event"] == "ended"]
        assert ended == ["a.onnx", "z.onnx"], f"cut at {length}: {ended}"
    return len(range(first, len(data) + 1, step))


def test_a_damaged_line_in_the_middle_is_said_and_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "Workers", Here)
    source, out, said = tmp_path / "zoo", tmp_path / "out", []
    source.mkdir()
    tiny(source / "a.onnx")
    list(onnxprune.batch(source, out, TINY))
    journal = out / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert [b'"ended"' in line for line in lines] == [False, False, False, True, False]
    journal.write_bytes(b"".join([*lines[:3], lines[3].replace(b"{", b"\0", 1), *lines[4:]]))

    class Hearing(onnxprune.batches.watch.Watch):
        def warned(self, text: str) -> None:
            said.append(text)

    [record] = onnxprune.batch(source, out, TINY, watch=Hearing())
    assert record.status == "done"
    assert "1 damaged line" in said[0]


def test_no_model_without_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full when the page is written leaves a whole model behind, which nobody reported on."""

    def full(*_: object) -> None:
        raise ResourceError("no space left for the page")

    (tmp_path / "in").mkdir()
    tiny(tmp_path / "in" / "a.onnx")
    monkeypatch.setattr("onnxprune.pipeline.prune.write_page", full)
    job = Job(
        0,
        1,
        "a.onnx",
        str(tmp_path / "in/a.onnx"),
        {"ratio": 0.5, "bench": False},
        str(tmp_path),
        "",
        "a.onnx",
    )
    told = worker.carried_out(job, lambda _: None)
    tempfile.tempdir = None
    assert told["status"] == "disk-full"
    assert list(tmp_path.glob("run-*/a.onnx")), "written before the page"
    assert told["files"] == {}
