"""What only pages show: drift on generated inputs, and where the time goes by kind of operator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import msgspec
import numpy as np
import onnx

from onnxprune.errors import OnnxPruneError
from onnxprune.evaluation.drift import generated_drift
from onnxprune.evaluation.latency import BenchSettings
from onnxprune.evaluation.latency import profiled as run_profiled
from onnxprune.oracle.cases import Cases
from onnxprune.settings import PruneSettings

SAMPLES = 4  # for drift
RUNS = 20  # of the profiler
SECONDS = 1.0  # of profiled runs of one model, at most
KERNEL = "_kernel_time"


class Spent(msgspec.Struct, frozen=True):
    """Milliseconds of one run in one kind of operator, as onnxruntime runs it, before and after."""

    op: str
    before: float
    after: float


class OperatorTimes(msgspec.Struct, frozen=True):
    """Time by kind of operator, those first that take most, and how it was measured."""

    operators: tuple[Spent, ...]
    provider: str
    threads: int


class SampledDrift(msgspec.Struct, frozen=True):
    """Drift of the outputs; inputs: what the samples are."""

    value: float
    samples: int
    inputs: str


@dataclass(frozen=True)
class Details:
    """What was measured; `trouble` says why something was not."""

    drift: SampledDrift | None = None
    profile: OperatorTimes | None = None
    trouble: tuple[str, ...] = ()


def details(
    original: onnx.ModelProto, pruned: onnx.ModelProto, cases: Cases, settings: PruneSettings
) -> Details:
    """Measure both models, on generated inputs; trouble is told and is no error."""
    if not cases.feeds or cases.wide:
        return Details()
    trouble, moved, spent = [], None, None
    try:
        value = generated_drift(original, pruned, cases.feeds[0], settings.input_values, SAMPLES)
        moved = SampledDrift(value, SAMPLES, "generated")
    except OnnxPruneError as error:
        trouble.append(f"drift is not measured: {error}")
    try:
        spent = profiled((original, pruned), cases.feeds[0], settings) if settings.bench else None
    except (OnnxPruneError, OSError) as error:
        trouble.append(f"time by operator is not measured: {error}")
    return Details(moved, spent, tuple(trouble))


def profiled(
    models: tuple[onnx.ModelProto, onnx.ModelProto], feeds: Mapping[str, np.ndarray], settings: PruneSettings
) -> OperatorTimes:
    """Time two models by kind of operator with onnxruntime's profiler, in milliseconds of a run.

    Each node counts with its median over the runs. Raises ModelError and UsageError as `timing.bench` does.
    """
    chosen = BenchSettings(settings.provider, settings.threads)
    before, after = (_by_operator(model, feeds, chosen) for model in models)
    names = sorted(
        before.keys() | after.keys(), key=lambda op: (-before.get(op, 0.0), -after.get(op, 0.0), op)
    )
    rows = tuple(Spent(op, round(before.get(op, 0.0), 5), round(after.get(op, 0.0), 5)) for op in names)
    return OperatorTimes(rows, settings.provider, settings.threads)


def _by_operator(
    model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], settings: BenchSettings
) -> dict[str, float]:
    nodes: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in run_profiled(model, feeds, settings, RUNS, SECONDS):
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL):
            nodes[event["args"]["op_name"], event["name"]].append(event["dur"] / 1000)
    return _summed(nodes)


def _summed(nodes: Mapping[tuple[str, str], Sequence[float]]) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for (op, _), times in nodes.items():
        found[op] += median(times[1:] or times)  # the first run warms up
    return dict(found)
