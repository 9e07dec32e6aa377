"""Criteria without data, on matrices that a person can check, and criteria that a user brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxprune
from onnxprune import PruneSettings
from onnxprune.errors import OnnxPruneError, UsageError
from onnxprune.planning.criteria import BROKEN, norm
from onnxprune.planning.criterion import Criterion, ScoringInput, Slices, criterion, criterion_of
from onnxprune.registries import CRITERIA

MODELS = Path(__file__).parents[3] / "models"
WEIGHT = np.asarray([[3.0, -4.0], [0.0, 1.0], [2.0, 2.0]])


def held(
    matrix: Any, units: tuple[int, ...] = (0, 1, 2), weight: bool = True, scale: bool = False,
    produces: bool = True,
) -> Slices:  # fmt: skip
    values = np.asarray(matrix, np.float64)
    return Slices(object(), np.asarray(units), lambda: values, weight, scale, produces)


def seen(*slices: Slices, count: int = 3, seed: int = 0) -> ScoringInput:
    return ScoringInput(count, (np.arange(count),), slices, (), seed)


@pytest.mark.parametrize(
    ("name", "norms"),
    [
        ("l1", [7, 1, 4]), ("l2", [5, 1, np.sqrt(8)]), ("linf", [4, 1, 2]),
        ("fpgm", [np.sqrt(34) + np.sqrt(37), np.sqrt(34) + np.sqrt(5), np.sqrt(37) + np.sqrt(5)]),
    ],
)  # fmt: skip
def test_norms_are_relative_to_the_mean_of_their_tensor(name: str, norms: list[float]) -> None:
    found = CRITERIA.get(name)(seen(held(WEIGHT)))
    assert found == pytest.approx(np.asarray(norms) / np.mean(norms))


def test_a_unit_counts_by_the_mean_over_its_tensors() -> None:
    found = CRITERIA.get("l1")(seen(held([[1.0], [1.0], [1.0]]), held([[3.0], [1.0]], (0, 1))))
    assert found == pytest.approx([(1 + 1.5) / 2, (1 + 0.5) / 2, 1])


def test_scales_rank_where_there_are_some_and_norms_elsewhere() -> None:
    scales = held([[-0.5], [1.5]], (0, 1), weight=False, scale=True)
    given = seen(held(WEIGHT), scales)
    chosen = CRITERIA.get("bn-scale")
    assert chosen(given)[:2] == pytest.approx([0.5, 1.5])
    norms = np.asarray([5, 1, np.sqrt(8)])
    assert chosen(given)[2] == pytest.approx(norms[2] / norms.mean())
    assert chosen.unseen(given).tolist() == [False, False, True]
    assert CRITERIA.get("fpgm").unseen(seen(held(WEIGHT, produces=False))).tolist() == [True] * 3
    assert not CRITERIA.get("l2").unseen(seen()).any()


def test_units_without_tensors_score_nothing_and_broken_ones_less() -> None:
    found = CRITERIA.get("l2")(seen(held([[1.0], [np.nan]], (0, 1))))
    assert found[0] > 0
    assert found[1:].tolist() == [BROKEN, 0.0]


def test_chance_is_seeded() -> None:
    draws = [CRITERIA.get("random")(seen(count=50, seed=seed)).tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert len(set(draws[0])) == 50
    assert min(draws[0]) > 0


def test_criteria_are_registered_by_decorators(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_entries", "_origins"):
        monkeypatch.setattr(CRITERIA, name, dict(getattr(CRITERIA, name)))

    @norm("spread", "standard deviation of the weights")
    def spread(matrix: np.ndarray) -> np.ndarray:
        return matrix.std(axis=1)

    @criterion("first", "the first stay")
    def first(given: ScoringInput) -> np.ndarray:
        return -np.arange(given.count)

    assert CRITERIA.get("spread")(seen(held(WEIGHT))) == pytest.approx(np.asarray([3.5, 0.5, 0]) / (4 / 3))
    assert CRITERIA.get("first")(seen(count=2)).tolist() == [0, -1]
    with pytest.raises(OnnxPruneError, match="criterion 'l2' is registered already"):
        norm("l2", "again")(spread)


# -- from Python ---------------------------------------------------------------------------------------------
def last_stay(given: ScoringInput) -> np.ndarray:
    return np.arange(given.count)


def test_a_function_ranks() -> None:
    settings = PruneSettings(ratio=0.5, criterion=last_stay, align=1, bench=False)
    result = onnxprune.prune(MODELS / "digits_resnet.onnx", settings)
    for group in result.plan.groups:
        assert group.keep == list(range(group.channels - len(group.keep), group.channels))
    assert result.plan.settings["criterion"] == "given in Python"


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda given: np.zeros(1), r"criterion <lambda>\(\) gives \[1\], expected numbers \["),
        (lambda given: np.full(given.count, np.nan), "gives NaN, expected numbers"),
        (lambda given: given.nothing, "criterion <lambda>.. fails: AttributeError"),
        (lambda given: "high", "fails: ValueError"),
    ],
)
def test_a_function_that_fails_is_a_usage_error(function: Any, says: str) -> None:
    settings = PruneSettings(ratio=0.5, criterion=function, align=1, bench=False)
    with pytest.raises(UsageError, match=says):
        onnxprune.prune(MODELS / "digits_resnet.onnx", settings)


def test_what_a_criterion_can_be_given_as() -> None:
    own = Criterion("mine", "my own", last_stay)
    assert criterion_of(own) is own
    assert criterion_of("l2") is CRITERIA.get("l2")
    assert (criterion_of(last_stay).name, criterion_of(last_stay).needs_data) == ("last_stay()", False)
    with pytest.raises(UsageError, match="unknown criterion 'l3'"):
        criterion_of("l3")
    needy = Criterion("needy", "needs data", last_stay, needs_data=True)
    with pytest.raises(UsageError, match="looks at activations: give --calib DATA"):
        PruneSettings(ratio=0.5, criterion=needy)
