"""`onnxprune.batch`: resolve sources and settings, resume, run, report."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from msgspec import structs

import onnxprune
from onnxprune.batches import journal as events
from onnxprune.batches import manifest, options, settings, sources
from onnxprune.batches.folder import OutputFolder
from onnxprune.batches.job import ResourceLimits
from onnxprune.batches.journal import Journal
from onnxprune.batches.options import BatchSettings
from onnxprune.batches.processes import Workers
from onnxprune.batches.scheduler import Pool, Scheduler, Task, finished
from onnxprune.batches.sources import SourceEntry
from onnxprune.batches.watch import Watch
from onnxprune.errors import ResourceError, UsageError, printable
from onnxprune.model.machine import cores, memory_of_one
from onnxprune.reports.facts import environment
from onnxprune.reports.record import Record, Run
from onnxprune.reports.writing import write_all
from onnxprune.settings import PruneSettings

Source = str | os.PathLike[str]


@dataclass(frozen=True)
class Resolved:
    """A run before it starts: its models with all their settings, and how it runs."""

    entries: tuple[SourceEntry, ...]
    run: BatchSettings


def batch(
    source: Source,
    output: str | os.PathLike[str],
    settings: PruneSettings | Mapping[str, Any] | None = None,
    run: BatchSettings | Mapping[str, Any] | None = None,
    watch: Watch | None = None,
) -> Iterator[Record]:
    """Prune many models, each in a process of its own, and yield their records as they end.

    source: a folder, a glob, a model, or a manifest (.toml, .json). output: a folder, new, empty or of an
    earlier run, which is then resumed: what it finished is yielded first. settings, run: on top of a
    manifest's; of PruneSettings and BatchSettings what differs from their defaults, of a mapping all. At
    the end the reports are written. Whoever stops iterating stops the run; the same call goes on with it.
    Raises UsageError for sources, settings and folders that cannot be used, ResourceError for a full disk.
    """
    resolved = resolve(source, output, settings or {}, run or {})
    return records(resolved, Path(output), watch or Watch())


def resolve(
    source: Source,
    output: str | os.PathLike[str],
    on_top: PruneSettings | Mapping[str, Any],
    run: BatchSettings | Mapping[str, Any],
) -> Resolved:
    """List the models and check the settings of each. Raises UsageError."""
    text, folder = os.fspath(source), Path(output)
    if manifest.is_manifest(text):
        listed = manifest.read(Path(text), folder)
        entries, written = list(listed.entries), listed.run
    else:
        entries, written = sources.found(text, folder), {}
    given = settings.differing(on_top) if isinstance(on_top, PruneSettings) else settings.read(
        on_top, "settings", Path.cwd())  # fmt: skip
    resolved = [replace(e, settings=settings.merged([e.settings, given])) for e in entries]
    for entry in resolved:
        settings.typed(entry.settings, f"settings of '{printable(entry.name)}'")
    if isinstance(run, BatchSettings):
        usual = asdict(BatchSettings())
        run = {key: value for key, value in asdict(run).items() if value != usual[key]}
    how = options.typed({**written, **run})
    if how.part is not None:
        resolved = sources.shared(resolved, how.part)
    return Resolved(tuple(resolved), how)


def records(resolved: Resolved, output: Path, watch: Watch) -> Iterator[Record]:
    """Run what is not finished yet, yield all records, and write the reports."""
    with _resumable(), ExitStack() as held:
        folder = OutputFolder(output, resolved.run.part)
        held.callback(folder.close)
        state = events.read(folder.journals())
        if state.damaged:
            watch.warned(f"{state.damaged} damaged lines of the journal are left out; their models run again")
        journal = Journal(folder.journal)
        held.callback(journal.close)
        seen: dict[str, list[str]] = {}
        tasks = [
            Task(e.name, e.path, e.settings, settings.digest(e.settings, seen)) for e in resolved.entries
        ]
        known = {t.name: finished(t, state, folder, resolved.run.retry_failed) for t in tasks}
        done = [record for record in known.values() if record is not None]
        watch.planned(len(tasks), len(done))
        yield from done
        begun = time.monotonic()
        rest = [task for task in tasks if known[task.name] is None]
        if rest:
            done += yield from _run(rest, state.files, resolved.run, (folder, journal, watch))
        seconds = state.seconds + time.monotonic() - begun
        reports = folder.reports()
        told = tuple(_seen_from(reports, folder.root, r) for r in sorted(done, key=lambda record: record.id))
        write_all(Run(told, environment(), asdict(resolved.run), round(seconds, 3)), reports)


def _seen_from(reports: Path, root: Path, record: Record) -> Record:
    """Return a record with paths relative to the folder of its report: that of a shard is not the root."""
    if reports == root:
        return record
    output, page = (None if path is None else f"../{path}" for path in (record.output, record.page))
    return structs.replace(record, log=f"../{record.log}", output=output, page=page)


def _run(
    tasks: Sequence[Task],
    stale: Mapping[str, set[str]],
    run: BatchSettings,
    place: tuple[OutputFolder, Journal, Watch],
) -> Generator[Record, None, list[Record]]:
    folder, journal, watch = place
    jobs = min(run.jobs or cores(), len(tasks))
    most = ResourceLimits(run.timeout, run.memory_limit or memory_of_one(jobs))
    journal.append(events.Run(version=onnxprune.__version__, settings=asdict(run), models=len(tasks)))
    done = []
    try:
        with _pool(run, jobs, most) as pool:
            for record in Scheduler(folder, journal, most, watch).records(tasks, stale, pool):
                done.append(record)
                yield record
    finally:
        with suppress(OSError):
            journal.append(events.Stopped())
    return done


def _pool(run: BatchSettings, jobs: int, most: ResourceLimits) -> AbstractContextManager[Pool]:
    if run.dask is None:
        return Workers(jobs, most)
    from onnxprune.batches.dask import DaskWorkers

    return DaskWorkers(run.dask, jobs, most)


@contextmanager
def _resumable() -> Iterator[None]:
    """Say in one line that the system refuses to go on, and that nothing is lost."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        place = f": '{printable(str(error.filename))}'" if error.filename else ""
        remedy = "free some space" if full else "mend it"
        kind = ResourceError if full else UsageError
        stopped = f"the batch stopped: {error.strerror or error}{place}"
        raise kind(f"{stopped}; {remedy} and give the same command again, it goes on from here") from error
