"""Granularities: which sets of units may be removed together, least restrictive first.

ANY: any unit. EVEN: as many from every row of a grid as from the others. COLUMNS: the same columns
of every row. ROWS: whole rows (heads, convolution groups). NOTHING.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from onnxprune.analysis.labels import Pin
from onnxprune.analysis.units import Units, components
from onnxprune.planning.balance import BalanceProblem, Shuffle, nested_removals
from onnxprune.planning.closing import taken_along


class Granularity(IntEnum):
    """A constraint on the removals of a bundle."""

    ANY = 0
    EVEN = 1
    COLUMNS = 2
    ROWS = 3
    NOTHING = 4


@dataclass(frozen=True)
class Bundle:
    """Groups whose removals depend on each other: they share a grid or parents."""

    id: int
    groups: tuple[int, ...]
    parents: tuple[int, ...]
    grids: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class CandidateSet:
    """What a bundle may lose at a granularity: atoms, each a set of units that goes at once, cheapest first.

    pool: all units of the groups that the menu speaks for, those that must stay included.
    """

    groups: tuple[int, ...]
    atoms: tuple[np.ndarray, ...]
    costs: np.ndarray
    pool: np.ndarray


def bundles(units: Units) -> list[Bundle]:
    """Link groups that share grids or parents."""
    group_of = units.group_of()
    pairs, count = [], len(units.groups)
    for grid in units.grids:
        pairs.append(_chain(group_of[np.unique(grid)]))
    if len(units.rows.parent):
        for family in _by_parent(units, group_of):
            pairs.append(_chain(family))
    _, of = components(count, pairs)
    result: list[Bundle] = []
    for number in range(int(of.max(initial=-1)) + 1):
        own = np.flatnonzero(of == number)
        leaves = tuple(int(g) for g in own if units.groups[g].level == 0)
        parents = tuple(int(g) for g in own if units.groups[g].level == 1)
        indices = np.concatenate([units.groups[g].units for g in own])
        mask = np.zeros(units.count, dtype=bool)
        mask[indices] = True
        grids = tuple(grid for grid in units.grids if mask[grid].any())
        result.append(Bundle(len(result), leaves, parents, grids))
    return result


def _chain(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    groups = np.unique(groups[groups >= 0])
    return groups[:-1], groups[1:]


def _by_parent(units: Units, group_of: np.ndarray) -> list[np.ndarray]:
    rows = units.rows
    links: dict[int, set[int]] = {}
    for parent, child in zip(rows.parent[rows.row].tolist(), group_of[rows.child].tolist(), strict=True):
        links.setdefault(parent, set()).add(child)
        links[parent].add(int(group_of[parent]))
    return [np.asarray(sorted(g)) for g in {frozenset(v) for v in links.values()}]


def candidate_sets(
    units: Units, bundle: Bundle, granularity: Granularity, scores: np.ndarray
) -> list[CandidateSet]:
    """List what a bundle may lose at a granularity.

    scores: importance by unit.
    """
    if granularity == Granularity.ANY:
        return [_any(units, g, scores) for g in bundle.groups]
    if granularity == Granularity.EVEN:
        return _even(units, bundle, scores)
    if granularity == Granularity.COLUMNS:
        return _columns(units, bundle, scores)
    if granularity == Granularity.ROWS:
        return _whole_rows(units, bundle, scores)
    return []


def _any(units: Units, group: int, scores: np.ndarray) -> CandidateSet:
    indices = units.groups[group].units
    return _menu(units, list(indices[~units.pinned[indices]][:, None]), scores, indices)


def _menu(
    units: Units, atoms: list[np.ndarray], scores: np.ndarray, pool: np.ndarray, ordered: bool = False
) -> CandidateSet:
    lengths = np.asarray([len(a) for a in atoms])
    starts = np.cumsum(lengths) - lengths
    costs = np.add.reduceat(scores[np.concatenate(atoms)], starts) if atoms else np.zeros(0)
    if not ordered and atoms:
        order = np.argsort(costs / lengths, kind="stable")
        atoms, costs = [atoms[i] for i in order], costs[order]
    groups = np.unique(units.group_of_units[pool])
    return CandidateSet(tuple(int(g) for g in groups if g >= 0), tuple(atoms), costs, pool)


def _even(units: Units, bundle: Bundle, scores: np.ndarray) -> list[CandidateSet]:
    """Take as many units from every row of a grid as from the others, the least important first."""
    held = np.concatenate([grid.ravel() for grid in bundle.grids]) if bundle.grids else np.zeros(0, np.int64)
    rows, members = _unique_rows(_outermost(units, bundle.grids))
    flat = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    result = []
    if len(np.unique(flat)) != len(flat):
        result += _crossing(units, bundle, [[rows[i] for i in m] for m in members], scores)
    else:
        _, classes = components(len(rows), [(np.asarray(m[:-1]), np.asarray(m[1:])) for m in members])
        for number in range(int(classes.max(initial=-1)) + 1):
            own = [rows[i] for i in np.flatnonzero(classes == number)]
            free = [r[~units.pinned[r]] for r in own]
            ranked = [f[np.argsort(scores[f], kind="stable")] for f in free]
            depth = min(len(f) - (len(f) == len(r)) for r, f in zip(own, free, strict=True))
            atoms = [np.asarray([r[i] for r in ranked]) for i in range(depth)]
            if atoms:
                atoms = [np.union1d(atom, _below(units, atom)) for atom in atoms]
                pool = np.concatenate(free)
                pool = np.union1d(pool, _below(units, pool))
                result.append(_menu(units, atoms, scores, pool, ordered=True))
    return result + _rest(units, bundle, held, scores) if result else []


def _outermost(units: Units, grids: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Leave out grids that lie below units of another: cutting both would cut the same channels twice."""
    inner = np.zeros(units.count, dtype=bool)
    for grid in grids:
        if units.levels[grid].any():
            inner[_below(units, grid.ravel())] = True
    return tuple(grid for grid in grids if not inner[grid].any())


