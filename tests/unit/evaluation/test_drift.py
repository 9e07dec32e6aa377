"""Drift: one sum for all who measure it, and the original's outputs worked out once."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.errors import UsageError
from onnxprune.evaluation import drift as measuring
from onnxprune.evaluation.drift import Distances, Reference, distance, distances, drift
from onnxprune.recovery.context import values_of, with_values
from tests.unit.recovery.examples import calibration, dense

DATA = calibration(4, 8)


def other() -> object:
    return with_values(dense(), {name: 1.1 * v for name, v in values_of(dense()).items()})


def test_the_worst_output_counts_by_its_mean() -> None:
    found = Distances()
    assert not found
    one = np.ones(1)
    for name, values in {"a": (1.0, 1.2), "b": (1.3, 1.5)}.items():
        for value in values:
            found.add(name, value * one, one)
    assert found.worst == pytest.approx(0.4)
    assert found.root_mean_square == pytest.approx(np.sqrt((0 + 0.04 + 0.09 + 0.25) / 4))


@pytest.mark.parametrize("limit", [0, 8 * 3 * 4 * 2, 1 << 20])
def test_outputs_are_the_same_whether_kept_or_worked_out_again(limit: int) -> None:
    reference = Reference(dense(), DATA.batches, limit)
    first, second = (list(reference.outputs()) for _ in range(2))
    for one, again in zip(first, second, strict=True):
        assert np.array_equal(one["y"], again["y"])
    assert reference.distances(other()).worst == drift(dense(), other(), DATA.batches)


@pytest.mark.parametrize(("limit", "runs"), [(0, 12), (8 * 3 * 4 * 2, 8), (1 << 20, 4)])
def test_the_original_runs_once_where_its_outputs_fit(
    limit: int, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = Reference(dense(), DATA.batches, limit)
    calls: list[int] = []
    real = measuring.ran
    monkeypatch.setattr(measuring, "ran", lambda *args: (calls.append(1), real(*args))[1])
    for _ in range(3):
        list(reference.outputs())
    assert len(calls) == runs


def test_what_does_not_compare_is_said() -> None:
    known = {"y": np.ones((2, 3), np.float32)}
    with pytest.raises(UsageError, match="no output y"):
        distances([(known, {"z": known["y"]})])
    with pytest.raises(UsageError, match=r"output y: got shape \(3,\)"):
        distances([(known, {"y": known["y"][0]})])
    with pytest.raises(UsageError, match="needs inputs"):
        distances([])
    codes = {"y": np.ones(2, np.int64)}
    with pytest.raises(UsageError, match="needs a float output: the outputs are y"):
        distances([(codes, codes)])


def test_elements_that_are_no_numbers_agree_or_are_infinitely_far() -> None:
    odd = np.asarray([np.nan, np.inf, 1.0])
    assert distance(odd, odd) == 0
    assert distance(np.asarray([np.nan, 2.0, 1.0]), odd) == np.inf
