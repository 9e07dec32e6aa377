"""The loop of a batch, in a pool that plays a script."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from onnxprune.batches.folder import OutputFolder
from onnxprune.batches.hashing import file_digest
from onnxprune.batches.job import (
    CHANGED,
    EXECUTION,
    PLAN,
    Job,
    ResourceLimits,
    Stage,
    WorkerOutcome,
    WorkerResult,
)
from onnxprune.batches.journal import Journal, read
from onnxprune.batches.scheduler import Scheduler, Task, finished
from onnxprune.batches.watch import Watch
from onnxprune.reports.record import Record
from tests.batch.batch_pools import Scripted

LIMITS = ResourceLimits(60.0, 10**9)


@dataclass
class Hearing(Watch):
    """Writes down what it is told."""

    told: list[tuple[str, ...]] = field(default_factory=list)

    def begun(self, name: str, attempt: int) -> None:
        self.told.append(("begun", name, str(attempt)))

    def at(self, name: str, stage: str) -> None:
        self.told.append(("at", name, stage))

    def retried(self, name: str, reason: str) -> None:
        self.told.append(("retried", name, reason))

    def ended(self, record: Record) -> None:
        self.told.append(("ended", record.id, record.status))

    def warned(self, text: str) -> None:
        self.told.append(("warned", text))


@dataclass
class Stand:
    """A folder with sources, and one to write to."""

    root: Path
    folder: OutputFolder
    watch: Hearing = field(default_factory=Hearing)

    def task(self, name: str) -> Task:
        path = self.root / "zoo" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
        return Task(name, str(path), {"ratio": 0.5}, "digest")

    def run(self, pool: Scripted, *names: str, stale: Iterable[str] = ()) -> dict[str, Record]:
        journal = Journal(self.folder.journal)
        tasks = [self.task(name) for name in names]
        old = {name: set(stale) for name in names}
        try:
            made = Scheduler(self.folder, journal, LIMITS, self.watch).records(tasks, old, pool)
            return {record.id: record for record in made}
        finally:
            journal.close()

    def events(self) -> list[tuple[str, str]]:
        lines = self.folder.journal.read_bytes().splitlines()
        return [(e["event"], e["id"]) for e in map(json.loads, lines)]


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    folder = OutputFolder(tmp_path / "out")
    yield Stand(tmp_path, folder)
    folder.close()


def pruned(job: Job) -> WorkerOutcome:
    """What a worker does and says that prunes a model."""
    made = Path(job.scratch) / f"{EXECUTION}1"
    made.mkdir()
    (made / job.name).write_bytes(b"pruned " + job.name.encode())
    (made / PLAN).write_bytes(b"{}")
    files = {path.name: file_digest(path) for path in made.iterdir()}
    inputs = {job.path: file_digest(Path(job.path))}
    return WorkerOutcome(
        job.number, WorkerResult("done", 0, "", inputs, str(made), files, {"x": 1}), 0, 1.5, 10**8
    )


def died(job: Job, code: int = -11) -> WorkerOutcome:
    return WorkerOutcome(job.number, WorkerResult(inputs={job.path: "aa"}), code, 0.5, 10**8)


def every(end: Callable[[Job], WorkerOutcome]) -> Callable[[Job], Iterator[WorkerOutcome]]:
    return lambda job: iter([end(job)])


def test_no_more_jobs_than_slots_and_all_of_them(stand: Stand) -> None:
    pool = Scripted(2, every(pruned))
    names = [f"m{i}.onnx" for i in range(5)]
    found = stand.run(pool, *names)
    assert sorted(found) == names
    assert [job.number for job in pool.jobs] == list(range(5))
    assert len({job.scratch for job in pool.jobs}) == 5
    for name, record in found.items():
        assert (record.status, record.attempts, record.output) == ("done", 1, f"models/{name}")
        assert (stand.folder.root / f"models/{name}").read_bytes() == b"pruned " + name.encode()
        assert record.input_sha256 == file_digest(Path(record.source))
        assert (record.report, record.page, record.seconds) == ({"x": 1}, None, 1.5)
    assert not any(stand.folder.scratch.iterdir())


def test_the_journal_is_ahead_of_every_step(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[tuple[str, str]]] = []
    publish = OutputFolder.publish

    def play(job: Job) -> Iterator[WorkerOutcome]:
        seen.append(stand.events())
        yield pruned(job)

    def publishing(folder: OutputFolder, source: Path, places: dict[str, str]) -> None:
        seen.append(stand.events())
        assert not (stand.folder.root / "models/a").exists()
        publish(folder, source, places)

    monkeypatch.setattr(OutputFolder, "publish", publishing)
    stand.run(Scripted(1, play), "a")
    begun, writing, ended = ("begun", "a"), ("writing", "a"), ("ended", "a")
    assert seen == [[begun], [begun, writing]]
    assert stand.events() == [begun, writing, ended]


def test_what_crashed_runs_once_more_and_before_what_waits(stand: Stand) -> None:
    pool = Scripted(1, lambda job: iter([died(job) if (job.id, job.attempt) == ("a", 1) else pruned(job)]))
    found = stand.run(pool, "a", "b")
    assert [(job.id, job.attempt) for job in pool.jobs] == [("a", 1), ("a", 2), ("b", 1)]
    assert {name: (r.status, r.attempts) for name, r in found.items()} == {"a": ("done", 2), "b": ("done", 1)}
    [retried] = [told for told in stand.watch.told if told[0] == "retried"]
    assert "SIGSEGV" in retried[2]
    assert not any(stand.folder.scratch.iterdir())


def test_the_second_end_counts(stand: Stand) -> None:
    pool = Scripted(1, every(lambda job: died(job, -9 if job.attempt == 2 else -11)))
    record = stand.run(pool, "a")["a"]
    assert (record.status, record.attempts, record.output, record.input_sha256) == ("killed", 2, None, "aa")
    assert record.reason.endswith(", in run 2 too")
    assert stand.events() == [("begun", "a"), ("begun", "a"), ("ended", "a")]


def test_an_input_that_moved_is_read_once_more(stand: Stand) -> None:
    def play(job: Job) -> Iterator[WorkerOutcome]:
        moved = WorkerResult(CHANGED, None, "changed", {job.path: "bb"})
        yield WorkerOutcome(job.number, moved, 0, 0.1, 1)

    record = stand.run(Scripted(1, play), "a")["a"]
    assert (record.status, record.exit_code, record.attempts) == ("unreadable", 3, 2)


def test_a_worker_that_died_before_it_looked(stand: Stand) -> None:
    def play(job: Job) -> Iterator[WorkerOutcome]:
        yield WorkerOutcome(job.number, WorkerResult(), -9, 0.0, None, lost=True)

    record = stand.run(Scripted(1, play), "a")["a"]
    assert (record.status, record.peak_bytes) == ("killed", None)
    assert record.input_sha256 == file_digest(Path(record.source))


def test_stages_are_told_of_the_right_model(stand: Stand) -> None:
    def play(job: Job) -> Iterator[Stage | WorkerOutcome]:
        yield Stage(job.number, f"refit of {job.id}")
        yield pruned(job)

    stand.run(Scripted(2, play), "a", "b")
    assert [told for told in stand.watch.told if told[0] == "at"] == [
        ("at", "b", "refit of b"), ("at", "a", "refit of a")
    ]  # fmt: skip


def test_files_and_log_of_an_earlier_run_go_but_not_the_log_of_a_first_attempt(stand: Stand) -> None:
    log = stand.folder.root / "logs" / "a.log"
    old = stand.folder.root / "models" / "a"
    for path in (log, old):
        path.parent.mkdir(parents=True)
        path.write_text("old")
    said: list[str] = []

    def play(job: Job) -> Iterator[WorkerOutcome]:
        assert not old.exists()
        said.append(Path(job.log).read_text() if Path(job.log).exists() else "")
        Path(job.log).write_text(f"run {job.attempt}")
        yield died(job)

    stand.run(Scripted(1, play), "a", stale=["models/a"])
    assert said == ["", "run 1"]


def test_two_executions_of_one_job_are_said(stand: Stand) -> None:
    def play(job: Job) -> Iterator[WorkerOutcome]:
        (Path(job.scratch) / f"{EXECUTION}0").mkdir()
        yield pruned(job)

    assert stand.run(Scripted(1, play), "a")["a"].attempts == 2
    assert ("warned", "a: ran again on another Dask worker, since the first one died") in stand.watch.told


@contextmanager
def changed(path: Path) -> Iterator[None]:
    before = path.read_bytes()
    path.write_bytes(before + b"!")
    yield
    path.write_bytes(before)


def test_what_is_finished_is_known_by_its_bytes_settings_and_files(stand: Stand) -> None:
    record = stand.run(Scripted(1, every(pruned)), "a")["a"]
    state, task, folder = read(stand.folder.journals()), stand.task("a"), stand.folder
    assert finished(task, state, folder, retry_failed=True) == record
    assert finished(replace(task, digest="other"), state, folder, retry_failed=False) is None
    assert finished(stand.task("b"), state, folder, retry_failed=False) is None
    for path in (Path(task.source), folder.root / "models/a", folder.root / "plans/a.json"):
        with changed(path):
            assert finished(task, state, folder, retry_failed=False) is None, path
    assert finished(task, state, folder, retry_failed=False) == record
    Path(task.source).unlink()
    assert finished(task, state, folder, retry_failed=False) is None


def test_a_failure_of_another_version_is_no_end(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    stand.run(Scripted(1, every(lambda job: replace_inputs(died(job), job))), "a")
    state, task = read(stand.folder.journals()), stand.task("a")
    found = finished(task, state, stand.folder, retry_failed=False)
    assert found is not None
    assert found.status == "crashed"
    assert finished(task, state, stand.folder, retry_failed=True) is None
    monkeypatch.setattr("onnxprune.__version__", "9")
    assert finished(task, state, stand.folder, retry_failed=False) is None


def replace_inputs(outcome: WorkerOutcome, job: Job) -> WorkerOutcome:
    """Let a worker that died have told the hash of its input."""
    told = WorkerResult(inputs={job.path: file_digest(Path(job.path))})
    return WorkerOutcome(outcome.number, told, outcome.code, outcome.seconds, outcome.peak_bytes)
