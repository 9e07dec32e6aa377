"""The loop of a batch: begin, wait, judge, publish, write down. All that is durable happens here.

A model is `begun` in the journal before its worker starts, its files are named there (`writing`) before
they get their final names, and `ended` comes last. Workers write into scratch folders only, so that one
that is killed, or that nobody waits for any more, leaves nothing under a final name.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import onnxprune
from onnxprune.batches import journal as events
from onnxprune.batches.folder import OutputFolder, places
from onnxprune.batches.hashing import Unreadable, combined, digests, file_digest
from onnxprune.batches.job import EXECUTION, PAGE, Job, ResourceLimits, Stage, WorkerOutcome
from onnxprune.batches.journal import Journal, State
from onnxprune.batches.verdict import ATTEMPTS, Verdict, judged
from onnxprune.batches.watch import Watch
from onnxprune.reports.record import GOOD, Record


class Pool(Protocol):
    """Where jobs run: processes of this machine, or a cluster."""

    def free(self) -> int:
        """Return how many more jobs may be submitted now."""

    def submit(self, job: Job) -> None:
        """Start a job."""

    def wait(self) -> Iterable[Stage | WorkerOutcome]:
        """Wait for a moment and return what was heard of the jobs under way."""


@dataclass(frozen=True)
class Task:
    """One model to prune: its id, where it is (as found), resolved settings and their hash."""

    name: str
    source: str
    settings: Mapping[str, Any]
    digest: str


@dataclass(frozen=True)
class _Run:
    """A job under way."""

    task: Task
    job: Job


def finished(task: Task, state: State, folder: OutputFolder, retry_failed: bool) -> Record | None:
    """Return the record of a model that need not be done again.

    Input, settings and version must be those of the record, and what was written must be there.
    """
    known = state.ended.get(task.name)
    if known is None or (retry_failed and known.record.status not in GOOD):
        return None
    record = known.record
    if (record.settings_sha256, record.version) != (task.digest, onnxprune.__version__):
        return None
    try:
        written = all(file_digest(folder.root / place) == sha for place, sha in known.files.items())
    except OSError:
        return None
    return record if written and _unmoved(task, known) else None


def _unmoved(task: Task, known: events.Ended) -> bool:
    path = os.path.abspath(task.source)
    try:
        now = digests(path, tuple(known.inputs)[1:])
    except Unreadable:
        now = {}
    return list(now.values()) == list(known.inputs.values())


class Scheduler:
    """Runs tasks in a pool and keeps the journal."""

    def __init__(self, folder: OutputFolder, journal: Journal, limits: ResourceLimits, watch: Watch) -> None:
        self._folder, self._journal, self._limits, self._watch = folder, journal, limits, watch
        self._numbers = count()
        self._running: dict[int, _Run] = {}

    def records(self, tasks: Sequence[Task], stale: Mapping[str, set[str]], pool: Pool) -> Iterator[Record]:
        """Run tasks and yield their records as they end.

        stale: files by id that earlier runs may have written. Raises OSError where the folder cannot be
        written to; the same run then goes on later.
        """
        waiting = deque((task, 1) for task in tasks)
        while waiting or self._running:
            while waiting and pool.free() > 0:
                task, attempt = waiting.popleft()
                job = self._begun(task, attempt, stale.get(task.name, set()))
                self._running[job.number] = _Run(task, job)
                pool.submit(job)
            for event in pool.wait():
                if isinstance(event, Stage):
                    self._watch.at(self._running[event.number].task.name, event.text)
                    continue
                run = self._running.pop(event.number)
                verdict = judged(event, run.job.attempt, self._limits)
                if verdict.again:
                    self._watch.retried(run.task.name, verdict.reason)
                    waiting.appendleft((run.task, run.job.attempt + 1))
                else:
                    record = self._ended(run, event, verdict)
                    self._watch.ended(record)
                    yield record
                shutil.rmtree(run.job.scratch, ignore_errors=True)

    def _begun(self, task: Task, attempt: int, stale: set[str]) -> Job:
        self._journal.append(events.Begun(id=task.name, attempt=attempt))
        self._folder.prepare(task.name, stale)
        self._watch.begun(task.name, attempt)
        log = self._folder.root / self._folder.log(task.name)
        if attempt == 1:
            log.unlink(missing_ok=True)
        return Job(
            next(self._numbers), attempt, task.name, os.path.abspath(task.source), task.settings,
            str(self._folder.fresh()), str(log), task.name.rpartition("/")[2],
        )  # fmt: skip

    def _ended(self, run: _Run, outcome: WorkerOutcome, verdict: Verdict) -> Record:
        """Give a model's files their names and write its record down."""
        told = outcome.result
        named = places(run.task.name, told.files)
        if named:
            self._journal.append(events.Writing(id=run.task.name, files=tuple(named.values())))
            self._folder.publish(Path(told.folder), named)
        attempts = run.job.attempt
        if len(list(Path(run.job.scratch).glob(f"{EXECUTION}*"))) > 1:
            attempts = ATTEMPTS
            self._watch.warned(f"{run.task.name}: ran again on another Dask worker, since the first one died")
        inputs = _hashed(run.job.path) if told.inputs is None else told.inputs
        record = Record(
            id=run.task.name, source=run.task.source, status=verdict.status, exit_code=verdict.exit_code,
            reason=verdict.reason, input_sha256=combined(inputs), settings_sha256=run.task.digest,
            version=onnxprune.__version__, attempts=attempts, seconds=outcome.seconds,
            peak_bytes=outcome.peak_bytes, log=self._folder.log(run.task.name),
            output=named.get(run.job.name), settings=run.task.settings, report=told.report,
            page=named.get(PAGE),
        )  # fmt: skip
        written = {place: told.files[name] for name, place in named.items()}
        self._journal.append(events.Ended(id=run.task.name, record=record, inputs=inputs, files=written))
        return record


def _hashed(path: str) -> dict[str, str]:
    try:
        return digests(path)
    except Unreadable:
        return {}
