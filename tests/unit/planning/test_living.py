"""Steps take along what the closure of a whole removal says, and give all of it back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from onnxprune.analysis.analyse import analyse
from onnxprune.analysis.units import Units
from onnxprune.planning.closing import taken_along
from onnxprune.planning.living import Links, LivingUnits
from tests.unit.planning.examples import depth_multipliers, grouped_queries, mixed_experts

MODELS = (depth_multipliers, grouped_queries, mixed_experts)


@pytest.fixture(params=MODELS, ids=lambda build: build.__name__)
def units(request: pytest.FixtureRequest) -> Units:
    build: Callable[[], onnx.ModelProto] = request.param
    return analyse(build()).units


def closed(units: Units, indices: np.ndarray) -> np.ndarray:
    removed = np.zeros(units.count, dtype=bool)
    removed[indices] = True
    return units.rows.close(removed)


def test_links_list_the_targets_of_several_numbers() -> None:
    links = Links.of(np.array([2, 0, 2]), np.array([7, 8, 9]), 3)
    assert links[np.array([2, 1, 0])].tolist() == [7, 9, 8]
    assert links[np.array([1])].tolist() == []


def test_steps_end_where_the_closure_of_their_union_does(units: Units) -> None:
    rng, living = np.random.default_rng(0), LivingUnits(units)
    gone: list[np.ndarray] = []
    for _ in range(8):
        gone.append(rng.choice(units.count, 4, replace=False))
        died, _ = living.kill(gone[-1])
        assert len(np.unique(died)) == len(died)
        assert (living.dead == closed(units, np.concatenate(gone))).all()


def test_what_died_lives_again(units: Units) -> None:
    rng, living = np.random.default_rng(0), LivingUnits(units)
    living.kill(rng.choice(units.count, 4, replace=False))
    before = living.dead.copy()
    died, _ = living.kill(rng.choice(units.count, 20, replace=False))
    living.revive(died)
    assert (living.dead == before).all()
    again, _ = living.kill(np.arange(units.count))
    assert len(again) == units.count - before.sum()


def test_a_step_that_empties_an_axis_does_not_fit(units: Units) -> None:
    living = LivingUnits(units)
    for group in units.groups:
        if group.level == 0:
            _, fits = living.kill(group.units)
            assert not fits
            assert not units.emptied(closed(units, group.units[:1])).size
            living.reset()
            assert living.kill(group.units[:1])[1]
            living.reset()


def test_units_of_two_clusters_do_not_take_each_other_along(units: Units) -> None:
    living = LivingUnits(units)
    for unit in range(units.count):
        dead = np.flatnonzero(closed(units, np.array([unit])))
        assert len(np.unique(living.clusters[dead])) == 1


def test_a_class_takes_along_what_its_closure_holds(units: Units) -> None:
    shuffled = np.random.default_rng(1).permutation(units.count)
    classes = [units.rows.child[units.rows.row == 0], *np.array_split(shuffled[: units.count // 2], 6)]
    place, unit = taken_along(units, classes)
    own = np.zeros(units.count, dtype=bool)
    for number, members in enumerate(classes):
        own[:] = False
        own[members] = True
        expected = np.flatnonzero(closed(units, members) & ~own)
        assert unit[place == number].tolist() == expected.tolist()
