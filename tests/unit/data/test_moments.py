"""Moments in parts: those of the whole are their sum, and nothing is run over twice."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.analysis.analyse import analyse
from onnxprune.data import moments as summing
from onnxprune.data.moments import Gram, _squared, collect, observed
from onnxprune.errors import UsageError
from tests.unit.recovery.examples import calibration, dense


def test_parts_are_the_batches_in_turn_and_add_up() -> None:
    model, data = dense(), calibration(7)
    units = analyse(model).units
    (whole,) = observed(model, units, data, 1 << 30).parts
    halved = observed(model, units, data, 1 << 30, 2)
    assert len(halved.parts) == 2
    for view, gram in halved.moments.items():
        assert gram.count == whole[view].count
        np.testing.assert_allclose(gram.second, whole[view].second, rtol=1e-12)
        np.testing.assert_allclose(gram.first, whole[view].first, rtol=1e-12)
    for number, part in enumerate(halved.parts):
        (alone,) = collect(model, list(part), data.fit[number::2], 1 << 30)
        for view, gram in part.items():
            np.testing.assert_allclose(gram.second, alone[view].second, rtol=1e-6)


def test_the_model_runs_once_over_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    real = summing.run
    monkeypatch.setattr(summing, "run", lambda *args: (runs.append(1), real(*args))[1])
    data = calibration(7)
    observed(dense(), analyse(dense()).units, data, 1 << 30, 2)
    assert len(runs) == len(data.fit)


EACH = 48_000 + 1_248  # bytes of a hidden tensor [1000, 12], and of its Gram matrix


@pytest.mark.parametrize(("limit", "passes"), [(1 << 30, 1), (2 * EACH, 1), (2 * EACH - 1, 2), (1, 2)])
def test_activations_of_a_pass_stay_within_the_limit(
    monkeypatch: pytest.MonkeyPatch, limit: int, passes: int
) -> None:
    opened: list[list[str]] = []
    real = summing.with_outputs
    monkeypatch.setattr(
        summing, "with_outputs", lambda model, names: (opened.append(names), real(model, names))[1]
    )
    observed(dense(), analyse(dense()).units, calibration(2, 1000), limit)
    assert len(opened) == passes
    assert sorted(name for names in opened for name in names) == ["r", "s"]


def test_there_are_no_more_parts_than_batches() -> None:
    evidence = observed(dense(), analyse(dense()).units, calibration(2), 1 << 30, 2)
    assert len(evidence.parts) == 1
    assert evidence.moments == evidence.parts[0]


def test_sums_of_rows_add_up() -> None:
    rows = np.random.default_rng(0).standard_normal((10, 3))
    parts = [Gram(len(r), r.sum(axis=0)[None], (r.T @ r)[None]) for r in (rows[:4], rows[4:])]
    both = parts[0] + parts[1]
    np.testing.assert_allclose(both.mean[0], rows.mean(axis=0))
    np.testing.assert_allclose(both.covariance[0], np.cov(rows.T, bias=True))


def test_masks_whose_squares_exceed_float32_are_summed_in_float64() -> None:
    rows = np.array([[[1.0, -1e30], [2.0, 0.0]]], np.float32)
    np.testing.assert_allclose(_squared(rows, "t"), [[[5.0, -1e30], [-1e30, 1e60]]], rtol=1e-6)


def test_activations_that_are_not_finite_are_named() -> None:
    for value in (np.nan, np.inf):
        with pytest.raises(UsageError, match=r"^tensor 't' holds NaN or Inf on the calibration data"):
            _squared(np.full((1, 2, 3), value, np.float32), "t")
