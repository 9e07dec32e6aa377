"""The picture of a sensitivity report: a row for each group, a dot for each share removed.

The more goes, the larger the dot, and the more contrast it has.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from xml.etree import ElementTree as Tree

from onnxprune.quantities import count
from onnxprune.reports.chart import (
    Plot,
    Scale,
    child,
    dot,
    fitted,
    line,
    linear,
    logarithmic,
    picture,
    standalone,
    words,
)  # fmt: skip
from onnxprune.reports.data import GroupSensitivity, Point, SensitivityReport

NAME = "sensitivity"
ROW, TOP, FOOT, EDGE = 22, 112, 44, 16  # heights, and the margin at the sides
NAMES, NUMBERS, PANEL, GAP = 300, 140, 440, 36  # widths of the columns
LETTERS = 40  # of a name


def drawn(report: SensitivityReport) -> bytes:
    """Return a report as an SVG file; every row holds its numbers as a title, which browsers tell."""
    return standalone(sketched(report))


def sketched(report: SensitivityReport) -> Tree.Element:
    """Draw a report, for a file or for a page."""
    panels, shares = _panels(report), report.settings.shares
    width = 2 * EDGE + NAMES + NUMBERS + len(panels) * (PANEL + GAP)
    height = TOP + ROW * len(report.groups) + FOOT
    svg = picture(NAME, (width, height), "Sensitivity of groups of channels", _about(report))
    child(svg, "style", text=_ramp(len(shares)))
    child(svg, "rect", "ground", {"width": width, "height": height})
    _header(svg, report)
    plots = []
    for number, (caption, scale, _) in enumerate(panels):
        left = EDGE + NAMES + NUMBERS + GAP / 2 + number * (PANEL + GAP)
        plots.append(Plot(svg, left, TOP - 4, left + PANEL, height - FOOT + 4))
        words(svg, (left, TOP - 12), caption, "soft")
        plots[-1].across(scale)
    for number, group in enumerate(report.groups):
        row, middle = child(svg, "g", at={"role": "listitem"}), TOP + ROW * (number + 0.5)
        child(row, "title", text=_told(group))
        if number % 2 == 0:
            stripe = {"x": EDGE - 8, "y": middle - ROW / 2, "height": ROW, "width": width - 2 * EDGE + 8}
            child(row, "rect", "stripe", stripe)
        words(row, (EDGE, middle + 4), fitted((*group.members, group.name, group.id)[0], LETTERS))
        words(row, (EDGE + NAMES + 56, middle + 4), str(group.channels), "right")
        words(row, (EDGE + NAMES + NUMBERS, middle + 4), f"{100 * group.macs_share:.1f} %", "right")
        for plot, (_, scale, value) in zip(plots, panels, strict=True):
            places = [(plot.x(scale, value(p)), middle) for p in group.points]
            if places:
                line(row, "span", min(places), max(places))
            else:
                words(row, (plot.left, middle + 4), "not measured", "soft")
            for i, at in enumerate(places):
                _dot(row, at, (i, len(shares)))
    return svg


def _panels(report: SensitivityReport) -> list[tuple[str, Scale, Callable[[Point], float]]]:
    """Return what stands beside the names: a caption, its scale, and what is read of a point."""
    drift = logarithmic([p.drift for g in report.groups for p in g.points])
    result: list[tuple[str, Scale, Callable[[Point], float]]]
    result = [("drift of the outputs (logarithmic)", drift, lambda p: p.drift)]
    if report.top1 is not None:
        share = linear(0.0, 1.0, 4, lambda v: f"{100 * v:.0f} %")
        result.append((f"top-1, unpruned {100 * report.top1:.1f} %", share, lambda p: p.top1 or 0.0))
    return result


def _about(report: SensitivityReport) -> str:
    shares = ", ".join(f"{100 * s:g} %" for s in report.settings.shares)
    return (
        f"Drift of the outputs on {report.samples} samples when {shares} of the channels of one group are "
        f"removed, ranked by {report.settings.criterion}, without repair."
    )


def _ramp(shares: int) -> str:
    """Colour the shares from weak to strong contrast, on either ground."""
    parts = [i / max(shares - 1, 1) for i in range(shares)]
    day, night = (
        " ".join(f".{NAME} .s{i} {{ fill: {_hex(low + gain * part)} }}" for i, part in enumerate(parts))
        for low, gain in ((0.60, -0.36), (0.48, 0.38))
    )
    return f"{day} @media (prefers-color-scheme: dark) {{ {night} }}"


def _hex(lightness: float) -> str:
    return "#" + "".join(f"{round(255 * c):02x}" for c in colorsys.hls_to_rgb(0.58, lightness, 0.75))


def _header(svg: Tree.Element, report: SensitivityReport) -> None:
    shares = report.settings.shares
    for x, y, text, kind in (
        (0, 28, "Sensitivity", "title"), (0, 48, _about(report), "soft"), (0, 72, "removed:", "soft"),
        (0, TOP - 12, "made by", "soft"), (NAMES + 56, TOP - 12, "channels", "soft right"),
        (NAMES + NUMBERS, TOP - 12, "MACs", "soft right"),
    ):  # fmt: skip
        words(svg, (EDGE + x, y), text, kind)
    for i, share in enumerate(shares):
        _dot(svg, (EDGE + 70 + 70 * i, 68), (i, len(shares)))
        words(svg, (EDGE + 82 + 70 * i, 72), f"{100 * share:g} %")


def _dot(parent: Tree.Element, at: tuple[float, float], which: tuple[int, int]) -> None:
    dot(parent, f"dot s{which[0]}", at, 3 + 3 * which[0] / max(which[1] - 1, 1))


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
    return "; ".join(parts)
