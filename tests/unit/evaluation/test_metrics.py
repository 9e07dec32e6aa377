"""Metrics as entries of a registry: direction, needs, and those that users bring."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxprune.data.read import Validation
from onnxprune.errors import OnnxPruneError, UsageError
from onnxprune.evaluation.metrics import Judged, Metric, metric, metric_of, suited
from onnxprune.evaluation.validation import Validated
from onnxprune.registries import METRICS

SCORES = np.asarray([[0.0, 1.0], [2.0, 1.0]])


def judged(labels: list[int] | None = None, scores: np.ndarray = SCORES) -> Judged:
    data = Validation(({"x": np.zeros((2, 3))},), labels=None if labels is None else np.asarray(labels))
    return Judged([{"y": scores}], [{"y": SCORES}], data)


def test_directions_and_needs() -> None:
    assert [m.name for m in METRICS if m.lower_is_better] == ["drift"]
    assert [m.name for m in METRICS if m.needs_labels] == ["top1"]


def test_labels_are_asked_for_before_a_metric_runs() -> None:
    assert METRICS.get("top1")(judged([1, 1])) == 0.5
    with pytest.raises(UsageError, match="metric top1 compares with labels"):
        METRICS.get("top1")(judged())


@pytest.mark.parametrize(("labels", "says"), [([0], "expected one for each"), ([0, 2], "expected 0 to 1")])
def test_labels_that_do_not_fit_are_refused(labels: list[int], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        METRICS.get("top1")(judged(labels))


def test_what_suits_the_data() -> None:
    images = [{"y": np.zeros((2, 3, 4))}]
    assert suited([{"y": SCORES}], judged([1, 1]).data) == "top1"
    assert suited([{"y": SCORES}], judged().data) == "agreement"
    assert suited(images, judged().data) == "drift"


def test_metrics_are_registered_by_a_decorator(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_entries", "_origins"):
        monkeypatch.setattr(METRICS, name, dict(getattr(METRICS, name)))

    @metric("spread", "range of the outputs", lower_is_better=True)
    def spread(c: Judged) -> float:
        return float(np.ptp(c.found[0]["y"]))

    assert METRICS.get("spread")(judged()) == 2
    assert metric_of("spread").lower_is_better
    with pytest.raises(OnnxPruneError, match="'drift' is registered already"):
        metric("drift", "again")(spread)


@pytest.mark.parametrize(("lower", "drop"), [(False, 0.5), (True, -0.5)])
def test_the_direction_decides_what_is_a_drop(lower: bool, drop: float) -> None:
    assert Validated("m", 1.0, 0.5, 2, lower_is_better=lower).drop == drop


def test_a_function_gets_outputs_and_labels() -> None:
    def mean(outputs: dict[str, np.ndarray], labels: Any) -> float:
        assert labels is None
        return float(outputs["y"].mean())

    found = metric_of(mean)
    assert (found.name, found.lower_is_better) == ("mean()", False)
    assert found(judged()) == 1.0
    own = Metric("mine", "my own", lambda c: 3.0)
    assert metric_of(own) is own
    with pytest.raises(UsageError, match="gives nan, expected a finite number"):
        metric_of(lambda outputs, labels: float("nan"))(judged())


def test_an_unknown_metric_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown metric 'top5', expected one of top1.*nearest: 'top1'"):
        metric_of("top5")
