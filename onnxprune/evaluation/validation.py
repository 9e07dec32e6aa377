"""Validation: a metric of the whole model before and after, and the gate of `--max-drop`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import onnx

from onnxprune.data.read import Feeds, Validation, read_validation
from onnxprune.errors import UsageError
from onnxprune.evaluation.drift import opened, ran
from onnxprune.evaluation.metrics import Answers, Judged, Metric, metric_of, suited
from onnxprune.settings import PruneSettings

DIGITS = 9  # of a drop: 0.99 - 0.98 is more than 0.01 by rounding


class Validated(msgspec.Struct, frozen=True):
    """A metric of the unpruned and of the pruned model.

    drop: by how much the pruned model is worse, below 0 where it is better. passed: whether the gate lets
    it through; a metric that is no number does not pass. lower_is_better, unit, title: as of `Metric`, so
    that a report can be read where the metric is not installed.
    """

    metric: str
    before: float
    after: float
    drop: float
    max_drop: float | None
    passed: bool
    samples: int
    lower_is_better: bool = False
    unit: str = ""
    title: str = ""

    @classmethod
    def of(
        cls, metric: Metric, before: float, after: float, samples: int, max_drop: float | None = None
    ) -> Validated:
        """Judge a metric; max_drop: what the gate allows, None without a gate."""
        drop = round(after - before if metric.lower_is_better else before - after, DIGITS)
        passed = max_drop is None or drop <= max_drop
        return cls(
            metric.name, before, after, drop, max_drop, passed, samples,
            metric.lower_is_better, metric.unit, metric.title,
        )  # fmt: skip

    def __str__(self) -> str:
        """Say the metric before and after."""
        return f"{self.metric} {self.before:.4g} -> {self.after:.4g}"


@dataclass(frozen=True)
class Judge:
    """Holds validation data and what the unpruned model gives on it."""

    data: Validation
    reference: Answers
    metric: Metric
    before: float
    max_drop: float | None

    def __call__(self, model: onnx.ModelProto) -> Validated:
        """Judge a pruned model. Raises UsageError where it does not run on the data."""
        return self.of(answers(model, self.data.batches, "the pruned model"))

    def of(self, found: Answers) -> Validated:
        """Judge what a pruned model makes of the data."""
        after = self.metric(Judged(found, self.reference, self.data))
        return Validated.of(self.metric, self.before, after, samples(self.data.batches), self.max_drop)


def judge(model: onnx.ModelProto, settings: PruneSettings) -> Judge | None:
    """Read the validation data and judge the unpruned model; None without data.

    Raises UsageError for data, labels or a script that does not fit.
    """
    if settings.validate is None:
        return None
    data = read_validation(settings.validate, model)
    reference = answers(model, data.batches, "the original")
    metric = metric_of(settings.metric or suited(reference, data))
    before = metric(Judged(reference, reference, data))
    return Judge(data, reference, metric, before, settings.max_drop)


def answers(model: onnx.ModelProto, batches: Sequence[Feeds], name: str) -> Answers:
    """Run a model over batches, on the CPU at onnxruntime's default optimisation; outputs that are arrays.

    Raises ModelError where onnxruntime cannot load it, UsageError where it does not run.
    """
    session = opened(model, name)
    return answers_in(ran(session, batch) for batch in batches)


def answers_in(outputs: Iterable[Mapping[str, Any]]) -> Answers:
    """Return of a model's outputs, batch by batch, those that are arrays. Raises UsageError where none is."""
    found = [{n: a for n, a in batch.items() if isinstance(a, np.ndarray)} for batch in outputs]
    if not found[0]:
        raise UsageError("the model has no output that is a tensor: a metric has nothing to judge")
    return found


def samples(batches: Sequence[Feeds]) -> int:
    """Count samples: entries along the first axis of the inputs."""
    return sum(max((a.shape[0] for a in batch.values() if a.ndim), default=1) for batch in batches)
