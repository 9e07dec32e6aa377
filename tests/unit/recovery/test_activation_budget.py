"""How many batches a repair holds: what one takes, and how they are thinned."""

from __future__ import annotations

from onnxprune.recovery.context import ActivationBudget, activation_budget
from tests.unit.recovery.examples import calibration, dense


def test_the_largest_batch_is_measured() -> None:
    small, large = calibration(3, 4), calibration(1, 16)
    room = activation_budget(dense(), [*small.batches, *large.batches], 0)
    assert room.each == activation_budget(dense(), large.batches, 0).each
    assert room.each == 4 * activation_budget(dense(), small.batches, 0).each


def test_a_budget_counts_batches() -> None:
    room = ActivationBudget(each=10, limit=35)
    assert [room.holds(n) for n in (3, 4)] == [True, False]
    assert len(room.thinned(calibration(10)).batches) == 3
    whole = calibration(3)
    assert room.thinned(whole) is whole


def test_two_batches_are_taken_whatever_they_take() -> None:
    thinned = ActivationBudget(each=10, limit=0).thinned(calibration(10))
    assert len(thinned.fit) == len(thinned.held_out) == 1
