"""The picture of a sensitivity report: one SVG, for light and dark ground, with nothing from outside.

A row for each group; a dot for each share removed, larger and of more contrast the more goes.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as Tree

from onnxprune.errors import printable
from onnxprune.quantities import count
from onnxprune.reports.data import GroupSensitivity, Point, SensitivityReport
from onnxprune.reports.svg import child, picture, words

ROW, TOP, FOOT, EDGE = 22, 112, 44, 16  # heights, and the margin at the sides
NAMES, NUMBERS, PANEL, GAP = 300, 140, 440, 36  # widths of the columns
LETTERS = 40  # of a name
DECADES = 4  # of drift that are shown, at most
NAME = "sensitivity"  # of the picture's class, so that its style stays its own inside a page
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1a1d21 }
.soft { fill: #545b64 } .title { font-size: 16px; font-weight: 600 } .right { text-anchor: end }
.middle { text-anchor: middle } .ground { fill: #ffffff } .stripe { fill: #f3f5f7 }
.grid { stroke: #d5d9de } .span { stroke: #9aa3ad; stroke-width: 2 } .bar { fill: #9aa3ad }
.dot { stroke: #ffffff }
"""
DARK = """
text { fill: #e8eaed } .soft { fill: #a9b1ba } .ground { fill: #16181b } .stripe { fill: #1e2125 }
.grid { stroke: #3a4047 } .span { stroke: #6b747e } .bar { fill: #6b747e } .dot { stroke: #16181b }
"""


@dataclass(frozen=True)
class _Panel:
    """One scale: its caption, where a value lies from 0 to 1, its ticks, and what is read of a point."""

    caption: str
    place: Callable[[float], float]
    ticks: Sequence[tuple[float, str]]
    value: Callable[[Point], float]


def drawn(report: SensitivityReport) -> bytes:
    """Return a report as an SVG file; every row holds its numbers as a title, which browsers tell."""
    svg = sketched(report)
    Tree.indent(svg)
    return Tree.tostring(svg, encoding="utf-8", xml_declaration=True) + b"\n"


def sketched(report: SensitivityReport) -> Tree.Element:
    """Draw a report, for a file or for a page."""
    panels = _panels(report)
    width = 2 * EDGE + NAMES + NUMBERS + len(panels) * (PANEL + GAP)
    height = TOP + ROW * len(report.groups) + FOOT
    svg = picture(NAME, (width, height), "Sensitivity of groups of channels", _about(report))
    child(svg, "style", {}, _style(len(report.settings.shares)))
    child(svg, "rect", {"class": "ground", "width": str(width), "height": str(height)})
    _header(svg, report)
    for number, panel in enumerate(panels):
        _axis(svg, panel, _left(number), height)
    for number, group in enumerate(report.groups):
        _row(svg, group, panels, (number, len(report.settings.shares)))
    return svg


def _left(number: int) -> float:
    return EDGE + NAMES + NUMBERS + GAP / 2 + number * (PANEL + GAP)


def _about(report: SensitivityReport) -> str:
    shares = ", ".join(f"{100 * s:g} %" for s in report.settings.shares)
    return (
        f"Drift of the outputs on {report.samples} samples when {shares} of the channels of one group are "
        f"removed, ranked by {report.settings.criterion}, without repair."
    )


def _style(shares: int) -> str:
    """Colour the shares from weak to strong contrast, on either ground."""
    light, dark = [], []
    for i in range(shares):
        part = i / max(shares - 1, 1)
        light.append(f".s{i} {{ fill: {_hex(0.60 - 0.36 * part)} }}")
        dark.append(f".s{i} {{ fill: {_hex(0.48 + 0.38 * part)} }}")
    day, night = _scoped(STYLE + " ".join(light)), _scoped(DARK + " ".join(dark))
    return f"{day} @media (prefers-color-scheme: dark) {{ {night} }}"


def _scoped(rules: str) -> str:
    """Bind rules to this picture: a style inside a page holds for all of it."""
    return " ".join(f".{NAME} {rule.strip()} }}" for rule in rules.split("}") if rule.strip())


def _hex(lightness: float) -> str:
    return "#" + "".join(f"{round(255 * c):02x}" for c in colorsys.hls_to_rgb(0.58, lightness, 0.75))


def _panels(report: SensitivityReport) -> list[_Panel]:
    points = [p for g in report.groups for p in g.points]
    result = [_drift_panel([p.drift for p in points])]
    if report.top1 is not None:
        ticks = [(v / 4, f"{25 * v} %") for v in range(5)]
        caption = f"top-1, unpruned {100 * report.top1:.1f} %"
        result.append(_Panel(caption, lambda v: v, ticks, lambda p: p.top1 or 0.0))
    return result


