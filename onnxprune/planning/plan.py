"""The plan: what a run removes, as data that a person can read, edit and check without us.

What groups keep is the plan; slices, masks and repairs follow from it, and are checked where they are given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from onnxprune.analysis.axes import joined
from onnxprune.analysis.labels import Labelled
from onnxprune.analysis.readers import Readers
from onnxprune.analysis.replay import Cut, Removal, Replayed
from onnxprune.analysis.trace import Trace
from onnxprune.analysis.units import Units
from onnxprune.errors import UsageError, shortened
from onnxprune.paths import read_file
from onnxprune.rewrite.apply import factors, index_along
from onnxprune.rules.signature import Axis, Signature

SCHEMA_VERSION = 1


class GroupPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Channels that are produced together. `keep` lists the ones that stay: the part to edit."""

    id: str
    name: str
    channels: int
    asked: int
    keep: list[int]


class RowsOver(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An axis that the rows of a nested `keep` run over: index i of it is in row i // stride % count.

    With several of these, rows are numbered by the first one outermost. Indices are those of the tensor in
    the pruned model for slices, of the original for masks.
    """

    axis: int
    count: int
    stride: int = 1


class SlicePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one use of a stored tensor keeps along one axis: an ordered list, or one per row of `over`."""

    tensor: str
    node: str
    axis: int
    keep: list[Any]
    role: str
    over: list[RowsOver] = []


class MaskPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which elements of a computed operand a contraction or reduction still sees; nested as in SlicePlan."""

    node: str
    input: int
    axis: int
    keep: list[Any]
    over: list[RowsOver] = []


class RepairPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A repaired attribute or shape input, or a factor inserted before a run-time value is read."""

    node: str
    kind: str
    where: str
    value: Any


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A plan for one model, named by its hash."""

    model_sha256: str
    settings: dict[str, Any]
    align: int
    groups: list[GroupPlan]
    slices: list[SlicePlan] = []
    masks: list[MaskPlan] = []
    repairs: list[RepairPlan] = []
    repaired: dict[str, str] = {}
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> bytes:
        """Serialise; the same plan gives the same bytes."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    @property
    def sha256(self) -> str:
        """Return the hash of the serialised plan."""
        return hashlib.sha256(self.to_json()).hexdigest()


def read_plan(source: str | Path | bytes | Plan) -> Plan:
    """Read a plan from a file or bytes.

    Raises UsageError where it is no plan, names what it does not know, or has another version.
    """
    if isinstance(source, Plan):
        return source
    name = "the plan" if isinstance(source, bytes) else f"plan '{shortened(str(source))}'"
    try:
        data = source if isinstance(source, bytes) else read_file(source)
        plan = msgspec.json.decode(data, type=Plan)
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}; check the path") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise UsageError(
            f"{name} is not a plan: {error}; `onnxprune prune --plan FILE` writes one"
        ) from error
    if plan.schema_version != SCHEMA_VERSION:
        raise UsageError(
            f"{name} has schema_version {plan.schema_version}, expected {SCHEMA_VERSION}: make a new plan"
        )
    return plan


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


