"""Closeness: drift and agreement batch by batch, and where a result is ruined or a gate fails."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.evaluation.closeness import Closeness, Inputs, measured

CLASSES = np.asarray([[3.0, 4.0], [2.0, 0.0]])


def close(
    drift: float | None,
    agreement: float | None = None,
    inputs: Inputs = "held out",
    gate: float | None = None,
) -> Closeness:
    return Closeness(inputs, 9, drift, agreement, "", "", 0.5, gate)


def test_drift_is_the_mean_over_samples_and_agreement_the_share_of_them() -> None:
    batch, other = {"x": np.zeros((2, 3))}, {"x": np.zeros((1, 3))}
    runs = [
        (batch, {"y": CLASSES}, {"y": np.asarray([[3.0, 0.0], [2.0, 0.0]])}),
        (other, {"y": CLASSES[:1]}, {"y": CLASSES[:1]}),
    ]
    found = measured(runs)
    assert found.drift == pytest.approx((0.8 + 0 + 0) / 3)
    assert found.agreement == pytest.approx(2 / 3)
    assert found.metric is not None
    assert found.metric.name == "agreement"


def test_outputs_of_other_shapes_and_of_integers_have_no_drift() -> None:
    batch, ids = {"x": np.zeros((1, 3))}, {"y": np.ones((1, 2), np.int64)}
    assert measured([(batch, ids, ids)]).drift is None
    odd = measured([(batch, {"y": np.ones((1, 3, 2))}, {"y": np.ones((1, 2, 2))})])
    assert (odd.drift, odd.agreement) == (None, None)
    assert measured([(batch, {"y": [1, 2]}, {"y": [1, 2]})]).drift is None  # a sequence


@pytest.mark.parametrize(
    ("given", "loss", "judged", "ruined"),
    [
        (close(0.5, 0.5), 0.5, True, False),
        (close(0.51, 1.0), 0.51, True, True),
        (close(0.1, 0.49), 0.51, True, True),
        (close(None, 0.9), 0.1, True, False),
        (close(float("inf")), float("inf"), True, True),
        (close(None), None, False, False),
        (close(0.9, inputs="validation"), 0.9, True, True),
        (close(0.9, inputs="fitted"), 0.9, False, True),
        (close(0.1, inputs="fitted"), 0.1, False, False),
        (close(0.9, inputs="made up"), 0.9, False, False),
    ],
)
def test_a_result_is_ruined_beyond_the_limit_on_data(
    given: Closeness, loss: float | None, judged: bool, ruined: bool
) -> None:
    assert given.loss == (None if loss is None else pytest.approx(loss))
    assert (given.judged, given.ruined) == (judged, ruined)


@pytest.mark.parametrize(
    ("drift", "gate", "passed"), [(0.2, None, True), (0.2, 0.2, True), (0.21, 0.2, False), (None, 0.2, False)]
)
def test_the_gate_lets_through_what_is_near(drift: float | None, gate: float | None, passed: bool) -> None:
    assert close(drift, gate=gate).passed is passed
