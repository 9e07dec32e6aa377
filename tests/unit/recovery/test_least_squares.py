"""Least squares between channels, carried over into the pruned model."""

from __future__ import annotations

import numpy as np

from onnxprune.evaluation.drift import drift
from onnxprune.recovery.context import values_of, with_values
from onnxprune.recovery.least_squares import folded
from tests.unit.recovery.examples import WIDTH, dense, example

GONE = 5


def test_channels_that_others_tell_are_folded_away_without_loss() -> None:
    """The first channels of both layers are twice the last ones: what they carried is expressed exactly."""
    values = values_of(dense())
    for name in "wbvc":
        values[name] = values[name].copy()
        values[name][..., :GONE] = 2 * values[name][..., WIDTH - GONE :]
    given = example(GONE, with_values(dense(), values))
    held = given.evidence.data.judge
    assert drift(given.analysis.model, given.pruned, held) > 0.2
    assert drift(given.analysis.model, folded(given.context(), given.pruned), held) < 0.05  # damping


def test_what_goes_is_expressed_by_what_stays() -> None:
    given = example(GONE)
    found = folded(given.context(), given.pruned)
    held = given.evidence.data.judge
    before, after = (drift(given.analysis.model, m, held) for m in (given.pruned, found))
    assert after < 0.85 * before
    shapes = {name: values.shape for name, values in values_of(given.pruned).items()}
    assert {name: values.shape for name, values in values_of(found).items()} == shapes
    for name in "wb":  # nothing goes from what the first layer reads
        assert np.array_equal(values_of(found)[name], values_of(given.pruned)[name])
