"""The command `sensitivity`: its options and its tables."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import onnxprune
from onnxprune.cli.options import PATH, chosen, common, force, from_settings
from onnxprune.cli.screen import Column, Screen, Table
from onnxprune.cli.supervise import supervised
from onnxprune.cli.tables import FACTS, TOP, calibration_facts
from onnxprune.reports.wording import number
from onnxprune.settings import SensitivitySettings
from onnxprune.settings.option import Group

if TYPE_CHECKING:
    from onnxprune.reports.data import GroupSensitivity, Point, SensitivityReport

BLOCKS = "▁▂▃▄▅▆▇█"
NOT_MEASURED = "-"
BEFORE_FILES = (Group.CALIBRATION, Group.CRITERION, Group.WIDTHS, Group.MEMORY, Group.SEED)
AFTER_FILES = (Group.INLINE, Group.INPUTS)


@click.command()
@click.argument("model", type=PATH)
@from_settings(SensitivitySettings, *BEFORE_FILES)
@click.option("--picture", type=PATH, metavar="FILE.svg", help="Draw the result, too: SVG.")
@force
@from_settings(SensitivitySettings, *AFTER_FILES)
@common
@supervised
def sensitivity(screen: Screen, model: Path, **options: Any) -> int:
    """Measure how far outputs drift when shares of one group go.

    Every group is cut by itself, with all that belongs to its channels, and nothing is repaired. Where the
    .npz of --calib holds an array `labels`, top-1 is measured, too.

    \b
    Example:
      onnxprune sensitivity model.onnx --calib inputs.npz --picture sensitivity.svg
    """
    settings = SensitivitySettings(**chosen(SensitivitySettings, options, *BEFORE_FILES, *AFTER_FILES))
    with screen.working(f"measuring {model}") as progress:
        report = onnxprune.sensitivity(model, settings, options["picture"], options["force"], progress)
    screen.say([f"warning: {text}" for text in report.warnings])
    places = {} if options["picture"] is None else {"written": str(options["picture"])}
    screen.result(report, shown(report, places, screen))
    return 0


def shown(report: SensitivityReport, places: Mapping[str, str], screen: Screen) -> list[Table]:
    """Show the drift of every group, and top-1 with labels, against the share removed.

    With -v the members are all named.
    """
    drifts = [Column(f"{100 * s:g} %", right=True) for s in report.settings.shares]
    bars = [Column()] if screen.drawing else []
    columns = (
        Column("id"), Column("group", fold=True), Column("made by", fold=True),
        Column("channels", right=True), Column("MACs", right=True), *drifts, *bars,
    )  # fmt: skip
    highest = max((p.drift for g in report.groups for p in g.points if isfinite(p.drift)), default=0.0)
    rows = []
    for group in report.groups:
        cells = [_point_cell(p) for p in group.points]
        cells += [NOT_MEASURED] * (len(drifts) - len(cells))
        blocks = "".join(_block(p.drift, highest) for p in group.points)
        first = (group.id, group.name, _members(group, screen.detailed), str(group.channels))
        rows.append((*first, f"{100 * group.macs_share:.1f} %", *cells, *([blocks] if bars else [])))
    title = "drift of the outputs, by share of channels removed"
    return [Table(columns, rows, title), Table(FACTS, _facts(report, places))]


def _facts(report: SensitivityReport, places: Mapping[str, str]) -> list[tuple[str, str]]:
    samples, ranking = number(report.samples, "sample"), report.settings.criterion
    facts = calibration_facts(report.settings.calibration)
    facts += [("measured", f"on {samples}, channels ranked by {ranking}, no repair")]
    if report.top1 is not None:
        facts.append(("top-1", f"{100 * report.top1:.1f} % unpruned; in the table behind each drift"))
    missing = [("not measured", f"{g.id}: {g.reason}") for g in report.groups if g.reason]
    return [*facts, *_linked_facts(report), *missing, *places.items()]


def _members(group: GroupSensitivity, every: bool) -> str:
    chosen = group.members if every else group.members[:1]
    more = len(group.members) - len(chosen)
    return ", ".join(chosen) + (f" and {more} more" if more else "")


def _linked_facts(report: SensitivityReport) -> list[tuple[str, str]]:
    linked = [f"{g.id} takes channels of {', '.join(g.linked)}" for g in report.groups if g.linked]
    more = f" and {len(linked) - TOP} more" if len(linked) > TOP else ""
    return [("linked", "; ".join(linked[:TOP]) + more)] if linked else []


def _point_cell(point: Point) -> str:
    if not point.removed:
        return "whole"
    right = "" if point.top1 is None else f" {100 * point.top1:.0f} %"
    return f"{point.drift:.3f}{right}" if point.drift < 10 else f"{point.drift:.3g}{right}"


def _block(value: float, highest: float) -> str:
    """Draw a number as a block an eighth to a whole line high."""
    part = value / highest if highest and isfinite(value) else float(value > 0)
    return BLOCKS[min(int(part * len(BLOCKS)), len(BLOCKS) - 1)]
