"""How a quantity spreads over the models of a run: a row of dots for each, with its median."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from xml.etree import ElementTree as Tree

from onnxprune.reports.chart import Plot, dot, line, linear, picture, words

WIDTH, ROW, TOP, FOOT = 1120, 64, 8, 30
LEFT, RIGHT = 100, 120  # margins; the median is written at the right
STEP, RADIUS = 7, 3.2  # of dots
CROWD = 7  # dots one above the other, at most


@dataclass(frozen=True)
class Distribution:
    """A quantity: its name, and the share that each model kept, with the model's name."""

    name: str
    shares: Sequence[tuple[float, str]]

    @property
    def median(self) -> float:
        """Return the median of the shares."""
        return median(share for share, _ in self.shares)


def distribution_chart(rows: Sequence[Distribution]) -> Tree.Element:
    """Draw what share of the original each model kept; 100 % is as before."""
    medians = ", ".join(f"{row.name} {100 * row.median:.0f} %" for row in rows if row.shares)
    about = f"What every model kept of the original, a dot a model. Medians: {medians}."
    height = TOP + ROW * len(rows) + FOOT
    svg = picture("strips", (WIDTH, height), "What the models kept of the original", about)
    plot = Plot(svg, LEFT, TOP, WIDTH - RIGHT, height - FOOT)
    top = max([1.0, *(s for row in rows for s, _ in row.shares)])
    scale = linear(0.0, min(top, 2.0), 4, lambda v: f"{100 * v:.0f} %", even=1.0)
    plot.across(scale)
    for number, row in enumerate(rows):
        y = TOP + ROW * number + ROW / 2
        words(svg, (0, y + 4), row.name)
        if not row.shares:
            words(svg, (WIDTH, y + 4), "not measured", "soft right")
            continue
        crowd: Counter[int] = Counter()
        for share, name in sorted(row.shares):
            place = round((plot.x(scale, share) - LEFT) / STEP)
            crowd[place] += 1
            nth = min(crowd[place], CROWD)
            off = STEP * (nth // 2) * (1 if nth % 2 else -1)
            dot(svg, "dot", (LEFT + place * STEP, y + off), RADIUS, f"{name}: {row.name} {100 * share:.1f} %")
        x = plot.x(scale, row.median)
        line(svg, "median", (x, y - 20), (x, y + 20))
        words(svg, (WIDTH, y + 4), f"median {100 * row.median:.0f} %", "right")
    return svg
