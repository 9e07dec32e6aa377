"""The report of a run, as JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxprune
from onnxprune.batching import limits
from onnxprune.model.files import write_file
from onnxprune.plain import plain
from onnxprune.record import Run

_SCHEMA_VERSION = 1


def environment() -> Mapping[str, Any]:
    """Return what the results of a run may depend on besides its inputs and settings."""
    return {
        "onnxprune": onnxprune.__version__, "onnx": version("onnx"), "onnxruntime": version("onnxruntime"),
        "python": platform.python_version(), "processor": platform.processor() or platform.machine(),
        "cores": limits.cores(), "memory": limits.memory(),
    }  # fmt: skip


def write_all(run: Run, folder: Path) -> None:
    """Write report.json into a folder. Raises UsageError and ResourceError."""
    told = {"schema_version": _SCHEMA_VERSION, **asdict(run)}
    write_file(folder / "report.json", json.dumps(plain(told), indent=1, allow_nan=False).encode() + b"\n")
