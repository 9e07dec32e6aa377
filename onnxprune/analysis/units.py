"""From labels to units, groups and the relations that a removal must respect."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from onnxprune.analysis.labels import PRODUCES, Family, Pin, Slot
from onnxprune.analysis.readers import Readers, is_decoder
from onnxprune.analysis.trace import Trace


@dataclass(frozen=True)
class Rows:
    """Parents and their children, row by row: a parent dies when a row of it is empty."""

    parent: np.ndarray
    row: np.ndarray
    child: np.ndarray

    def close(self, removed: np.ndarray) -> np.ndarray:
        """Add all units that must die with these, until nothing changes.

        removed: booleans by unit; returns a new array.
        """
        removed = removed.copy()
        if not len(self.parent):
            return removed
        while True:
            before = int(removed.sum())
            living = np.bincount(self.row, weights=~removed[self.child], minlength=len(self.parent))
            removed[self.parent[living == 0]] = True
            removed[self.child[removed[self.parent[self.row]]]] = True
            if int(removed.sum()) == before:
                return removed


@dataclass(frozen=True)
class Group:
    """Units that are produced together; `units` in the order of their first label."""

    id: int
    name: str
    units: np.ndarray
    level: int


@dataclass(frozen=True)
class Units:
    """The units of a trace: by label, which unit; by unit, what holds it and where it belongs."""

    traced: Trace
    of: np.ndarray
    count: int
    pinned: np.ndarray
    pins: list[tuple[np.ndarray, Pin]]
    rows: Rows
    groups: list[Group]

    @cached_property
    def guards(self) -> list[np.ndarray]:
        """Return the unit sets of which at least one must live: every labelled axis of a tensor."""
        seen: dict[int, np.ndarray] = {}
        for labelled in self.traced.tensors.values():
            for factor in labelled.factors:
                seen.setdefault(id(factor.labels), factor.labels)
        for labels in self.traced.book.produced:
            seen.setdefault(id(labels), labels)
        unique = {u.tobytes(): u for u in (np.unique(self.of[labels]) for labels in seen.values())}
        return [u for u in unique.values() if not self.pinned[u].any()]

    @cached_property
    def grids(self) -> list[np.ndarray]:
        """Return the distinct unit grids [rows, columns]; a transposed one is what it was first seen as."""
        found: dict[tuple[bytes, int], np.ndarray] = {}
        for labels in self.traced.book.grids:
            grid = self.of[labels].reshape(-1, labels.shape[-1])
            if self.pinned[grid].all():
                continue
            if (np.ascontiguousarray(grid.T).tobytes(), len(grid.T)) not in found:
                found.setdefault((np.ascontiguousarray(grid).tobytes(), len(grid)), grid)
        return list(found.values())

    def holding(self, groups: Iterable[int]) -> Units:
        """Return the same units with those of some groups pinned."""
        pinned = self.pinned.copy()
        for group in groups:
            pinned[self.groups[group].units] = True
        return replace(self, pinned=_held(pinned, self.rows))

    def alive(self, removed: np.ndarray) -> np.ndarray:
        """Turn removed units into living labels."""
        return ~removed[self.of]

    @cached_property
    def levels(self) -> np.ndarray:
        """Return 1 for units that are parents, 0 for the others."""
        return _levels(self.rows, self.inner)

    @cached_property
    def inner(self) -> np.ndarray:
        """Return which units are elements of computed weights: they go with the channels along its sides."""
        return _inner(self.traced, self.of, self.count, self.rows)

    def emptied(self, removed: np.ndarray) -> np.ndarray:
        """Return the units of the first set that a removal must not empty but does; pinned ones first."""
        killed = np.flatnonzero(removed & self.pinned)
        if len(killed):
            rows = np.isin(self.rows.parent, killed)
            return np.unique(self.rows.child[rows[self.rows.row]]) if rows.any() else killed
        for guard in self.guards:
            if removed[guard].all():
                return guard
        return killed

    def group_of(self) -> np.ndarray:
        """Return the place of each unit's group in `groups`, -1 for units of none."""
        return self.group_of_units

    @cached_property
    def group_of_units(self) -> np.ndarray:
        """Return the place of each unit's group in `groups`, -1 for units of none."""
        result = np.full(self.count, -1)
        for place, group in enumerate(self.groups):
            result[group.units] = place
        return result


