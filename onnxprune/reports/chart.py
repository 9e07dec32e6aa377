"""What all pictures share: elements of SVG, scales, and axes. The serialiser escapes what names hold."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
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
