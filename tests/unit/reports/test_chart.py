"""Scales of pictures."""

from __future__ import annotations

import pytest

from onnxprune.reports.chart import Plot, fitted, linear, logarithmic, nice_ticks, picture, standalone


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


def test_a_file_of_a_picture_knows_both_grounds_and_needs_no_variables() -> None:
    text = standalone(picture("p", (10, 10), "title", "about")).decode()
    assert "var(" not in text
    day, night = text.split("prefers-color-scheme: dark")
    assert "svg .ground { fill: #ffffff; }" in day
    assert "svg .ground { fill: #16181b; }" in night
    assert text.index("<title") < text.index("<desc") < text.index("<style")


def test_axes_have_rules_with_texts_and_the_even_one_stands_out() -> None:
    plot = Plot(picture("p", (120, 120), "title", "about"), 10, 10, 110, 110)
    scale = linear(0.0, 2.0, 4, lambda v: f"{v:g}", even=1.0)
    plot.up(scale)
    plot.across(scale, ruled=False)
    rules = [(r.attrib["class"], r.attrib["y1"]) for r in plot.svg.iter("line")]
    assert rules == [("rule", "110"), ("rule", "85"), ("rule even", "60"), ("rule", "35"), ("rule", "10")]
    texts = [t.text for t in plot.svg.iter("text")]
    assert texts == ["0", "0.5", "1", "1.5", "2"] * 2
    assert (plot.x(scale, 0.5), plot.y(scale, 0.5)) == (35, 85)


def test_long_names_keep_both_ends() -> None:
    assert fitted("a" * 10, 10) == "a" * 10
    assert fitted("start" + "x" * 50 + "end", 20) == "startxxxx…xxxxxxend"