def _below(units: Units, indices: np.ndarray) -> np.ndarray:
    """Return the children of some units, their children, and so on."""
    rows = units.rows
    above = np.zeros(units.count, dtype=bool)
    above[indices] = True
    reached = np.zeros(units.count, dtype=bool)
    while True:
        new = rows.child[above[rows.parent[rows.row]] & ~reached[rows.child]]
        if not len(new):
            return np.flatnonzero(reached)
        reached[new] = above[new] = True


def _rest(units: Units, bundle: Bundle, used: np.ndarray, scores: np.ndarray) -> list[CandidateSet]:
    """Offer the units of the groups that no grid holds."""
    result = []
    for g in bundle.groups:
        rest = np.setdiff1d(units.groups[g].units, used)
        rest = rest[~units.pinned[rest]]
        if len(rest):
            result.append(_menu(units, list(rest[:, None]), scores, rest))
    return result


def _crossing(
    units: Units, bundle: Bundle, grids: list[list[np.ndarray]], scores: np.ndarray
) -> list[CandidateSet]:
    """Rows of several grids cross: take the same share from all groups, evenly from all rows."""
    pool = np.unique(np.concatenate([r for rows in grids for r in rows]))
    pool = pool[~units.pinned[pool]]
    place = np.full(units.count, -1)
    place[pool] = np.arange(len(pool))
    rows = [[place[row][place[row] >= 0] for row in grid] for grid in grids]
    atoms = _shared_out(units, list(pool[:, None]), scores, rows, _shuffles(bundle.grids, place))
    return [_menu(units, atoms, scores, pool, ordered=True)] if atoms else []


def _shuffles(grids: Sequence[np.ndarray], place: np.ndarray) -> list[Shuffle]:
    """Find the grids whose transpose is another grid's content, read row by row."""
    result = []
    for grid in grids:
        for other in grids:
            if other.shape == grid.T.shape or not np.array_equal(grid.T.ravel(), other.ravel()):
                continue
            cells = [[place[np.intersect1d(row, block)] for block in other] for row in grid]
            if all((atoms >= 0).all() for row in cells for atoms in row):
                result.append(Shuffle(cells, grid.shape[1]))
    return result


def _shared_out(
    units: Units,
    atoms: list[np.ndarray],
    scores: np.ndarray,
    rows: Sequence[Sequence[np.ndarray]] = (),
    shuffles: Sequence[Shuffle] = (),
) -> list[np.ndarray] | None:
    """Gather atoms into steps that take about the same share from every group; None for too many."""
    flat = np.concatenate(atoms)
    of = np.repeat(np.arange(len(atoms)), [len(a) for a in atoms])
    groups, column = np.unique(units.group_of_units[flat], return_inverse=True)
    taken = np.zeros((len(atoms), len(groups)), np.int64)
    np.add.at(taken, (of, column), 1)
    widths = np.asarray([len(units.groups[g].units) if g >= 0 else len(flat) for g in groups])
    problem = BalanceProblem(taken, widths, np.bincount(of, weights=scores[flat]), rows, shuffles)
    steps = nested_removals(problem)
    return None if steps is None else [np.concatenate([atoms[i] for i in step]) for step in steps]


def _unique_rows(grids: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[list[int]]]:
    rows: list[np.ndarray] = []
    place: dict[bytes, int] = {}
    members: list[list[int]] = []
    for grid in grids:
        own = []
        for row in grid:
            unique = np.unique(row)
            if len(unique) == 1:
                continue
            key = unique.tobytes()
            if key not in place:
                place[key] = len(rows)
                rows.append(unique)
            own.append(place[key])
        members.append(own)
    return rows, members


