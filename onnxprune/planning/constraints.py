"""The ladder of constraints: which sets of units may be removed together, least restrictive first.

ANY: any unit. EVEN: as many from every row of a grid as from the others. COLUMNS: the same columns
of every row. ROWS: whole rows (heads, convolution groups). NOTHING.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from onnxprune.analysis.units import Units, components
from onnxprune.planning.balance import Puzzle, Shuffle, increments


class Rung(IntEnum):
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
class Menu:
    """What a bundle offers at a rung: atoms, each a set of units that goes at once, cheapest first.

    pool: all units of the groups that the menu speaks for, those that must stay included.
    """

    groups: tuple[int, ...]
    atoms: tuple[np.ndarray, ...]
    costs: np.ndarray
    pool: np.ndarray


def bundles(found: Units) -> list[Bundle]:
    """Link groups that share grids or parents."""
    group_of = found.group_of()
    pairs, count = [], len(found.groups)
    for grid in found.grids:
        pairs.append(_chain(group_of[np.unique(grid)]))
    if len(found.rows.parent):
        for family in _by_parent(found, group_of):
            pairs.append(_chain(family))
    _, of = components(count, pairs)
    result: list[Bundle] = []
    for number in range(int(of.max(initial=-1)) + 1):
        own = np.flatnonzero(of == number)
        leaves = tuple(int(g) for g in own if found.groups[g].level == 0)
        parents = tuple(int(g) for g in own if found.groups[g].level == 1)
        units = np.concatenate([found.groups[g].units for g in own])
        mask = np.zeros(found.count, dtype=bool)
        mask[units] = True
        grids = tuple(grid for grid in found.grids if mask[grid].any())
        result.append(Bundle(len(result), leaves, parents, grids))
    return result


def _chain(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    groups = np.unique(groups[groups >= 0])
    return groups[:-1], groups[1:]


def _by_parent(found: Units, group_of: np.ndarray) -> list[np.ndarray]:
    rows = found.rows
    links: dict[int, set[int]] = {}
    for parent, child in zip(rows.parent[rows.row].tolist(), group_of[rows.child].tolist(), strict=True):
        links.setdefault(parent, set()).add(child)
        links[parent].add(int(group_of[parent]))
    return [np.asarray(sorted(g)) for g in {frozenset(v) for v in links.values()}]


def menus(found: Units, bundle: Bundle, rung: Rung, scores: np.ndarray) -> list[Menu]:
    """List what a bundle offers at a rung.

    scores: importance by unit.
    """
    if rung == Rung.ANY:
        return [_any(found, g, scores) for g in bundle.groups]
    if rung == Rung.EVEN:
        return _even(found, bundle, scores)
    if rung == Rung.COLUMNS:
        return _columns(found, bundle, scores)
    if rung == Rung.ROWS:
        return _whole_rows(found, bundle, scores)
    return []


def _any(found: Units, group: int, scores: np.ndarray) -> Menu:
    units = found.groups[group].units
    return _menu(found, list(units[~found.pinned[units]][:, None]), scores, units)


def _menu(
    found: Units, atoms: list[np.ndarray], scores: np.ndarray, pool: np.ndarray, ordered: bool = False
) -> Menu:
    lengths = np.asarray([len(a) for a in atoms])
    starts = np.cumsum(lengths) - lengths
    costs = np.add.reduceat(scores[np.concatenate(atoms)], starts) if atoms else np.zeros(0)
    if not ordered and atoms:
        order = np.argsort(costs / lengths, kind="stable")
        atoms, costs = [atoms[i] for i in order], costs[order]
    groups = np.unique(found.group_of_units[pool])
    return Menu(tuple(int(g) for g in groups if g >= 0), tuple(atoms), costs, pool)


def _even(found: Units, bundle: Bundle, scores: np.ndarray) -> list[Menu]:
    """Take as many units from every row of a grid as from the others, the least important first."""
    held = np.concatenate([grid.ravel() for grid in bundle.grids]) if bundle.grids else np.zeros(0, np.int64)
    rows, members = _unique_rows(_outermost(found, bundle.grids))
    flat = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    result = []
    if len(np.unique(flat)) != len(flat):
        result += _crossing(found, bundle, [[rows[i] for i in m] for m in members], scores)
    else:
        _, classes = components(len(rows), [(np.asarray(m[:-1]), np.asarray(m[1:])) for m in members])
        for number in range(int(classes.max(initial=-1)) + 1):
            own = [rows[i] for i in np.flatnonzero(classes == number)]
            free = [r[~found.pinned[r]] for r in own]
            ranked = [f[np.argsort(scores[f], kind="stable")] for f in free]
            depth = min(len(f) - (len(f) == len(r)) for r, f in zip(own, free, strict=True))
            atoms = [np.asarray([r[i] for r in ranked]) for i in range(depth)]
            if atoms:
                atoms = [np.union1d(atom, _below(found, atom)) for atom in atoms]
                pool = np.concatenate(free)
                pool = np.union1d(pool, _below(found, pool))
                result.append(_menu(found, atoms, scores, pool, ordered=True))
    return result + _rest(found, bundle, held, scores) if result else []


def _outermost(found: Units, grids: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Leave out grids that lie below units of another: cutting both would cut the same channels twice."""
    inner = np.zeros(found.count, dtype=bool)
    for grid in grids:
        if found.levels[grid].any():
            inner[_below(found, grid.ravel())] = True
    return tuple(grid for grid in grids if not inner[grid].any())


