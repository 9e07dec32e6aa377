"""Structured pruning of ONNX models, proved and timed with onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from onnxprune.api import apply, bench, inspect, prune, sensitivity, sparsify, verify
    from onnxprune.batching.options import BatchSettings
    from onnxprune.batching.run import batch
    from onnxprune.pipeline import PruneResult, SideFiles
    from onnxprune.plan import Plan
    from onnxprune.record import Record
    from onnxprune.sensing import SensitivitySettings
    from onnxprune.settings import PruneSettings
    from onnxprune.timing import BenchResult, BenchSettings
    from onnxprune.unstructured import SparsifySettings

_PLACES = {
    "BatchSettings": "batching.options", "BenchResult": "timing", "BenchSettings": "timing",
    "Plan": "plan", "PruneResult": "pipeline", "PruneSettings": "settings", "Record": "record",
    "SensitivitySettings": "sensing", "SideFiles": "pipeline", "SparsifySettings": "unstructured",
    "apply": "api", "batch": "batching.run", "bench": "api", "inspect": "api", "prune": "api",
    "sensitivity": "api", "sparsify": "api", "verify": "api",
}  # fmt: skip

__all__ = [
    "BatchSettings", "BenchResult", "BenchSettings", "Plan", "PruneResult", "PruneSettings", "Record",
    "SensitivitySettings", "SideFiles", "SparsifySettings", "apply", "batch", "bench", "inspect", "prune",
    "sensitivity", "sparsify", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'onnxprune' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"onnxprune.{_PLACES[name]}"), name)
