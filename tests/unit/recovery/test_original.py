"""The unpruned network beside the pruned one: its values, cut to what is kept."""

from __future__ import annotations

import numpy as np

from onnxprune.recovery.context import Original
from onnxprune.recovery.regression import linears
from onnxprune.recovery.walk import Walk
from onnxprune.recovery.windows import Window
from tests.unit.recovery.examples import WIDTH, example

GONE = 5


def beside() -> tuple[Original, Walk]:
    given = example(GONE)
    batches = given.evidence.data.batches[:3]
    return Original(Walk(given.analysis.model, batches), given.removal), Walk(given.pruned, batches)


def test_what_is_removed_is_cut_off() -> None:
    original, _ = beside()
    original.walk.until(2)
    whole = [values["r"].copy() for values in original.walk.values]
    for values, kept in zip(whole, original.now("r"), strict=True):
        assert np.array_equal(kept, values[:, GONE:])


def test_values_to_come_are_worked_out_without_going_on() -> None:
    original, _ = beside()
    found = original.ahead(["s", "x"], [2, 1])
    assert found is not None
    assert [f["s"].shape for f in found] == [(16, WIDTH - GONE)] * 2
    assert np.array_equal(found[0]["x"], original.walk.values[2]["x"])
    assert original.walk.at == 0


def test_a_value_that_is_gone_is_not_there() -> None:
    original, _ = beside()
    original.walk.until(3)
    assert not original.has("h")
    assert original.ahead(["h", "s"], [0]) is None


def test_it_follows_as_far_as_nothing_of_a_window_is_lost() -> None:
    original, walk = beside()
    layers = linears(walk)
    original.follow(walk, Window(layers[1].place, len(walk.nodes), tuple(layers[1:])))
    assert original.walk.at == 2
    assert original.ahead(["k", "y"], [0]) is not None
