"""Structured pruning of ONNX models, proved and timed with onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from onnxprune.batches.options import BatchSettings
    from onnxprune.batches.run import batch
    from onnxprune.evaluation.latency import BenchResult, BenchSettings
    from onnxprune.pipeline.api import apply, bench, inspect, prune, sensitivity, sparsify, verify
    from onnxprune.pipeline.prune import SideFiles
    from onnxprune.pipeline.report import PruneResult
    from onnxprune.planning.plan import Plan
    from onnxprune.reports.record import Record
    from onnxprune.rewrite.sparsify import SparsifySettings
    from onnxprune.settings import PruneSettings, SensitivitySettings

_PLACES = {
    "BatchSettings": "batches.options", "BenchResult": "evaluation.latency",
    "BenchSettings": "evaluation.latency", "Plan": "planning.plan", "PruneResult": "pipeline.report",
    "PruneSettings": "settings", "Record": "reports.record", "SensitivitySettings": "settings",
    "SideFiles": "pipeline.prune", "SparsifySettings": "rewrite.sparsify", "apply": "pipeline.api",
    "batch": "batches.run", "bench": "pipeline.api", "inspect": "pipeline.api", "prune": "pipeline.api",
    "sensitivity": "pipeline.api", "sparsify": "pipeline.api", "verify": "pipeline.api",
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
