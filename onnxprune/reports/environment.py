"""What a run was made with and on."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import onnxprune
from onnxprune.evaluation.latency import cpu_name
from onnxprune.model.machine import cores, memory


def environment() -> dict[str, Any]:
    """Return versions, the processor, its cores, and the memory in bytes."""
    return {
        "onnxprune": onnxprune.__version__,
        **{name: version(name) for name in ("onnx", "onnxruntime", "numpy")},
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": cpu_name(),
        "cores": cores(),
        "memory": memory(),
    }
