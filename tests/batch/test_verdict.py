"""What the end of a worker means, and whether another run may help."""

from __future__ import annotations

import signal

import pytest

from onnxprune.batches.job import CHANGED, ResourceLimits, WorkerOutcome, WorkerResult
from onnxprune.batches.verdict import Verdict, judged

LIMITS = ResourceLimits(seconds=2.5, memory=10**9)
BY_SIGNAL = "killed from outside (SIGKILL): by somebody, or by the kernel for want of memory"


def outcome(
    result: WorkerResult | None = None, code: int = 0, stopped: str = "", lost: bool = False
) -> WorkerOutcome:
    return WorkerOutcome(0, result or WorkerResult(), code, 1.0, 2 * 10**9, stopped, lost)


@pytest.mark.parametrize("attempt", [1, 2])
def test_what_a_worker_says_of_its_model_stands(attempt: int) -> None:
    told = WorkerResult("unproved", 5, "no proof")
    assert judged(outcome(told), attempt, LIMITS) == Verdict("unproved", 5, "no proof")


@pytest.mark.parametrize(
    ("ended", "status", "code", "reason", "again"),
    [
        (outcome(WorkerResult(CHANGED, None, "moved")), "unreadable", 3, "moved", True),
        (outcome(code=-9, stopped="timeout"), "timeout", None, "stopped after 2.5 s, the limit", False),
        (outcome(code=-9, stopped="out-of-memory"), "out-of-memory", 6, "2 GB of resident memory", False),
        (outcome(code=-9, lost=True), "killed", None, "the process that starts the workers", True),
        (outcome(code=-signal.SIGKILL), "killed", None, BY_SIGNAL, True),
        (outcome(code=-signal.SIGSEGV), "crashed", None, "died of SIGSEGV; the log may tell where", True),
        (outcome(code=-250), "crashed", None, "died of signal 250", True),
        (outcome(code=255), "crashed", None, "exit code 255 and without a result", True),
        (outcome(code=0), "crashed", None, "exit code 0 and without a result", True),
    ],
)
def test_deaths_are_told_apart(
    ended: WorkerOutcome, status: str, code: int | None, reason: str, again: bool
) -> None:
    first, second = judged(ended, 1, LIMITS), judged(ended, 2, LIMITS)
    assert (first.status, first.exit_code, first.again) == (status, code, again)
    assert reason in first.reason
    assert (second.status, second.exit_code, second.again) == (status, code, False)
    assert second.reason == first.reason + (", in run 2 too" if again else "")
