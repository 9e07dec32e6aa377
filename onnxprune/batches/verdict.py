"""What the end of a worker means: the status of its model, and whether to try again."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from onnxprune.batches.job import CHANGED, ResourceLimits, WorkerOutcome
from onnxprune.errors import ModelError, ResourceError
from onnxprune.quantities import size

ATTEMPTS = 2
_MAY_HELP = ("crashed", "killed")  # another run may end otherwise: the machine was to blame, or a race


@dataclass(frozen=True)
class Verdict:
    """A status, the exit code that `prune` would have had, and a reason in one line."""

    status: str
    exit_code: int | None
    reason: str
    again: bool = False


def judged(outcome: WorkerOutcome, attempt: int, limits: ResourceLimits) -> Verdict:
    """Judge the end of a worker. attempt: which run of the model it was, from 1."""
    first = attempt < ATTEMPTS
    times = "" if first else f", in run {attempt} too"
    told = outcome.result
    if told.status == CHANGED:
        return Verdict("unreadable", ModelError.exit_code, told.reason + times, first)
    if told.status:
        return Verdict(told.status, told.exit_code, told.reason)
    status, reason = _death(outcome, limits)
    code = ResourceError.exit_code if status == "out-of-memory" else None
    helps = status in _MAY_HELP
    return Verdict(status, code, reason + (times if helps else ""), first and helps)


def _death(outcome: WorkerOutcome, limits: ResourceLimits) -> tuple[str, str]:
    if outcome.stopped == "timeout":
        return "timeout", f"stopped after {limits.seconds:g} s, the limit (--timeout)"
    if outcome.stopped == "out-of-memory":
        found, most = size(outcome.peak_bytes or 0), size(limits.memory or 0)
        return "out-of-memory", f"stopped at {found} of resident memory, the limit is {most} (--memory-limit)"
    if outcome.lost:
        return "killed", "the process that starts the workers was killed"
    if outcome.code == -signal.SIGKILL:
        return "killed", "killed from outside (SIGKILL): by somebody, or by the kernel for want of memory"
    if outcome.code < 0:
        return "crashed", f"died of {_named(-outcome.code)}; the log may tell where"
    return "crashed", f"ended with exit code {outcome.code} and without a result; the log may tell why"


def _named(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
