"""Charts as SVG: elements, scales and axes, and those of widths, distributions and trade-offs."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from statistics import median
from types import MappingProxyType
from xml.etree import ElementTree as Tree

from onnxprune.errors import printable

DECADES = 5  # that a logarithmic axis spans, at most
NOWHERE: Mapping[str, float | str] = MappingProxyType({})


def picture(name: str, size: tuple[float, float], title: str, about: str) -> Tree.Element:
    """Begin an SVG that screen readers announce; name: its class, and what its ids begin with."""
    width, height = (f"{n:g}" for n in size)
    root = Tree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "class": name})
    root.attrib.update({"width": width, "height": height, "viewBox": f"0 0 {width} {height}"})
    root.set("aria-labelledby", f"{name}-title {name}-about")
    child(root, "title", "", {"id": f"{name}-title"}, title)
    child(root, "desc", "", {"id": f"{name}-about"}, about)
    return root


def child(
    parent: Tree.Element, tag: str, kind: str = "", at: Mapping[str, float | str] = NOWHERE, text: str = ""
) -> Tree.Element:
    """Add an element; kind: its classes. Control characters in its text are shown as such."""
    given = {key: value if isinstance(value, str) else f"{round(value, 2):g}" for key, value in at.items()}
    made = Tree.SubElement(parent, tag, {"class": kind, **given} if kind else given)
    made.text = printable(text) or None
    return made


def words(parent: Tree.Element, at: tuple[float, float], text: str, kind: str = "") -> None:
    """Add text at x and y; kind: its classes."""
    child(parent, "text", kind, {"x": at[0], "y": at[1]}, text)


def line(parent: Tree.Element, kind: str, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Add a line."""
    child(parent, "line", kind, {"x1": start[0], "y1": start[1], "x2": end[0], "y2": end[1]})


def dot(parent: Tree.Element, kind: str, at: tuple[float, float], radius: float, told: str = "") -> None:
    """Add a dot; told: what is said where one points at it."""
    made = child(parent, "circle", kind, {"cx": at[0], "cy": at[1], "r": radius})
    if told:
        child(made, "title", text=told)


def fitted(name: str, letters: int) -> str:
    """Cut the middle out of a long name."""
    text, half = printable(name), letters // 2 - 1
    return text if len(text) <= letters else f"{text[:half]}…{text[-half:]}"


def standalone(svg: Tree.Element) -> bytes:
    """Return a picture as a file that needs no page: with the style of pages, for light and dark ground.

    Colours are written out, since not every program that reads SVG knows variables.
    """
    light, dark = map(_on, re.findall(r":root \{(.*?)\}", template("style.css"), re.DOTALL)[:2])
    style = Tree.Element("style")
    style.text = f"{light}@media (prefers-color-scheme: dark) {{\n{dark}}}\n"
    svg.insert(2, style)  # behind title and description, in front of rules of its own
    Tree.indent(svg)
    return Tree.tostring(svg, encoding="utf-8", xml_declaration=True) + b"\n"


def _on(ground: str) -> str:
    """Write the colours of a ground into the rules of charts."""
    rules = template("chart.css")
    for name, colour in re.findall(r"--([\w-]+): (#\w+)", ground):
        rules = rules.replace(f"var(--{name})", colour)
    return rules


def template(name: str) -> str:
    """Return the text of a file of `templates/`."""
    return resources.files("onnxprune.reports").joinpath("templates", name).read_text("utf-8")


@dataclass(frozen=True)
class Scale:
    """place: from a number to 0 … 1; ticks: numbers with their text; even: the one that is as before."""

    place: Callable[[float], float]
    ticks: Sequence[tuple[float, str]]
    even: float | None = None


@dataclass(frozen=True)
class Plot:
    """The part of a picture that scales span, in its pixels."""

    svg: Tree.Element
    left: float
    top: float
    right: float
    bottom: float

    def x(self, scale: Scale, value: float) -> float:
        """Return where a number lies from left to right."""
        return self.left + (self.right - self.left) * scale.place(value)

    def y(self, scale: Scale, value: float) -> float:
        """Return where a number lies from the bottom up."""
        return self.bottom - (self.bottom - self.top) * scale.place(value)

    def across(self, scale: Scale, ruled: bool = True) -> None:
        """Draw the axis at the bottom, with a rule for each tick."""
        for value, text in scale.ticks:
            x = self.x(scale, value)
            if ruled:
                line(self.svg, _rule(scale, value), (x, self.top), (x, self.bottom))
            words(self.svg, (x, self.bottom + 20), text, "soft middle")

    def up(self, scale: Scale) -> None:
        """Draw the axis at the left, with a rule for each tick."""
        for value, text in scale.ticks:
            y = self.y(scale, value)
            line(self.svg, _rule(scale, value), (self.left, y), (self.right, y))
            words(self.svg, (self.left - 8, y + 4), text, "soft right")


def _rule(scale: Scale, value: float) -> str:
    return "rule even" if value == scale.even else "rule"


def linear(
    low: float, top: float, most: int, printed: Callable[[float], str], even: float | None = None
) -> Scale:
    """Return a scale from the low end to a round number at or above the top, with ticks at round numbers."""
    step = nice_ticks(top - low, most)[1]
    first, last = math.ceil(low / step - 1e-9), math.ceil(top / step - 1e-9)
    high = step * last
    ticks = [(step * i, printed(step * i)) for i in range(first, last + 1)]
    return Scale(lambda v: min(max((v - low) / (high - low), 0.0), 1.0), ticks, even)


def nice_ticks(top: float, most: int) -> list[float]:
    """Return round numbers from 0 to at least the top: steps of 1, 2, 2.5 or 5 times a power of ten."""
    rough = top / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * f for f in (1, 2, 2.5, 5, 10) if power * f >= rough * (1 - 1e-9))
    return [step * i for i in range(math.ceil(top / step - 1e-9) + 1)]


def logarithmic(values: Sequence[float]) -> Scale:
    """Return a scale of whole decades around the numbers above 0.

    Where these span too many it shows those decades that hold most of them; what is outside lies at the ends.
    """
    seen = [math.log10(v) for v in values if math.isfinite(v) and v > 0] or [0.0]
    first, last = math.floor(min(seen) + 1e-9), math.ceil(max(seen) - 1e-9)
    windows = range(first, max(last - DECADES, first) + 1)
    low = max(windows, key=lambda start: sum(start <= v <= start + DECADES for v in seen))
    high = max(min(last, low + DECADES), low + 1)

    def place(value: float) -> float:
        if value <= 0:
            return 0.0
        return min(max((math.log10(value) - low) / (high - low), 0.0), 1.0) if math.isfinite(value) else 1.0

    return Scale(place, [(10.0**e, f"{10.0**e:g}") for e in range(low, high + 1)])


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
