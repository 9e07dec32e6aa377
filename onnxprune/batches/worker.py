"""One model in a process of its own: prune it into a scratch folder and tell how that went."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx

import onnxprune
from onnxprune.batches.hashing import Unreadable, digests, digests_of_data, file_digest
from onnxprune.batches.job import CHANGED, EXECUTION, PAGE, PLAN, STAGE, Job
from onnxprune.batches.settings import from_plain
from onnxprune.errors import (
    GateFailed,
    ModelError,
    NothingToPrune,
    OnnxPruneError,
    ResourceError,
    TargetMissed,
    UnprovedError,
    UsageError,
    printable,
    shortened,
)
from onnxprune.model.tensors import DecodeError, all_tensors, is_external
from onnxprune.paths import read_file
from onnxprune.pipeline.prune import SideFiles, prune
from onnxprune.pipeline.report import PruneResult
from onnxprune.progress import Progress
from onnxprune.reports.data import PruneReport
from onnxprune.reports.outcome import RUINED
from onnxprune.reports.plain import versioned
from onnxprune.reports.quality import ruin_line

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_STATUS: tuple[tuple[type[OnnxPruneError], str], ...] = (
    (GateFailed, "gate-failed"), (NothingToPrune, "nothing"), (UnprovedError, "unproved"),
    (ModelError, "invalid"), (ResourceError, "disk-full"), (UsageError, "usage"),
)  # fmt: skip
_REASON = 600  # subscripts
_OFTEN = 0.5  # seconds between two words on the stage


def carried_out(job: Job, tell: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
    """Prune one model, and return how that ended as plain data; no error leaves this function.

    tell: called with what is known before the end, `inputs` and the scratch `folder`.
    """
    begun = time.perf_counter()
    print(f"onnxprune {onnxprune.__version__}: {printable(job.path)}, run {job.attempt}", flush=True)
    try:
        told = _pruned(job, tell)
    except (Exception, SystemExit) as error:  # noqa: BLE001  every end of a worker is told
        traceback.print_exc()
        told = failure(error)
    print(f"{told['status']} after {time.perf_counter() - begun:.2f} s: {told['reason']}", flush=True)
    return told


def _pruned(job: Job, tell: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
    tell({"inputs": {}})
    marks = {job.path: _mark(job.path)}
    inputs = digests(job.path)  # refuses what is no file, before anything else opens it
    others = external_files(job.path)
    marks |= {path: _mark(path) for path in others if os.path.exists(path)}
    tell({"inputs": inputs | digests_of_data(others)})
    folder = Path(tempfile.mkdtemp(prefix=EXECUTION, dir=job.scratch))
    tell({"folder": str(folder)})
    tempfile.tempdir = tempfile.mkdtemp(dir=job.scratch)  # what is left there goes with the scratch folder
    beside = SideFiles(folder / PLAN, folder / PAGE)
    settings, progress = from_plain(job.settings), _stages(tell)
    ended = _outcome(lambda: prune(job.path, settings, folder / job.name, beside=beside, progress=progress))
    if any(_moved(path, mark) for path, mark in marks.items()):
        return {"status": CHANGED, "exit_code": None, "reason": "the input changed while it was read"}
    # Where a later file could not be written the model may lie there, but no result stands behind it.
    made = sorted(os.listdir(folder)) if ended.get("report") else []
    ended["files"] = {name: file_digest(folder / name) for name in made}
    return ended


def _stages(tell: Callable[[Mapping[str, Any]], None]) -> Progress:
    """Pass on, now and then, how far long stages are."""
    last = time.monotonic()

    def note(stage: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _OFTEN:
            last = time.monotonic()
            tell({STAGE: f"{stage} {done}/{total}"})

    return note


def _outcome(run: Callable[[], PruneResult]) -> dict[str, Any]:
    try:
        report = run().report
    except OnnxPruneError as error:
        traceback.print_exc()
        result = getattr(error, "result", None)
        judged = None if result is None else versioned(result.report)
        return {**failure(error), "report": judged}
    for text in report.warnings:
        print(f"warning: {printable(text)}")
    status, reason = _judged(report)
    return {
        "status": status,
        "exit_code": TargetMissed.exit_code if report.missed else 0,
        "reason": reason,
        "report": versioned(report),
    }


def _judged(report: PruneReport) -> tuple[str, str]:
    """Return the status of a model that was written, and why it fell short."""
    if report.closeness is not None and report.closeness.ruined:
        return RUINED, ruin_line(report.closeness)
    return ("target-missed", f"target missed: {', '.join(report.missed)}") if report.missed else ("done", "")


def failure(error: BaseException) -> dict[str, Any]:
    """Say of an error what it means: status, exit code and a reason in one line."""
    text = shortened(printable(" ".join(str(error).split())), _REASON)
    if isinstance(error, Unreadable):
        return {"status": "unreadable", "exit_code": error.exit_code, "reason": text}
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return {"status": status, "exit_code": error.exit_code, "reason": text}
    if isinstance(error, MemoryError):
        why = f"out of memory: {text}" if text else "out of memory"
        return {"status": "out-of-memory", "exit_code": ResourceError.exit_code, "reason": why}
    if isinstance(error, OSError) and error.errno in _FULL:
        return {"status": "disk-full", "exit_code": ResourceError.exit_code, "reason": text}
    if isinstance(error, OSError) and error.errno in _REFUSED:
        return {
            "status": "usage",
            "exit_code": UsageError.exit_code,
            "reason": f"refused by the system: {text}",
        }
    why = f"internal error: {type(error).__name__}: {text}"
    return {"status": "failed", "exit_code": OnnxPruneError.exit_code, "reason": why}


def external_files(path: str) -> tuple[str, ...]:
    """Return the files that a model names as its external data, whether they exist or not."""
    try:
        model = onnx.ModelProto.FromString(read_file(path))
    except (DecodeError, OSError):
        return ()
    names = {
        e.value for t in all_tensors(model) if is_external(t) for e in t.external_data if e.key == "location"
    }
    return tuple(os.path.join(os.path.dirname(path), name) for name in sorted(names))


def _mark(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError as error:
        raise Unreadable(f"'{printable(path)}' cannot be read: {error.strerror or error}") from error
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _moved(path: str, mark: tuple[int, ...]) -> bool:
    try:
        return _mark(path) != mark
    except Unreadable:
        return True


def redirected(job: Job) -> None:
    """Send stdout and stderr of this process to the log of a job. Raises OSError."""
    handle = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for number, name in ((1, "stdout"), (2, "stderr")):
        setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False))
