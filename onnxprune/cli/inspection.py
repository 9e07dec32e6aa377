"""What `inspect` prints, as tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from onnxprune.cli.screen import Column, Table
from onnxprune.cli.tables import FACTS, dims, folded_facts, inlined_facts
from onnxprune.quantities import count, share, size
from onnxprune.reports.wording import number, pins_by_reason

if TYPE_CHECKING:
    from onnxprune.reports.data import InspectReport, PinReport


def inspect_tables(report: InspectReport, name: str, detailed: bool) -> list[Table]:
    """Show groups, what is frozen, and operators without a rule."""
    q = report.quantities
    facts = [
        ("model", f"{name}, {number(report.nodes, 'node')}, opset {report.opset}"),
        *(("input", f"{i} {dims(shape)}") for i, shape in report.inputs.items()),
        ("holds", f"{count(q.params)} parameters, {count(q.macs)} MACs, {size(q.bytes)}"),
        *inlined_facts(report.inlined),
        *folded_facts(report.folded),
        ("groups", number(len(report.groups), "group") + _group_hint(report)),
    ]
    tables = [Table(FACTS, facts)]
    if report.groups:
        tables.append(_inspect_groups(report))
    if report.groups and detailed:
        tables.append(_members_table(report))
    if report.pinned:
        tables.append(_pins_table(report.pinned) if detailed else _frozen_table(report))
    rules = ", ".join(report.without_rule) or "none"
    return [*tables, Table(FACTS, [("operators without a rule", rules)])]


def _group_hint(report: InspectReport) -> str:
    if not report.groups:
        return ": nothing can be pruned"
    return "; their shares overlap, as a weight's rows and columns may belong to two"


def _inspect_groups(report: InspectReport) -> Table:
    columns = (
        Column("id"), Column("group", fold=True), Column("size", right=True), Column("kind"),
        Column("params", right=True), Column("MACs", right=True), Column("members", right=True),
    )  # fmt: skip
    rows = [
        (
            g.id, g.name, str(g.channels), g.kind, f"{100 * g.params_share:.1f} %",
            f"{100 * g.macs_share:.1f} %", str(len(g.members)),
        )
        for g in report.groups
    ]  # fmt: skip
    return Table(columns, rows)


def _members_table(report: InspectReport) -> Table:
    columns = (
        Column("id"), Column("role"), Column("operator"), Column("node", fold=True),
        Column("tensor", fold=True), Column("shape"),
    )  # fmt: skip
    rows = [(g.id, m.role, m.op, m.node, m.tensor, dims(m.shape)) for g in report.groups for m in g.members]
    return Table(columns, rows, "members")


def _frozen_table(report: InspectReport) -> Table:
    columns = (
        Column("operator"), Column("channels", right=True), Column("places", right=True),
        Column("reason", fold=True), Column("e.g. tensor", fold=True),
    )  # fmt: skip
    rows = [
        (op, str(channels), str(len(pins)), reason, pins[0].tensor)
        for op, reason, channels, pins in pins_by_reason(report.pinned)
    ]
    part = share(report.frozen_params, report.quantities.params)
    return Table(columns, rows, f"frozen: {count(report.frozen_params)} parameters, {part}")


def _pins_table(pinned: Iterable[PinReport]) -> Table:
    columns = (
        Column("operator"), Column("channels", right=True), Column("axis", right=True),
        Column("node", fold=True), Column("tensor", fold=True), Column("reason", fold=True),
    )  # fmt: skip
    rows = [(p.op, str(p.channels), str(p.axis), p.node, p.tensor, p.reason) for p in pinned]
    return Table(columns, rows, "frozen")