def _below(found: Units, units: np.ndarray) -> np.ndarray:
    """Return the children of some units, their children, and so on."""
    rows = found.rows
    above = np.zeros(found.count, dtype=bool)
    above[units] = True
    reached = np.zeros(found.count, dtype=bool)
    while True:
        new = rows.child[above[rows.parent[rows.row]] & ~reached[rows.child]]
        if not len(new):
            return np.flatnonzero(reached)
        reached[new] = above[new] = True


def _rest(found: Units, bundle: Bundle, used: np.ndarray, scores: np.ndarray) -> list[Menu]:
    """Offer the units of the groups that no grid holds."""
    result = []
    for g in bundle.groups:
        rest = np.setdiff1d(found.groups[g].units, used)
        rest = rest[~found.pinned[rest]]
        if len(rest):
            result.append(_menu(found, list(rest[:, None]), scores, rest))
    return result


def _crossing(found: Units, bundle: Bundle, grids: list[list[np.ndarray]], scores: np.ndarray) -> list[Menu]:
    """Rows of several grids cross: take the same share from all groups, evenly from all rows."""
    pool = np.unique(np.concatenate([r for rows in grids for r in rows]))
    pool = pool[~found.pinned[pool]]
    place = np.full(found.count, -1)
    place[pool] = np.arange(len(pool))
    rows = [[place[row][place[row] >= 0] for row in grid] for grid in grids]
    atoms = _shared_out(found, list(pool[:, None]), scores, rows, _shuffles(bundle.grids, place))
    return [_menu(found, atoms, scores, pool, ordered=True)] if atoms else []


def _shuffles(grids: Sequence[np.ndarray], place: np.ndarray) -> list[Shuffle]:
    """Find the grids whose transpose is another grid's content, read row by row."""
    found = []
    for grid in grids:
        for other in grids:
            if other.shape == grid.T.shape or not np.array_equal(grid.T.ravel(), other.ravel()):
                continue
            cells = [[place[np.intersect1d(row, block)] for block in other] for row in grid]
            if all((atoms >= 0).all() for row in cells for atoms in row):
                found.append(Shuffle(cells, grid.shape[1]))
    return found


def _shared_out(
    found: Units,
    atoms: list[np.ndarray],
    scores: np.ndarray,
    rows: Sequence[Sequence[np.ndarray]] = (),
    shuffles: Sequence[Shuffle] = (),
) -> list[np.ndarray]:
    """Gather atoms into steps that take about the same share from every group."""
    flat = np.concatenate(atoms)
    of = np.repeat(np.arange(len(atoms)), [len(a) for a in atoms])
    groups, column = np.unique(found.group_of_units[flat], return_inverse=True)
    taken = np.zeros((len(atoms), len(groups)), np.int64)
    np.add.at(taken, (of, column), 1)
    widths = np.asarray([len(found.groups[g].units) if g >= 0 else len(flat) for g in groups])
    puzzle = Puzzle(taken, widths, np.bincount(of, weights=scores[flat]), rows, shuffles)
    return [np.concatenate([atoms[i] for i in step]) for step in increments(puzzle)]


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


