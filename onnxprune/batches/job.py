"""What is sent to a worker and what comes back: plain data, on whatever machine it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PLAN, PAGE = ".plan.json", ".page.html"  # names beside the model in a scratch folder
EXECUTION = "run-"  # begins the name of each folder that a worker writes a model into
STAGE = "stage"  # of what a worker tells, where it is now
CHANGED = "changed"  # what a worker tells where the input moved under it; no status of a record


@dataclass(frozen=True)
class Job:
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


@dataclass(frozen=True)
class ResourceLimits:
    """What one worker may use: seconds of wall clock and bytes of resident memory; None for any."""

    seconds: float | None = None
    memory: int | None = None


@dataclass(frozen=True)
class WorkerOutcome:
    """How a worker ended.

    result: what it told; without a `status` where it died before the end. code: of its exit, negative for
    a signal. seconds: wall clock. peak_bytes: resident memory at most, None where nobody knows.
    stopped: the limit for which we killed it, or nothing. lost: the processes above it died.
    """

    number: int
    result: Mapping[str, Any]
    code: int
    seconds: float
    peak_bytes: int | None
    stopped: str = ""
    lost: bool = False
