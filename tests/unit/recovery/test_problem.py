"""The error of a window: what it misses, and what its layers read on the way."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.recovery.problem import (
    Batch,
    LayerGrams,
    LayerPart,
    Problem,
    ends_of,
    error_of,
    passes,
    pieced,
)
from onnxprune.recovery.regression import linears
from onnxprune.recovery.walk import Walk
from onnxprune.recovery.windows import Window
from tests.unit.recovery.examples import calibration, dense

DATA = calibration(2, 8)


@pytest.fixture
def problem() -> Problem:
    """Ask the network for outputs that are higher by one."""
    walk = Walk(dense(), DATA.batches)
    layers = linears(walk)
    window = Window(0, len(walk.nodes), tuple(layers))
    piece = pieced(walk, window)
    ends = ends_of(walk, window, piece)
    assert ends == ["y"]
    made = walk.ahead(len(walk.nodes), ends, [0, 1])
    batches = [Batch(b, {"y": m["y"] + 1}) for b, m in zip(DATA.batches, made, strict=True)]
    parts = [LayerPart(batches, batches[:1])]
    return Problem(layers, parts, [], {"y": 0.25}, passes(walk, window, piece, ends))


def weights() -> dict[str, np.ndarray]:
    walk = Walk(dense(), DATA.batches)
    return {name: pieced(walk, Window(0, 5, ())).stored[name] for name in "wbvcud"}


def test_what_is_missed_is_scaled_by_what_a_unit_counts(problem: Problem) -> None:
    batches = problem.parts[0].batches
    missed = problem.residuals(weights(), batches)
    assert missed.shape == (2 * 8 * 3,)
    np.testing.assert_allclose(missed, -0.5, rtol=1e-4)
    assert problem.error(weights(), batches) == pytest.approx(24 * 0.25, rel=1e-4)
    assert error_of(missed, batches) == problem.error(weights(), batches)


def test_the_gradient_of_the_last_bias_is_the_sum_of_what_is_missed(problem: Problem) -> None:
    found = problem.weight_gradients(weights(), problem.parts[0].batches)
    assert [g.shape for g in found] == [(1, 7, 12), (1, 13, 12), (1, 13, 3)]
    np.testing.assert_allclose(found[2][0, -1], -0.25 * 16, rtol=1e-4)


def test_gradients_are_of_the_weights_that_are_given(problem: Problem) -> None:
    batches = problem.parts[0].batches
    other = {**weights(), "u": 0 * weights()["u"]}
    first, second = (problem.weight_gradients(w, batches) for w in (weights(), other))
    assert np.abs(first[0]).max() > 0
    assert np.abs(second[0]).max() == 0


def test_grams_are_of_what_layers_read_and_of_one_where_there_is_a_bias(problem: Problem) -> None:
    grams = LayerGrams(problem.layers)
    problem.weight_gradients(weights(), problem.parts[0].batches, grams)
    x = np.concatenate([batch["x"] for batch in DATA.batches])
    rows = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    np.testing.assert_allclose(grams.sums[0][0], rows.T @ rows, rtol=1e-4, atol=1e-4)
    assert [g.shape for g in grams.sums] == [(1, 7, 7), (1, 13, 13), (1, 13, 13)]
