"""What a run was made with and on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

import onnxprune
from onnxprune.timing import cpu_name


def environment() -> dict[str, Any]:
    """Return versions, the processor, its cores, and the memory in bytes (None where the system hides it)."""
    return {
        "onnxprune": onnxprune.__version__,
        **{name: version(name) for name in ("onnx", "onnxruntime", "numpy")},
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": cpu_name(),
        "cores": _cores(),
        "memory": _memory(),
    }


def _cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> int | None:
    names = getattr(os, "sysconf_names", {})
    if not {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(names):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
