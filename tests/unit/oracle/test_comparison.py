"""Two tensors are compared part by part, with what the whole of them would give."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.oracle.prove import PART, compare


@pytest.mark.parametrize("size", [1, PART - 1, PART, 2 * PART + 3])
def test_parts_give_what_the_whole_does(size: int) -> None:
    rng = np.random.default_rng(0)
    masked = (rng.standard_normal(size) + np.linspace(0, 50, size)).astype(np.float32)
    pruned = masked + (1e-3 * rng.standard_normal(size)).astype(np.float32)
    found = compare("t", "case", pruned, masked)
    wide = masked.astype(np.float64)
    assert found.max_abs_error == np.abs(pruned - wide).max()
    assert found.tolerance == pytest.approx(1e-5 * np.abs(wide).max() + 1e-6, rel=1e-12)
    assert found.signal == pytest.approx(wide.std() if size > 1 else abs(wide[0]), rel=1e-9)


@pytest.mark.parametrize("place", [0, PART, 2 * PART + 2])
def test_a_nan_in_any_part_fails(place: int) -> None:
    masked = np.ones(2 * PART + 3, np.float32)
    pruned = masked.copy()
    pruned[place] = np.nan
    assert not compare("t", "case", pruned, masked).ratio <= 1
    assert compare("t", "case", masked, masked).ratio == 0


def test_nothing_differs_from_nothing() -> None:
    nothing = np.zeros((0, 3), np.float32)
    assert compare("t", "case", nothing, nothing).max_abs_error == 0