def derived(removal: Removal) -> dict[str, list[Any]]:
    """List the slices, masks and repairs that follow from a removal."""
    traced, replayed = removal.traced, removal.replayed
    return {
        "slices": [
            *_shared_slices(traced, replayed),
            *(s for cut in replayed.cuts for s in _slices(traced, cut)),
        ],
        "masks": list(_masks(traced, replayed, removal.alive)),
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
        keep, over = _listed(flat, own, cut, subscripts)
        if keep != list(range(cut.slot.stored.shape[axis])):
            role = roles[next(x for x in reversed(own) if x in picked)]
            yield SlicePlan(cut.slot.stored.name, name, axis, keep, role, over)


def _listed(
    flat: np.ndarray, own: Axis, cut: Cut, subscripts: tuple[str, ...]
) -> tuple[list[Any], list[RowsOver]]:
    """Write places along an axis as one list, or one per row, with the axes that the rows run over."""
    dims = [subscripts.index(x) for x in own]
    shape = [cut.sizes[x] if i in dims or flat.shape[i] > 1 else 1 for i, x in enumerate(subscripts)]
    full = np.broadcast_to(flat, shape)
    width = int(np.prod([shape[i] for i in dims], dtype=np.int64))
    rows = np.moveaxis(full, dims, range(len(subscripts) - len(dims), len(subscripts))).reshape(-1, width)
    if (rows == rows[:1]).all():
        return rows[0].tolist(), []
    over = [_over(x, cut) for i, x in enumerate(subscripts) if i not in dims and shape[i] > 1]
    return rows.tolist(), over


def _over(subscript: str, cut: Cut) -> RowsOver:
    """Find the axis of the tensor that a subscript is a part of."""
    axis = next(i for i, axis in enumerate(cut.slot.axes) if subscript in axis)
    inner = cut.slot.axes[axis][cut.slot.axes[axis].index(subscript) + 1 :]
    stride = int(np.prod([cut.sizes[x] for x in inner], dtype=np.int64))
    return RowsOver(axis, cut.sizes[subscript], stride)


def _shared_slices(traced: Trace, replayed: Replayed) -> Iterator[SlicePlan]:
    readers = Readers(traced)
    for name, labelled in traced.shared.items():
        kept = replayed.tensors.get(name)
        for place, coords in enumerate(kept.coords if kept else ()):
            if coords is not None:
                axis, role = labelled.factors[place].axes[0], readers.shared_role(name, place)
                yield SlicePlan(name, "", axis, coords[0].tolist(), role)


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
    over = [RowsOver(axis, size) for axis, size in zip(factor.axes[:-1], shown.shape[:-1], strict=True)]
    keep = [np.flatnonzero(row).tolist() for row in rows]
    yield MaskPlan(node, operand, factor.axes[-1], keep, over)


def _repairs(traced: Trace, replayed: Replayed) -> Iterator[RepairPlan]:
    names = traced.network.names
    for number, fix in replayed.fixes:
        kind = "attribute" if isinstance(fix.where, str) else "input"
        yield RepairPlan(names[number], kind, str(fix.where), fix.listed())
    for rescale in replayed.rescales:
        for op, factor in factors(rescale):
            kind = f"shape {op.lower()}" if rescale.recounts else op.lower()
            yield RepairPlan(names[rescale.step], kind, str(rescale.operand), factor.ravel().tolist())


def planned_removal(units: Units, plan: Plan, sha256: str) -> Removal:
    """Turn a plan back into the removal that it tells of.

    Raises UsageError for a plan of another model, one that does not fit the groups, one that clashes
    in the replay, and one whose derived parts do not follow from its groups.
    """
    if plan.model_sha256 != sha256:
        raise UsageError(
            f"the plan is for another model: its sha256 is {plan.model_sha256[:12]}…, this one's is "
            f"{sha256[:12]}…; give the model that the plan was made from, or make a new plan"
        )
    _check_groups(plan)
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
    removal = Removal.of(units, closed)
    if removal.replayed.conflicts:
        first = removal.replayed.conflicts[0]
        raise UsageError(
            f"the plan does not replay: at node '{first.node}', {first.reason}; keep other channels there"
        )
    _check_derived(plan, derived(removal))
    return removal


def _check_groups(plan: Plan) -> None:
    """Check that every group comes once, and every keep-list rises within the group's channels.

    Raises UsageError for the first that does not.
    """
    seen: set[str] = set()
    for group in plan.groups:
        if group.id in seen:
            raise UsageError(f"group '{group.id}' ({group.name}) is listed twice: keep one of them")
        seen.add(group.id)
        keep = group.keep
        if any(b <= a for a, b in pairwise(keep)) or any(not 0 <= k < group.channels for k in keep):
            raise UsageError(
                f"group '{group.id}' ({group.name}): keep must list channels in rising order, "
                f"each once, from 0 to {group.channels - 1}"
            )


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


def _without_rows(parts: list[Any]) -> list[Any]:
    """Return parts of a plan as they were written before they said what nested lists run over."""
    return [msgspec.structs.replace(p, over=[]) if getattr(p, "over", []) else p for p in parts]


def _check_derived(plan: Plan, parts: Mapping[str, list[Any]]) -> None:
    for key, wanted in parts.items():
        given = getattr(plan, key)
        if given and given not in (wanted, _without_rows(wanted)):
            raise UsageError(
                f"the plan's {key} do not follow from its groups; after an edit of 'keep', "
                "delete the sections slices, masks and repairs"
            )