def _drift_panel(values: Sequence[float]) -> _Panel:
    seen = [v for v in values if math.isfinite(v) and v > 0] or [1.0]
    high = math.ceil(math.log10(max(seen)) + 1e-9)
    low = max(math.floor(math.log10(min(seen))), high - DECADES)
    low = min(low, high - 1)

    def place(value: float) -> float:
        if value <= 0:
            return 0.0
        return min(max((math.log10(value) - low) / (high - low), 0.0), 1.0) if math.isfinite(value) else 1.0

    ticks = [(place(10.0**e), f"{10.0**e:g}") for e in range(low, high + 1)]
    return _Panel("drift of the outputs (logarithmic)", place, ticks, lambda p: p.drift)


def _header(svg: Tree.Element, report: SensitivityReport) -> None:
    words(svg, (EDGE, 28), "Sensitivity", "title")
    words(svg, (EDGE, 48), _about(report), "soft")
    words(svg, (EDGE, TOP - 12), "made by", "soft")
    words(svg, (EDGE + NAMES + 56, TOP - 12), "channels", "soft right")
    words(svg, (EDGE + NAMES + NUMBERS, TOP - 12), "MACs", "soft right")
    shares = report.settings.shares
    words(svg, (EDGE, 72), "removed:", "soft")
    for i, share in enumerate(shares):
        _dot(svg, EDGE + 70 + 70 * i, 68, (i, len(shares)))
        words(svg, (EDGE + 82 + 70 * i, 72), f"{100 * share:g} %")


def _dot(parent: Tree.Element, x: float, y: float, which: tuple[int, int]) -> None:
    radius = 3 + 3 * which[0] / max(which[1] - 1, 1)
    child(parent, "circle", {"class": f"dot s{which[0]}", "cx": f"{x:g}", "cy": f"{y:g}", "r": f"{radius:g}"})


def _axis(svg: Tree.Element, panel: _Panel, left: float, height: int) -> None:
    words(svg, (left, TOP - 12), panel.caption, "soft")
    for place, name in panel.ticks:
        x = f"{left + place * PANEL:g}"
        child(
            svg, "line", {"class": "grid", "x1": x, "x2": x, "y1": str(TOP - 4), "y2": str(height - FOOT + 4)}
        )
        words(svg, (left + place * PANEL, height - FOOT + 20), name, "soft middle")


def _row(
    svg: Tree.Element, group: GroupSensitivity, panels: Sequence[_Panel], which: tuple[int, int]
) -> None:
    """Draw a group; which: its number, and how many shares there are."""
    number, shares = which
    row = child(svg, "g", {"role": "listitem"})
    child(row, "title", {}, _told(group))
    y = TOP + ROW * number
    if number % 2 == 0:
        place = {"x": str(EDGE - 8), "y": str(y), "height": str(ROW), "fill-opacity": "0.6"}
        whole = NAMES + NUMBERS + len(panels) * (PANEL + GAP) + 8
        child(row, "rect", {"class": "stripe", "width": str(whole), **place})
    middle, base = y + ROW / 2, y + ROW / 2 + 4
    words(row, (EDGE, base), _short((*group.members, group.name, group.id)[0]))
    words(row, (EDGE + NAMES + 56, base), str(group.channels), "right")
    words(row, (EDGE + NAMES + NUMBERS, base), f"{100 * group.macs_share:.1f} %", "right")
    for index, panel in enumerate(panels):
        left = _left(index)
        if not group.points:
            words(row, (left, base), "not measured", "soft")
            continue
        places = [left + PANEL * panel.place(panel.value(p)) for p in group.points]
        ends = {
            "x1": f"{min(places):.1f}",
            "x2": f"{max(places):.1f}",
            "y1": f"{middle:g}",
            "y2": f"{middle:g}",
        }
        child(row, "line", {"class": "span", **ends})
        for i, x in enumerate(places):
            _dot(row, round(x, 1), middle, (i, shares))


def _short(name: str) -> str:
    text = printable(name)
    half = LETTERS // 2 - 1
    return text if len(text) <= LETTERS else f"{text[:half]}…{text[-half:]}"


def _told(group: GroupSensitivity) -> str:
    """Tell a row in words."""
    parts = [
        f"{group.name or group.id}: {group.channels} channels, {100 * group.macs_share:.1f} % of the MACs"
    ]
    for p in group.points:
        right = "" if p.top1 is None else f", top-1 {100 * p.top1:.1f} %"
        parts.append(f"{100 * p.share:g} % removed: drift {p.drift:.3g}{right}, {count(p.macs)} MACs kept")
    if group.reason:
        parts.append(f"not measured: {group.reason}")
    return printable("; ".join(parts))
