"""Between a decision and its plan: what follows from the kept channels, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from onnxprune.analysis.axes import joined
from onnxprune.analysis.labels import Labelled
from onnxprune.analysis.replay import Cut, Replayed, replay
from onnxprune.analysis.trace import Trace
from onnxprune.analysis.units import Units
from onnxprune.errors import UsageError
from onnxprune.planning.plan import GroupPlan, MaskPlan, Plan, RepairPlan, SlicePlan, check_groups
from onnxprune.rewrite.apply import factors, index_along
from onnxprune.rules.signature import Signature


def group_plans(units: Units, removed: np.ndarray, asked: Mapping[int, int]) -> list[GroupPlan]:
    """Describe what every group keeps.

    asked: channels that were to stay, by group.
    """
    return [
        GroupPlan(
            f"g{group.id}",
            group.name,
            len(group.units),
            asked.get(group.id, len(group.units)),
            np.flatnonzero(~removed[group.units]).tolist(),
        )
        for group in units.groups
    ]


def derived(units: Units, replayed: Replayed, removed: np.ndarray) -> dict[str, list[Any]]:
    """List the slices, masks and repairs that follow from a removal."""
    traced = units.traced
    return {
        "slices": [
            *_shared_slices(traced, replayed),
            *(s for cut in replayed.cuts for s in _slices(traced, cut)),
        ],
        "masks": list(_masks(traced, replayed, units.alive(removed))),
        "repairs": list(_repairs(traced, replayed)),
    }


def _slices(traced: Trace, cut: Cut) -> Iterator[SlicePlan]:
    subscripts = joined(cut.slot.axes, range(len(cut.slot.axes)))
    roles = {x: e.role for e in cut.slot.entries for x in e.block.subscripts}
    picked = {x for block, _ in cut.picks for x in block.subscripts}
    name = traced.network.names[cut.step]
    for axis, own in enumerate(cut.slot.axes):
        if not set(own) & picked:
            continue
        flat: np.ndarray = np.zeros([1] * len(subscripts), np.int64)
        for x in own:
            flat = flat * cut.full[x] + index_along(x, subscripts, cut)
        keep = _listed(flat, [subscripts.index(x) for x in own], cut, subscripts)
        if keep != list(range(cut.slot.stored.shape[axis])):
            role = roles[next(x for x in reversed(own) if x in picked)]
            yield SlicePlan(cut.slot.stored.name, name, axis, keep, role)


def _listed(flat: np.ndarray, dims: list[int], cut: Cut, subscripts: tuple[str, ...]) -> list[Any]:
    """Write places along an axis as one list, or one per block of the axes that they depend on."""
    shape = [cut.sizes[x] if i in dims or flat.shape[i] > 1 else 1 for i, x in enumerate(subscripts)]
    full = np.broadcast_to(flat, shape)
    width = int(np.prod([shape[i] for i in dims], dtype=np.int64))
    rows = np.moveaxis(full, dims, range(len(subscripts) - len(dims), len(subscripts))).reshape(-1, width)
    return rows[0].tolist() if (rows == rows[:1]).all() else rows.tolist()


def _shared_slices(traced: Trace, replayed: Replayed) -> Iterator[SlicePlan]:
    for name, labelled in traced.shared.items():
        kept = replayed.tensors.get(name)
        for factor, coords in zip(labelled.factors, kept.coords if kept else (), strict=False):
            if coords is not None:
                yield SlicePlan(name, "", factor.axes[0], coords[0].tolist(), "produces")


def _masks(traced: Trace, replayed: Replayed, alive: np.ndarray) -> Iterator[MaskPlan]:
    for step in traced.steps:
        if step.number not in replayed.refs or step.met is None or not isinstance(step.verdict, Signature):
            continue
        if any(slot.operand > 0 for slot in step.met.slots):
            continue
        kept = step.verdict.kept_subscripts()
        for view in step.met.views:
            operand = step.operands[view.operand]
            if view.frozen or operand is None or set(view.block.subscripts) <= kept:
                continue
            yield from _mask(step.site.name, view.operand, view.factor, operand.labelled, alive)


def _mask(node: str, operand: int, place: int, labelled: Labelled, alive: np.ndarray) -> Iterator[MaskPlan]:
    factor = labelled.factors[place]
    shown = alive[factor.labels]
    if shown.all():
        return
    if shown.ndim == 1:
        yield MaskPlan(node, operand, factor.axes[0], np.flatnonzero(shown).tolist())
        return
    rows = shown.reshape(-1, shown.shape[-1])
    yield MaskPlan(node, operand, factor.axes[-1], [np.flatnonzero(row).tolist() for row in rows])


def _repairs(traced: Trace, replayed: Replayed) -> Iterator[RepairPlan]:
    names = traced.network.names
    for number, fix in replayed.fixes:
        kind = "attribute" if isinstance(fix.where, str) else "input"
        yield RepairPlan(names[number], kind, str(fix.where), fix.listed())
    for rescale in replayed.rescales:
        for op, factor in factors(rescale):
            kind = f"shape {op.lower()}" if rescale.recounts else op.lower()
            yield RepairPlan(names[rescale.step], kind, str(rescale.operand), factor.ravel().tolist())


def removal(units: Units, plan: Plan, sha256: str) -> tuple[np.ndarray, Replayed]:
    """Turn a plan back into removed units, and replay it.

    Raises UsageError for a plan of another model, one that does not fit the groups, one that clashes
    in the replay, and one whose derived parts do not follow from its groups.
    """
    if plan.model_sha256 != sha256:
        raise UsageError(
            f"the plan is for another model: its sha256 is {plan.model_sha256[:12]}…, this one's is "
            f"{sha256[:12]}…; give the model that the plan was made from, or make a new plan"
        )
    check_groups(plan)
    groups = {f"g{g.id}": g for g in units.groups}
    removed = np.zeros(units.count, dtype=bool)
    for entry in plan.groups:
        group = groups.get(entry.id)
        if group is None or len(group.units) != entry.channels:
            raise UsageError(
                f"the plan's group '{entry.id}' ({entry.name}, {entry.channels} channels) "
                "is not one of this model's"
            )
        gone = np.ones(len(group.units), dtype=bool)
        gone[entry.keep] = False
        removed[group.units[gone]] = True
    closed = units.rows.close(removed)
    _check_closed(units, removed, closed)
    replayed = replay(units.traced, units.alive(closed))
    if replayed.conflicts:
        first = replayed.conflicts[0]
        raise UsageError(
            f"the plan does not replay: at node '{first.node}', {first.reason}; keep other channels there"
        )
    _check_derived(plan, derived(units, replayed, closed))
    return closed, replayed


def _check_closed(units: Units, removed: np.ndarray, closed: np.ndarray) -> None:
    for group in units.groups:
        more = np.flatnonzero(closed[group.units] & ~removed[group.units])
        if len(more):
            raise UsageError(
                f"the plan keeps channels {more[:5].tolist()} of group 'g{group.id}' ({group.name}) "
                "that cannot live without others it removes: remove them too"
            )
    empty = units.emptied(closed)
    if len(empty):
        names = {units.groups[g].name for g in units.group_of_units[empty] if g >= 0}
        raise UsageError(
            "the plan would leave an axis empty or remove a pinned channel "
            f"(near {', '.join(sorted(names)) or 'a pinned axis'}): keep more there"
        )


def _check_derived(plan: Plan, parts: Mapping[str, list[Any]]) -> None:
    for key, wanted in parts.items():
        given = getattr(plan, key)
        if given and given != wanted:
            raise UsageError(
                f"the plan's {key} do not follow from its groups; after an edit of 'keep', "
                "delete the sections slices, masks and repairs"
            )
