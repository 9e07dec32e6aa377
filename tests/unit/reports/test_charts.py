"""Scales of pictures."""

from __future__ import annotations

import pytest

from onnxprune.reports.scales import logarithmic, nice_ticks


@pytest.mark.parametrize("top", [1, 3, 7, 10, 64, 100, 128, 2048, 0.004, 1.23e12])
def test_ticks_are_few_round_and_cover_the_top(top: float) -> None:
    ticks = nice_ticks(top, 4)
    assert 3 <= len(ticks) <= 6
    assert ticks[0] == 0
    assert ticks[-2] < top <= ticks[-1] * (1 + 1e-9)


def test_a_wide_axis_shows_the_decades_that_hold_most() -> None:
    scale = logarithmic([0.02, 0.3, 0.5, 0.9, 1.5, 1e4, 3e7])
    assert scale.ticks[0][0] == pytest.approx(0.01)
    assert [scale.place(v) for v in (0.0, 1e4, 3e7)] == [0.0, 1.0, 1.0]
    assert 0 < scale.place(0.02) < scale.place(0.3) < scale.place(1.5) < 1
    narrow = logarithmic([0.2, 0.3])
    assert [tick for tick, _ in narrow.ticks] == pytest.approx([0.1, 1.0])
