"""A removal and its replay are one value."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.analysis.analyse import analyse
from onnxprune.analysis.replay import Removal, replay
from tests.unit.recovery.examples import WIDTH, dense


def test_a_removal_holds_its_replay() -> None:
    units = analyse(dense()).units
    removed = np.zeros(units.count, dtype=bool)
    removed[units.groups[0].units[:4]] = True
    removal = Removal.of(units, removed)
    assert removal.traced is units.traced
    assert np.array_equal(removal.alive, units.alive(removed))
    shapes = {name: kept.shape for name, kept in removal.replayed.tensors.items()}
    assert shapes["h"] == shapes["r"] == (1, WIDTH - 4)
    again = replay(units.traced, removal.alive)
    assert {name: kept.shape for name, kept in again.tensors.items()} == shapes


def test_a_removal_cannot_be_changed() -> None:
    units = analyse(dense()).units
    removal = Removal.of(units, np.zeros(units.count, dtype=bool))
    assert not removal.replayed.cuts
    with pytest.raises(AttributeError):
        removal.removed = np.ones(units.count, dtype=bool)  # type: ignore[misc]
