"""How the models of a batch ended, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STATUSES = (
    "done", "target-missed", "gate-failed", "nothing", "unproved", "invalid", "usage", "unreadable",
    "out-of-memory", "disk-full", "timeout", "crashed", "killed", "failed",
)  # fmt: skip
# done: written and proved. nothing: nothing to prune. crashed: died of a signal such as SIGSEGV.
# killed: SIGKILL from outside, not by our limits. failed: internal error. unreadable: no file, no permission.
GOOD = ("done", "nothing")


@dataclass(frozen=True)
class Record:
    """How one model of a batch ended; paths are relative to the output folder, with forward slashes.

    id: unique and stable, the path relative to the source folder. source: the path as it was found.
    status: one of STATUSES. exit_code: what `onnxprune prune` would exit with; None where the process died.
    reason: one line, "" where all is well. input_sha256: "" where the file could not be read. version: of
    onnxprune. attempts: runs of this model, 1 or 2. seconds: wall clock of the last attempt. peak_bytes:
    resident memory of the worker, at most. log: "logs/<id>.log". output: "models/<id>" where a model was
    written. settings: the resolved settings of this model. report: PruneReport.to_dict() where pruning came
    so far.
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


@dataclass(frozen=True)
class Run:
    """A whole batch.

    records: in order of id. environment: versions of onnxprune, onnx, onnxruntime, python, processor,
    cores, memory. settings: the resolved settings of the run. seconds: wall clock of the run.
    """

    records: tuple[Record, ...]
    environment: Mapping[str, Any]
    settings: Mapping[str, Any]
    seconds: float
