"""What is sent to a worker and what comes back: plain data, on whatever machine it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

PLAN, PAGE = ".plan.json", ".page.html"  # names beside the model in a scratch folder
EXECUTION = "run-"  # begins the name of each folder that a worker writes a model into
STAGE = "stage"  # of what a worker tells, where it is now
CHANGED = "changed"  # what a worker tells where the input moved under it; no status of a record


class Job(Struct, frozen=True):
    """One run of one model.

    number: unique in this process; path, scratch, log: absolute. settings: fields of PruneSettings as
    plain data. name: of the file that is written into a fresh folder inside `scratch`.
    """

    number: int
    attempt: int
    id: str
    path: str
    settings: Mapping[str, Any]
    scratch: str
    log: str
    name: str


class ResourceLimits(Struct, frozen=True):
    """What one worker may use: seconds of wall clock and bytes of resident memory; None for any."""

    seconds: float | None = None
    memory: int | None = None


class Started(Struct, frozen=True):
    """A job has a worker since `begun`, on the monotonic clock of its machine."""

    number: int
    pid: int
    begun: float


class Stage(Struct, frozen=True):
    """How far a job is within a long stage."""

    number: int
    text: str


class WorkerResult(Struct, frozen=True):
    """What a worker told of its model.

    status: empty where it died before the end. inputs: sha256 of the model and its external data by path,
    None where it died before it looked. folder: where it wrote. files: sha256 by name in `folder`.
    report: `PruneReport.to_dict()` where pruning came so far.
    """

    status: str = ""
    exit_code: int | None = None
    reason: str = ""
    inputs: Mapping[str, str] | None = None
    folder: str = ""
    files: Mapping[str, str] = {}
    report: Mapping[str, Any] | None = None


class WorkerOutcome(Struct, frozen=True):
    """How a worker ended.

    code: of its exit, negative for a signal. seconds: wall clock. peak_bytes: resident memory at most,
    None where nobody knows. stopped: the limit for which we killed it, or nothing. lost: the processes
    above it died.
    """

    number: int
    result: WorkerResult
    code: int
    seconds: float
    peak_bytes: int | None
    stopped: str = ""
    lost: bool = False
