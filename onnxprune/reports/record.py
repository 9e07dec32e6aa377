"""How the models of a batch ended: what the engine writes and the reports read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

STATUSES = ("done", "ruined", "target-missed", "gate-failed", "nothing", "unproved", "invalid", "usage",
            "unreadable", "out-of-memory", "disk-full", "timeout", "crashed", "killed", "failed")  # fmt: skip
GOOD = ("done", "nothing")


class Record(Struct, frozen=True):
    """How one model of a batch ended; paths are relative to the output folder, with forward slashes.

    id: stable and unique, the path below the source folder; source: the path as it was found. exit_code:
    what `prune` would exit with, None where the process died. reason: one line, empty where all is well.
    input_sha256: empty where the file could not be read. attempts: runs of this model, 1 or 2. seconds:
    wall clock of the last attempt. peak_bytes: resident memory of the worker, at most. output: where a
    model was written. settings: the resolved ones, plain data. report: JSON of the `PruneReport`
    where pruning came so far; page: the same to look at.

    Statuses: `done` is written and proved, `ruined` is written, too, but far from the original on data,
    `nothing` had nothing to prune, `crashed` died of a signal such
    as SIGSEGV, `killed` of SIGKILL from outside and not by our limits, `failed` is an internal error,
    `unreadable` is no file or no permission.
    """

    id: str
    source: str
    status: str
    exit_code: int | None
    reason: str
    input_sha256: str
    settings_sha256: str
    version: str
    attempts: int
    seconds: float
    peak_bytes: int | None
    log: str
    output: str | None
    settings: Mapping[str, Any]
    report: Mapping[str, Any] | None
    page: str | None = None


class Run(Struct, frozen=True):
    """A whole run: its records in order of id.

    environment: versions of onnxprune, onnx, onnxruntime and python, processor, cores, memory. settings:
    the resolved ones of the run. seconds: wall clock.
    """

    records: tuple[Record, ...]
    environment: Mapping[str, Any]
    settings: Mapping[str, Any]
    seconds: float
