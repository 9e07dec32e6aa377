"""What this machine offers."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import psutil

THREADS = "ONNXPRUNE_THREADS"  # of every session that proves or judges; all cores without it
THREAD_COUNTS = (
    "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", THREADS,
)  # fmt: skip
_SHARE = 0.8  # of the memory, for all workers together
_GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def cores() -> int:
    """Return the processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> int:
    """Return the bytes of memory of this machine or container."""
    total = int(psutil.virtual_memory().total)
    with suppress(OSError, ValueError):
        total = min(total, int(_GROUP_LIMIT.read_text()))
    return total


def memory_of_one(jobs: int) -> int:
    """Return the bytes of resident memory that each of several workers may use."""
    return int(_SHARE * memory() / jobs)
