"""Speed-up against drift, a dot for a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as Tree

from onnxprune.errors import shortened
from onnxprune.reports.scales import linear, logarithmic
from onnxprune.reports.svg import child, picture, words

WIDTH, HEIGHT = 1120, 440
LEFT, RIGHT, TOP, FOOT = 52, 24, 20, 46  # margins
RADIUS = 5
ROOM = 0.1  # of speed, above and below the dots
LETTER, LINE = 6.4, 15  # width and height of the room that text takes
NAMED = 16  # models, at most
LONGEST = 28  # subscripts of a name


@dataclass(frozen=True)
class Dot:
    """One model; tone: of its outcome; told: what is said where one points at it; link: the id of its row."""

    name: str
    drift: float
    speedup: float
    tone: str
    told: str
    link: str


def scatter(dots: Sequence[Dot]) -> Tree.Element:
    """Draw drift to the right (logarithmic) and speed-up upwards; upper left is best."""
    about = (
        f"{len(dots)} models by the drift of their outputs, to the right and logarithmic, and by how many "
        "times as fast they are, upwards. The best lie at the upper left. The leaderboard holds the numbers."
    )
    svg = picture("scatter", (WIDTH, HEIGHT), "Speed-up against drift", about)
    across = logarithmic([d.drift for d in dots])
    speeds = [1.0, *(d.speedup for d in dots if math.isfinite(d.speedup))]
    up = linear(max(min(speeds) - ROOM, 0.0), max(speeds) + ROOM, 5, lambda v: f"{v:g}×")
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - FOOT
    base = HEIGHT - FOOT
    for value, text in up.ticks:
        y = base - height * up.place(value)
        kind = "rule even" if value == 1 else "rule"
        child(
            svg,
            "line",
            {"class": kind, "x1": str(LEFT), "x2": str(WIDTH - RIGHT), "y1": f"{y:.1f}", "y2": f"{y:.1f}"},
        )
        words(svg, (LEFT - 10, round(y + 4, 1)), text, "soft right")
    for value, text in across.ticks:
        words(svg, (round(LEFT + width * across.place(value), 1), base + 20), text, "soft middle")
    words(svg, (WIDTH - RIGHT, HEIGHT - 6), "drift of the outputs →", "soft right")
    words(svg, (LEFT + 6, TOP + 12), "↑ times as fast", "soft")
    places = [(LEFT + width * across.place(d.drift), base - height * up.place(d.speedup)) for d in dots]
    for dot, (x, y) in zip(dots, places, strict=True):
        link = child(svg, "a", {"href": f"#{dot.link}"})
        child(link, "title", {}, dot.told)
        child(
            link, "circle", {"class": f"dot {dot.tone}", "cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": str(RADIUS)}
        )
    for name, at, kind in _labels(dots, places):
        words(svg, at, name, kind)
    return svg


Box = tuple[float, float, float, float]


def _labels(
    dots: Sequence[Dot], places: Sequence[tuple[float, float]]
) -> list[tuple[str, tuple[float, float], str]]:
    """Choose names and places for them that cover neither dots nor each other, the fastest models first."""
    taken: list[Box] = [(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for x, y in places]
    taken.append((LEFT, TOP, LEFT + 110, TOP + 18))  # what the axis is called
    result: list[tuple[str, tuple[float, float], str]] = []
    for i in sorted(range(len(dots)), key=lambda i: -dots[i].speedup):
        name = shortened(dots[i].name, LONGEST)
        long = len(name) * LETTER
        x, y = places[i]
        right, left = (x + 10, y + 4), (x - 10, y + 4)
        above, below = (x, y - 11), (x, y + 20)
        for at, kind, start in (
            (right, "", right[0]), (left, "right", left[0] - long),
            (above, "middle", above[0] - long / 2), (below, "middle", below[0] - long / 2),
        ):  # fmt: skip
            box = (start, at[1] - LINE + 3, start + long, at[1] + 4)
            inside = box[0] >= LEFT and box[2] <= WIDTH and box[1] >= 0 and box[3] <= HEIGHT - FOOT
            if inside and not any(_meet(box, other) for other in taken) and len(result) < NAMED:
                taken.append(box)
                result.append((name, (round(at[0], 1), round(at[1], 1)), kind))
                break
    return result


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
