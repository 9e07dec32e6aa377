"""Speed-up against drift, a dot for a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as Tree

from onnxprune.reports.chart import Plot, child, dot, fitted, linear, logarithmic, picture, words

WIDTH, HEIGHT = 1120, 440
AREA = LEFT, TOP, RIGHT, BOTTOM = 52, 20, WIDTH - 24, HEIGHT - 46  # of the plot
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
    plot = Plot(picture("scatter", (WIDTH, HEIGHT), "Speed-up against drift", about), *AREA)
    svg = plot.svg
    across = logarithmic([d.drift for d in dots])
    speeds = [1.0, *(d.speedup for d in dots if math.isfinite(d.speedup))]
    up = linear(max(min(speeds) - ROOM, 0.0), max(speeds) + ROOM, 5, lambda v: f"{v:g}×", even=1.0)
    plot.up(up)
    plot.across(across, ruled=False)
    words(svg, (plot.right, HEIGHT - 6), "drift of the outputs →", "soft right")
    words(svg, (plot.left + 6, plot.top + 12), "↑ times as fast", "soft")
    places = [(plot.x(across, d.drift), plot.y(up, d.speedup)) for d in dots]
    for one, at in zip(dots, places, strict=True):
        link = child(svg, "a", at={"href": f"#{one.link}"})
        child(link, "title", text=one.told)
        dot(link, f"dot {one.tone}", at, RADIUS)
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
        name, (x, y) = fitted(dots[i].name, LONGEST), places[i]
        long = len(name) * LETTER
        for at, kind, part in (
            ((x + 10, y + 4), "", 0), ((x - 10, y + 4), "right", 1),
            ((x, y - 11), "middle", 0.5), ((x, y + 20), "middle", 0.5),
        ):  # fmt: skip
            start = at[0] - part * long
            box = (start, at[1] - LINE + 3, start + long, at[1] + 4)
            inside = box[0] >= LEFT and box[2] <= WIDTH and box[1] >= 0 and box[3] <= BOTTOM
            if inside and not any(_meet(box, other) for other in taken) and len(result) < NAMED:
                taken.append(box)
                result.append((name, at, kind))
                break
    return result


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
