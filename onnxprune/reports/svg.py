"""Building SVG: text is escaped by the serialiser, and control characters are shown as such."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree as Tree

from onnxprune.errors import printable


def child(parent: Tree.Element, tag: str, attributes: Mapping[str, str], text: str = "") -> Tree.Element:
    """Add an element."""
    made = Tree.SubElement(parent, tag, dict(attributes))
    made.text = printable(text) or None
    return made


def words(parent: Tree.Element, at: tuple[float, float], text: str, kind: str = "") -> None:
    """Add text at x and y; kind: its classes."""
    place = {"x": f"{at[0]:g}", "y": f"{at[1]:g}"}
    child(parent, "text", {**place, **({"class": kind} if kind else {})}, text)


def picture(name: str, size: tuple[float, float], title: str, about: str) -> Tree.Element:
    """Begin an SVG that screen readers announce; name: its class, and what its ids begin with."""
    width, height = (f"{n:g}" for n in size)
    root = Tree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "class": name})
    root.attrib.update({"width": width, "height": height, "viewBox": f"0 0 {width} {height}"})
    root.set("aria-labelledby", f"{name}-title {name}-about")
    child(root, "title", {"id": f"{name}-title"}, title)
    child(root, "desc", {"id": f"{name}-about"}, about)
    return root
