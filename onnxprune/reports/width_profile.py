"""Bars along a network's depth: what was there, and in front of it what stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as Tree

from onnxprune.reports.scales import nice_ticks
from onnxprune.reports.svg import child, picture, words

WIDTH, HEIGHT = 880, 260
LEFT, RIGHT, TOP, FOOT = 60, 4, 14, 30  # margins
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
    svg = picture(kind.name, (WIDTH, HEIGHT), kind.title, about)
    top = max((b.before for b in bars), default=1) or 1
    ticks = nice_ticks(top, TICKS)
    scale = (HEIGHT - TOP - FOOT) / max(ticks[-1], top)
    base = HEIGHT - FOOT
    for tick in ticks:
        y = base - tick * scale
        ends = {"x1": str(LEFT), "x2": str(WIDTH - RIGHT), "y1": f"{y:.1f}", "y2": f"{y:.1f}"}
        child(svg, "line", {"class": "rule", **ends})
        words(svg, (LEFT - 8, round(y + 4, 1)), kind.printed(tick), "soft right")
    step = (WIDTH - LEFT - RIGHT) / max(len(bars), 1)
    width = min(step * (1 - GAP), WIDEST)
    for number, bar in enumerate(bars):
        x = LEFT + step * number + (step - width) / 2
        row = child(svg, "g", {"class": "place"})
        child(
            row,
            "title",
            {},
            f"{bar.name}: {kind.printed(bar.before)} → {kind.printed(bar.after)} {kind.unit}",
        )
        for side, value in (("whole", bar.before), ("kept", bar.after)):
            size = {"x": f"{x:.2f}", "width": f"{width:.2f}", "y": f"{base - value * scale:.2f}"}
            child(row, "rect", {"class": side, "height": f"{value * scale:.2f}", **size})
    words(svg, (LEFT, HEIGHT - 8), "input", "soft")
    words(svg, (WIDTH - RIGHT, HEIGHT - 8), "output", "soft right")
    return svg