def components(count: int, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[int, np.ndarray]:
    """Number the classes of `count` things under these pairs, in the order of their first member."""
    if not pairs:
        return count, np.arange(count)
    left = np.concatenate([p[0] for p in pairs])
    right = np.concatenate([p[1] for p in pairs])
    graph = coo_array((np.ones(len(left), dtype=bool), (left, right)), shape=(count, count))
    number, found = connected_components(graph, directed=False)
    first = np.full(number, count)
    np.minimum.at(first, found, np.arange(count))
    rank = np.empty(number, dtype=np.int64)
    rank[np.argsort(first)] = np.arange(number)
    return number, rank[found]


def build_units(traced: Trace) -> Units:
    """Resolve ties, families and pins into units and groups."""
    book = traced.book
    count, of = components(book.count, book.ties)
    pins = [(np.unique(of[labels]), pin) for labels, pin in book.pins]
    pinned = np.zeros(count, dtype=bool)
    for members, _ in pins:
        pinned[members] = True
    rows = _rows(book.families, of)
    pinned = _held(pinned, rows)
    return Units(traced, of, count, pinned, pins, rows, _groups(traced, of, count, pinned, rows))


def _rows(families: Sequence[Family], of: np.ndarray) -> Rows:
    parents, rows, children = [], [], []
    offset = 0
    for family in families:
        parent, child = of[family.parents], of[family.children]
        proper = (child != parent[:, None]).any(axis=1)  # a row that is tied to one unit is no row of it
        size, width = child[proper].shape
        parents.append(parent[proper])
        rows.append(np.repeat(np.arange(offset, offset + size), width))
        children.append(child[proper].ravel())
        offset += size
    if not parents:
        empty = np.zeros(0, np.int64)
        return Rows(empty, empty, empty)
    return Rows(np.concatenate(parents), np.concatenate(rows), np.concatenate(children))


def _held(pinned: np.ndarray, rows: Rows) -> np.ndarray:
    """Pin the units whose death alone would kill a pinned one."""
    if not len(rows.parent):
        return pinned
    low = np.full(len(rows.parent), np.iinfo(np.int64).max)
    high = np.full(len(rows.parent), -1)
    np.minimum.at(low, rows.row, rows.child)
    np.maximum.at(high, rows.row, rows.child)
    single = low == high
    pinned = pinned.copy()
    while True:
        held = single & pinned[rows.parent] & ~pinned[low]
        if not held.any():
            return pinned
        pinned[low[held]] = True


def _inner(traced: Trace, of: np.ndarray, count: int, rows: Rows) -> np.ndarray:
    """Mark the units of computed weights of which all may go, but for those that are parents themselves."""
    result, fixed = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    for labels, _ in traced.book.pins:
        fixed[of[labels]] = True
    for matrix in traced.book.matrices:
        units = of[matrix.labels]
        result[units] |= not fixed[units].any()
    result[rows.parent] = False
    return result


def _levels(rows: Rows, inner: np.ndarray) -> np.ndarray:
    """Return 1 for units that are parents of channels, 0 for the others."""
    result = np.zeros(len(inner), dtype=np.int64)
    result[rows.parent[rows.row[~inner[rows.child]]]] = 1
    return result


def _groups(traced: Trace, of: np.ndarray, count: int, pinned: np.ndarray, rows: Rows) -> list[Group]:
    weighted, inner = np.zeros(count, dtype=bool), _inner(traced, of, count, rows)
    for slot in _slots(traced):
        if slot.stored.is_parameter:
            for entry in slot.entries:
                weighted[of[entry.block.labels]] = True
    for labelled in traced.shared.values():
        for factor in labelled.factors:
            weighted[of[factor.labels]] = True
    level = _levels(rows, inner)
    pairs = []
    ending = _ending(traced)
    computed = [matrix for matrix in traced.book.matrices if inner[of[matrix.labels]].any()]
    sides = [side for matrix in computed for side in matrix.sides]
    for side in sides:
        weighted[of[side]] = True
    for labels in (*traced.book.produced, *sides):
        if id(labels) in ending:
            continue
        members = np.unique(of[labels])
        members = members[~pinned[members] & ~inner[members]]
        for tier in (0, 1):
            own = members[level[members] == tier]
            if len(own) > 1:
                pairs.append((own[:-1], own[1:]))
    _, found = components(count, pairs)
    free = np.flatnonzero(~pinned & weighted & ~inner)
    names = _names(traced, of, count)
    groups: list[Group] = []
    order = np.argsort(found[free], kind="stable")
    for members in np.split(free[order], np.flatnonzero(np.diff(found[free][order])) + 1):
        if len(members):
            groups.append(Group(len(groups), names[int(members[0])], members, int(level[members[0]])))
    return groups


def _ending(traced: Trace) -> set[int]:
    """Find the labels of decoded constants that consume or carry what arrives: these join no channels."""
    readers = Readers(traced)
    return {
        id(entry.block.labels)
        for step in traced.steps
        if step.met is not None and is_decoder(step)
        for slot in step.met.slots
        for entry in slot.entries
        if readers.role(step, entry.block) != PRODUCES
    }


def _decoded_vectors(traced: Trace) -> set[int]:
    """Find the slots of decoded biases and the like, after which no unit is named that a weight holds."""
    return {
        id(slot)
        for step in traced.steps
        if step.met is not None and is_decoder(step)
        for slot in step.met.slots
        if sum(size > 1 for size in slot.stored.shape) < 2
    }


def _slots(traced: Trace) -> Iterator[Slot]:
    for step in traced.steps:
        if step.met is not None:
            yield from step.met.slots


def _names(traced: Trace, of: np.ndarray, count: int) -> list[str]:
    """Name each unit after the first constant that holds it, decoded vectors last."""
    slots = list(_slots(traced))
    late, ending = _decoded_vectors(traced), _ending(traced)
    first = np.full(count, -1)
    for last in (False, True):
        for number, slot in enumerate(slots):
            for entry in slot.entries:
                units = of[entry.block.labels].ravel()
                if (id(slot) in late or id(entry.block.labels) in ending) == last:
                    first[units[first[units] < 0]] = number
    names = ["" if number < 0 else slots[number].stored.name for number in first.tolist()]
    for name, labelled in traced.shared.items():
        for factor in labelled.factors:
            for unit in np.unique(of[factor.labels]).tolist():
                names[unit] = names[unit] or name
    for matrix in traced.book.matrices:
        for unit in (unit for side in matrix.sides for unit in np.unique(of[side]).tolist()):
            names[unit] = names[unit] or names[of[matrix.labels].flat[0]]
    return names
