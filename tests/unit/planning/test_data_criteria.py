"""Criteria from calibration data, on moments that a person can check."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from onnxprune.errors import OnnxPruneError
from onnxprune.planning.criterion import Criterion, ScoringInput, Slices
from onnxprune.planning.data_criteria import GroupLosses, data_criterion
from onnxprune.planning.obs import Reader, obs_losses
from onnxprune.registries import CRITERIA

UNITS = np.asarray([2, 3])


def reader(energies: Sequence[float], weights: Sequence[float], units: np.ndarray = UNITS) -> Reader:
    """A consumer whose places do not correlate."""
    gram, products = np.diag(np.asarray(energies)), np.diag(np.asarray(weights))
    return Reader(gram, products, units, float(np.sum(gram * products)))


def seen(*readers: Reader) -> ScoringInput:
    """Two groups: units 0 and 1, which a weight holds, and 2 and 3."""
    norms = np.asarray([[3.0], [4.0]])
    held = Slices("w", np.asarray([0, 1]), lambda: norms, True, False, True)
    return ScoringInput(4, (np.asarray([0, 1]), UNITS), (held,), readers, 0)


@pytest.mark.parametrize(
    ("name", "losses"),
    [("activation", [1 / 4, 3 / 4]), ("wanda", [1 / 2.5, 1.5 / 2.5]), ("obs", [1 / 2.5, 1.5 / 2.5])],
)
def test_what_consumers_lose(name: str, losses: list[float]) -> None:
    found = CRITERIA.get(name)(seen(reader([1, 3], [1, 0.5])))
    assert found[2:] == pytest.approx(losses, rel=0.03)  # obs: the Gram matrix is damped


def test_losses_of_several_consumers_add_up() -> None:
    found = CRITERIA.get("wanda")(seen(reader([1, 3], [1, 1]), reader([1, 0], [1, 1])))
    assert found[2:] == pytest.approx([1 / 4 + 1, 3 / 4])


def test_a_group_that_nothing_reads_counts_by_squared_norms() -> None:
    assert CRITERIA.get("wanda")(seen(reader([1, 3], [1, 1])))[:2] == pytest.approx([9 / 25, 16 / 25])


def test_obs_refits_what_correlates() -> None:
    """Two places that say the same: one of them is free, the other one is not once the first is gone."""
    gram = np.asarray([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.5]])
    units = np.asarray([0, 1, 2])
    given = ScoringInput(3, (units,), (), (Reader(gram, np.eye(3), units, 2.5),), 0)
    found = CRITERIA.get("obs")(given)
    assert found.min() < 0.02
    assert np.sort(found)[1] > 0.15


def test_readers_are_given_by_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_entries", "_origins"):
        monkeypatch.setattr(CRITERIA, name, dict(getattr(CRITERIA, name)))
    asked = []

    @data_criterion("count", "how many read it")
    def count(readers: Sequence[Reader], units: np.ndarray) -> np.ndarray:
        asked.append((len(readers), units.tolist()))
        return np.full(len(units), float(len(readers)))

    found = CRITERIA.get("count")
    assert found.needs_data
    assert isinstance(found.score, GroupLosses)
    assert found(seen(reader([1, 1], [1, 1]), reader([1, 1], [1, 1], np.asarray([3, -1]))))[2:].tolist() == [
        2,
        2,
    ]
    assert asked == [(2, [2, 3])]
    with pytest.raises(OnnxPruneError, match="'obs' is registered already"):
        data_criterion("obs", "again")(count)


def test_a_wide_consumer_has_no_inverse(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reader([1, 3], [1, 1]).inverse is not None
    monkeypatch.setattr("onnxprune.planning.obs.WIDE", 1)
    wide = reader([1, 3], [1, 1])
    assert wide.inverse is None
    found = Criterion("o", "s", CRITERIA.get("obs").score, needs_data=True)(seen(wide))
    assert found[2:] == pytest.approx([1 / 4, 3 / 4])


def test_losses_that_are_no_numbers_end_the_order() -> None:
    """NaN behind Inf: every unit still gets its turn, once, and the others keep their order."""
    units = np.arange(4)
    odd = Reader(np.diag([2.0, 1.0, np.nan, np.inf]), np.eye(4), units, 1.0)
    odd.__dict__["inverse"] = np.diag([0.5, 1.0, np.nan, 1e-300])
    losses = obs_losses([odd], units)
    assert losses.shape == (4,)
    assert losses[1] < losses[0]
    assert (losses[:2] < np.inf).all()