def _columns(units: Units, bundle: Bundle, scores: np.ndarray) -> list[CandidateSet]:
    """Tie the columns of all grids together."""
    pairs = [(np.repeat(grid[:1], len(grid), axis=0).ravel(), grid.ravel()) for grid in bundle.grids]
    return _tied(units, bundle.groups, pairs, scores)


def _tied(
    units: Units,
    groups: Sequence[int],
    pairs: list[tuple[np.ndarray, np.ndarray]],
    scores: np.ndarray,
) -> list[CandidateSet]:
    """Offer classes of units that go together under these pairs, closed over parents."""
    if not groups:
        return []
    atoms = _classes(units, groups, pairs)
    while more := _closing_pairs(units, atoms):
        pairs, before = [*pairs, *more], len(atoms)
        atoms = _classes(units, groups, pairs)
        if len(atoms) == before:
            break
    _, kind = components(len(units.groups), [_chain(units.group_of_units[p]) for p in atoms])
    result = []
    for number in sorted({int(kind[g]) for g in groups}):
        mine = tuple(g for g in groups if kind[g] == number)
        chosen = [a for a in atoms if kind[units.group_of_units[a[0]]] == number]
        if chosen:
            pool = np.concatenate([units.groups[g].units for g in mine])
            uneven = len(mine) > 1 and len({len(a) for a in chosen}) > 1
            steps = _shared_out(units, chosen, scores) if uneven else chosen
            if steps is None:
                return []
            result.append(_menu(units, steps, scores, pool, ordered=uneven))
    return result


def _classes(
    units: Units, groups: Sequence[int], pairs: list[tuple[np.ndarray, np.ndarray]]
) -> list[np.ndarray]:
    _, classes = components(units.count, pairs)
    indices = np.concatenate([units.groups[g].units for g in groups])
    frozen = set(np.unique(classes[units.pinned]).tolist())
    own = classes[indices]
    order = np.argsort(own, kind="stable")
    pieces = np.split(indices[order], np.flatnonzero(np.diff(own[order])) + 1)
    return [p for p in pieces if int(classes[p[0]]) not in frozen]


def _closing_pairs(units: Units, atoms: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Tie each atom to the units outside it that its death alone would kill, pinned ones included."""
    if not len(units.rows.parent) or not atoms:
        return []
    place, outside = taken_along(units, atoms)
    grouped = (units.group_of_units >= 0) & (units.levels == 0)
    held = grouped[outside] | units.pinned[outside]
    if not held.any():
        return []
    first = np.asarray([atom[0] for atom in atoms])
    return [(first[place[held]], outside[held])]


def _columnar(units: Units, grids: Sequence[np.ndarray]) -> np.ndarray:
    """Tell which parents have one child in every row of a grid: those of a column, such as rotary tables.

    One with children in some rows only, such as a head of K that several heads of Q share, is none.
    """
    rows = units.rows
    result = np.zeros(len(rows.parent), dtype=bool)
    for grid in grids:
        indices, first = np.unique(grid, return_index=True)
        place = np.full(units.count, -1)
        place[indices] = first
        columns = np.where(place < 0, -1, place % grid.shape[1])[rows.child]
        low, high = np.full(len(result), units.count), np.full(len(result), -2)
        np.minimum.at(low, rows.row, columns)
        np.maximum.at(high, rows.row, columns)
        inside = columns >= 0
        met = np.unique(rows.row[inside] * len(grid) + place[rows.child[inside]] // grid.shape[1])
        result |= (
            (low >= 0) & (low == high) & (np.bincount(met // len(grid), minlength=len(result)) == len(grid))
        )
    return result


def _row_pairs(units: Units, bundle: Bundle) -> list[tuple[np.ndarray, np.ndarray]]:
    """Tie every row of a grid, and the children of one parent: heads, convolution groups."""
    pairs = [(np.repeat(grid[:, :1], grid.shape[1], axis=1).ravel(), grid.ravel()) for grid in bundle.grids]
    rows = units.rows
    mask = np.zeros(units.count, dtype=bool)
    for g in (*bundle.groups, *bundle.parents):
        mask[units.groups[g].units] = True
    own = mask[rows.child] & ~_columnar(units, bundle.grids)[rows.row]
    return [*pairs, (rows.parent[rows.row[own]], rows.child[own])]


def _whole_rows(units: Units, bundle: Bundle, scores: np.ndarray) -> list[CandidateSet]:
    return _tied(units, bundle.groups, _row_pairs(units, bundle), scores)


def row_pin(units: Units, bundle: Bundle) -> Pin | None:
    """Return what keeps the whole rows of a bundle; None where some may go, or where they keep each other."""
    _, classes = components(units.count, _row_pairs(units, bundle))
    own = [np.unique(classes[units.groups[g].units]) for g in bundle.groups]
    if not own:
        return None
    numbers = np.unique(np.concatenate(own))
    if not np.isin(numbers, classes[units.pinned]).all():
        return None
    return next(
        (pin for held, pin in units.pins if pin.reason and np.isin(classes[held], numbers).any()), None
    )
