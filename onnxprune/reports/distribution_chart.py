"""How a quantity spreads over the models of a run: a row of dots for each, with its median."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from xml.etree import ElementTree as Tree

from onnxprune.reports.scales import linear
from onnxprune.reports.svg import child, picture, words

WIDTH, ROW, TOP, FOOT = 1120, 64, 8, 30
LEFT, RIGHT = 100, 120  # margins; the median is written at the right
STEP, RADIUS = 7, 3.2  # of dots
CROWD = 7  # dots one above the other, at most


@dataclass(frozen=True)
class Distribution:
    """A quantity: its name, and the share that each model kept, with the model's name."""

    name: str
    shares: Sequence[tuple[float, str]]


def distribution_chart(rows: Sequence[Distribution]) -> Tree.Element:
    """Draw what share of the original each model kept; 100 % is as before."""
    middles = [f"{row.name} {100 * median([s for s, _ in row.shares]):.0f} %" for row in rows if row.shares]
    about = f"What every model kept of the original, a dot a model. Medians: {', '.join(middles)}."
    height = TOP + ROW * len(rows) + FOOT
    svg = picture("strips", (WIDTH, height), "What the models kept of the original", about)
    width = WIDTH - LEFT - RIGHT
    top = max([1.0, *(s for row in rows for s, _ in row.shares)])
    scale = linear(0.0, min(top, 2.0), 4, lambda v: f"{100 * v:.0f} %")
    for value, text in scale.ticks:
        x = f"{LEFT + width * scale.place(value):.1f}"
        kind = "rule even" if value == 1 else "rule"
        child(svg, "line", {"class": kind, "x1": x, "x2": x, "y1": str(TOP), "y2": str(height - FOOT)})
        words(svg, (float(x), height - 10), text, "soft middle")
    for number, row in enumerate(rows):
        y = TOP + ROW * number + ROW / 2
        words(svg, (0, y + 4), row.name)
        if not row.shares:
            words(svg, (WIDTH, y + 4), "not measured", "soft right")
            continue
        crowd: Counter[int] = Counter()
        for share, name in sorted(row.shares):
            place = round(width * scale.place(share) / STEP)
            crowd[place] += 1
            nth = min(crowd[place], CROWD)
            off = STEP * (nth // 2) * (1 if nth % 2 else -1)
            mark = child(
                svg,
                "circle",
                {"class": "dot", "cx": f"{LEFT + place * STEP:g}", "cy": f"{y + off:g}", "r": str(RADIUS)},
            )
            child(mark, "title", {}, f"{name}: {row.name} {100 * share:.1f} %")
        middle = median([s for s, _ in row.shares])
        x = f"{LEFT + width * scale.place(middle):.1f}"
        child(svg, "line", {"class": "median", "x1": x, "x2": x, "y1": f"{y - 20:g}", "y2": f"{y + 20:g}"})
        words(svg, (WIDTH, y + 4), f"median {100 * middle:.0f} %", "right")
    return svg
