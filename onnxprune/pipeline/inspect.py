"""What can be removed from a model, and what is frozen, by which operator and why."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from onnxprune.analysis.analyse import Analysis
from onnxprune.analysis.cost import macs, node_macs, parameters
from onnxprune.analysis.labels import PRODUCES
from onnxprune.analysis.members import Member, members
from onnxprune.analysis.units import Units
from onnxprune.reports.data import GroupInfo, Holder, InspectReport, PinReport, Quantities
from onnxprune.rules.foreign import is_without_rule
from onnxprune.rules.signature import Pinned


def pin_reports(units: Units) -> tuple[PinReport, ...]:
    """List the pins that freeze channels with parameters, those with most channels first."""
    weighted = np.zeros(units.count, dtype=bool)
    for member in members(units):
        weighted[member.units] = True
    for indices, pin in units.pins:
        if not pin.channels:
            weighted[indices] = False
    reports = []
    for indices, pin in units.pins:
        count = int(weighted[indices].sum())
        if count and pin.reason:
            reports.append(PinReport(pin.tensor, pin.axis, pin.node, pin.op, pin.reason, count))
    return tuple(sorted(reports, key=lambda r: -r.channels))


def inspected(analysis: Analysis, nbytes: int, warnings: tuple[str, ...]) -> InspectReport:
    """Describe groups with their members and shares, and everything that is frozen."""
    units = analysis.units
    traced = units.traced
    total = Quantities(parameters(analysis.model), macs(traced), nbytes)
    holders: dict[int, list[Holder]] = defaultdict(list)
    params, cost = _Share(), _Share()
    by_node = node_macs(traced)
    for member in members(units):
        size = float(np.prod(member.stored.shape, dtype=np.int64))
        for group, share in _shares(units, member):
            if group >= 0:
                shape = tuple(member.stored.shape)
                holders[group].append(Holder(member.node, member.op, member.stored.name, member.role, shape))
                params.add(group, member.stored.name, size, share)
                cost.add(group, member.node, by_node.get(member.number, 0), share)
    groups = tuple(
        GroupInfo(
            id=f"g{g.id}",
            name=g.name,
            channels=len(g.units),
            kind="rows" if g.level else "channels",
            params=params.of(g.id),
            params_share=params.of(g.id) / max(total.params, 1),
            macs=cost.of(g.id),
            macs_share=cost.of(g.id) / max(total.macs, 1),
            members=tuple(dict.fromkeys(holders[g.id])),
        )
        for g in units.groups
    )
    missing = {
        s.node.op for s in traced.steps if isinstance(s.verdict, Pinned) and is_without_rule(s.verdict.reason)
    }
    return InspectReport(
        quantities=total,
        nodes=len(traced.network.nodes),
        opset=traced.network.opset(""),
        inputs=analysis.sizes,
        groups=groups,
        pinned=pin_reports(units),
        frozen_params=frozen_params(units),
        without_rule=tuple(sorted(missing)),
        warnings=warnings,
    )


def frozen_params(units: Units) -> int:
    """Count the parameters that stay whatever goes: none of the channels that hold them can be removed."""
    stays = {s.name: float(np.prod(s.shape)) for s in units.traced.network.everything() if s.is_parameter}
    counted: dict[str, tuple[int, int]] = {}
    for member in members(units):
        use = member.number, member.operand
        if counted.setdefault(member.stored.name, use) == use:  # other uses of a tensor tell the same again
            stays[member.stored.name] *= float((units.group_of_units[member.units] < 0).mean())
    return int(sum(stays.values()))


def first_makers(units: Units) -> dict[int, tuple[str, int]]:
    """Return by group the name and the number of the first node that produces its channels."""
    first: dict[int, tuple[str, int]] = {}
    for member in members(units):
        if member.role == PRODUCES and member.number >= 0:
            for group in np.unique(units.group_of_units[member.units]).tolist():
                if member.number < first.get(group, ("", member.number + 1))[1]:
                    first[group] = member.node, member.number
    return first


class _Share:
    """What groups hold of tensors or nodes; rows and columns of one weight are not counted twice."""

    def __init__(self) -> None:
        self._left: dict[int, dict[str, tuple[float, float]]] = defaultdict(dict)

    def add(self, group: int, name: str, whole: float, share: float) -> None:
        """Note that a group holds this share of something along one axis."""
        _, left = self._left[group].get(name, (whole, 1.0))
        self._left[group][name] = whole, left * (1.0 - share)

    def of(self, group: int) -> int:
        """Return how much the group holds in all."""
        return int(sum(whole * (1.0 - left) for whole, left in self._left[group].values()))


def _shares(units: Units, member: Member) -> list[tuple[int, float]]:
    """Return the share of a tensor that each group holds."""
    groups, counts = np.unique(units.group_of_units[member.units], return_counts=True)
    return [(int(g), float(n) / member.units.size) for g, n in zip(groups, counts, strict=True)]