def _columns(found: Units, bundle: Bundle, scores: np.ndarray) -> list[Menu]:
    """Tie the columns of all grids together."""
    pairs = [(np.repeat(grid[:1], len(grid), axis=0).ravel(), grid.ravel()) for grid in bundle.grids]
    return _tied(found, bundle.groups, pairs, scores)


def _tied(
    found: Units,
    groups: Sequence[int],
    pairs: list[tuple[np.ndarray, np.ndarray]],
    scores: np.ndarray,
) -> list[Menu]:
    """Offer classes of units that go together under these pairs, closed over parents."""
    if not groups:
        return []
    atoms = _classes(found, groups, pairs)
    while more := _closing_pairs(found, atoms):
        pairs, before = [*pairs, *more], len(atoms)
        atoms = _classes(found, groups, pairs)
        if len(atoms) == before:
            break
    _, kind = components(len(found.groups), [_chain(found.group_of_units[p]) for p in atoms])
    result = []
    for number in sorted({int(kind[g]) for g in groups}):
        mine = tuple(g for g in groups if kind[g] == number)
        chosen = [a for a in atoms if kind[found.group_of_units[a[0]]] == number]
        if chosen:
            pool = np.concatenate([found.groups[g].units for g in mine])
            uneven = len(mine) > 1 and len({len(a) for a in chosen}) > 1
            steps = _shared_out(found, chosen, scores) if uneven else chosen
            result.append(_menu(found, steps, scores, pool, ordered=uneven))
    return result


def _classes(
    found: Units, groups: Sequence[int], pairs: list[tuple[np.ndarray, np.ndarray]]
) -> list[np.ndarray]:
    _, classes = components(found.count, pairs)
    units = np.concatenate([found.groups[g].units for g in groups])
    frozen = set(np.unique(classes[found.pinned]).tolist())
    own = classes[units]
    order = np.argsort(own, kind="stable")
    pieces = np.split(units[order], np.flatnonzero(np.diff(own[order])) + 1)
    return [p for p in pieces if int(classes[p[0]]) not in frozen]


def _closing_pairs(found: Units, atoms: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Tie each atom to the units outside it that its death alone would kill, pinned ones included."""
    if not len(found.rows.parent):
        return []
    pairs = []
    for atom in atoms:
        dead = np.zeros(found.count, dtype=bool)
        dead[atom] = True
        closed = found.rows.close(dead)
        grouped = (found.group_of_units >= 0) & (found.levels == 0)
        outside = np.flatnonzero(closed & ~dead & (grouped | found.pinned))
        if len(outside):
            pairs.append((np.repeat(atom[:1], len(outside)), outside))
    return pairs


def _columnar(found: Units, grids: Sequence[np.ndarray]) -> np.ndarray:
    """Tell which parents have one child in every row of a grid: those of a column, such as rotary tables."""
    rows = found.rows
    result = np.zeros(len(rows.parent), dtype=bool)
    for grid in grids:
        units, first = np.unique(grid, return_index=True)
        place = np.full(found.count, -1)
        place[units] = first
        lows, highs = [], []
        for part in (place // grid.shape[1], np.where(place < 0, -1, place % grid.shape[1])):
            low, high = np.full(len(result), found.count), np.full(len(result), -2)
            np.minimum.at(low, rows.row, part[rows.child])
            np.maximum.at(high, rows.row, part[rows.child])
            lows.append(low)
            highs.append(high)
        inside = (lows[0] >= 0) & (lows[1] >= 0)
        result |= inside & (lows[0] < highs[0]) & (lows[1] == highs[1])
    return result


def _whole_rows(found: Units, bundle: Bundle, scores: np.ndarray) -> list[Menu]:
    """Tie every row of a grid, and the children of one parent: heads, convolution groups."""
    pairs = [(np.repeat(grid[:, :1], grid.shape[1], axis=1).ravel(), grid.ravel()) for grid in bundle.grids]
    rows = found.rows
    mask = np.zeros(found.count, dtype=bool)
    for g in (*bundle.groups, *bundle.parents):
        mask[found.groups[g].units] = True
    own = mask[rows.child] & ~_columnar(found, bundle.grids)[rows.row]
    pairs.append((rows.parent[rows.row[own]], rows.child[own]))
    return _tied(found, bundle.groups, pairs, scores)
