"""Bars along a network's depth: what was there, and in front of it what stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as Tree

from onnxprune.reports.chart import Plot, child, linear, picture, words

WIDTH, HEIGHT = 880, 260
WIDEST, GAP = 34, 0.25  # of a bar; the gap is a part of its step
TICKS = 4


@dataclass(frozen=True)
class Bar:
    """One place along the depth: its name, and a number before and after."""

    name: str
    before: float
    after: float


@dataclass(frozen=True)
class WidthProfile:
    """What bars are called: the picture's name, its title, the word and the printing of a number."""

    name: str
    title: str
    unit: str
    printed: Callable[[float], str]


def width_profile(bars: Sequence[Bar], kind: WidthProfile) -> Tree.Element:
    """Draw bars from the input on the left to the output on the right."""
    before, after = (sum(getattr(b, side) for b in bars) for side in ("before", "after"))
    about = (
        f"{len(bars)} bars from input to output: {kind.unit} before and after, "
        f"{kind.printed(before)} and {kind.printed(after)} in all."
    )
    plot = Plot(picture(kind.name, (WIDTH, HEIGHT), kind.title, about), 60, 14, WIDTH - 4, HEIGHT - 30)
    scale = linear(0.0, max((b.before for b in bars), default=1) or 1, TICKS, kind.printed)
    plot.up(scale)
    step = (plot.right - plot.left) / max(len(bars), 1)
    width = min(step * (1 - GAP), WIDEST)
    for number, bar in enumerate(bars):
        place = child(plot.svg, "g", "place")
        told = f"{bar.name}: {kind.printed(bar.before)} → {kind.printed(bar.after)} {kind.unit}"
        child(place, "title", text=told)
        x = plot.left + step * number + (step - width) / 2
        for side, value in (("whole", bar.before), ("kept", bar.after)):
            y = plot.y(scale, value)
            child(place, "rect", side, {"x": x, "y": y, "width": width, "height": plot.bottom - y})
    words(plot.svg, (plot.left, HEIGHT - 8), "input", "soft")
    words(plot.svg, (plot.right, HEIGHT - 8), "output", "soft right")
    return plot.svg
