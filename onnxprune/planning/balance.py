"""Removals that take the same share from several groups at once, where their constraints cross.

An integer program (scipy's HiGHS) per level: as much as fits into every group's share, as many
units from every row of a grid as from its other rows, and of all such sets the least important.
The program is bounded by work, never by time, so that a slow machine chooses what a fast one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVELS = 16
# What models ask for is solved at the first node; further ones refine what barely differs.
MOST_NODES = 100
MOST_ENTRIES = 50_000  # of the matrix: some 5 s of one core a level
MOST_WORK = 200_000  # entries over all levels: large problems are solved at fewer


@dataclass(frozen=True)
class Shuffle:
    """A grid whose transpose is cut into blocks: a channel shuffle in front of a grouped operator.

    What stays of a block must come from the block. The i-th unit that row r of `rows` keeps arrives at
    place rows * i + r, so how many units a row and a block share follows from how many a row keeps.
    cells: [rows][blocks] the atoms in both; columns: units in a row.
    """

    cells: Sequence[Sequence[np.ndarray]]
    columns: int

    def removed(self, level: float) -> list[tuple[np.ndarray, int]] | None:
        """Return how many units go from each cell at a share of removal; None where none fits."""
        rows, blocks = len(self.cells), len(self.cells[0])
        keep = max(self.columns - int(np.floor(self.columns * level + 1e-9)), 1)
        if rows * keep % blocks:
            return None
        place = np.arange(keep)[None, :] * rows + np.arange(rows)[:, None]
        block = place // (rows * keep // blocks)
        counts = [np.bincount(row, minlength=blocks) for row in block]
        found = [
            (self.cells[r][b], len(self.cells[r][b]) - int(counts[r][b]))
            for r in range(rows)
            for b in range(blocks)
        ]
        return None if any(gone < 0 for _, gone in found) else found


@dataclass(frozen=True)
class BalanceProblem:
    """Atoms to choose from, and what binds them.

    taken: [atoms, groups] units that an atom takes from each group; widths: [groups]; costs: [atoms];
    rows: for every grid, for every row, the atoms with one unit in it; shuffles: see there.
    """

    taken: np.ndarray
    widths: np.ndarray
    costs: np.ndarray
    rows: Sequence[Sequence[np.ndarray]] = ()
    shuffles: Sequence[Shuffle] = ()

    @property
    def entries(self) -> int:
        """Return how many numbers the matrix of the integer program holds."""
        even = sum(len(row) + 1 for grid in self.rows for row in grid)
        exact = sum(len(own) for shuffle in self.shuffles for row in shuffle.cells for own in row)
        return int(np.count_nonzero(self.taken)) + even + exact


def nested_removals(problem: BalanceProblem) -> list[np.ndarray] | None:
    """Return the atoms that each further share of the groups takes, as a nested sequence.

    Levels are solved from the middle, each between its neighbours, so that one half is reached where
    it can be at all. Returns None for a problem that is too large; a large one has fewer levels.
    """
    if problem.entries > MOST_ENTRIES:
        return None
    count = len(problem.costs)
    levels = int(min(LEVELS, problem.widths.max(initial=1), max(MOST_WORK // max(problem.entries, 1), 2)))
    solved: dict[int, np.ndarray] = {}
    _between(problem, levels, (0, levels + 1), (np.zeros(count, bool), np.ones(count, bool)), solved)
    steps, before = [], np.zeros(count, dtype=bool)
    for level in sorted(solved):
        if (solved[level] & ~before).any():
            steps.append(np.flatnonzero(solved[level] & ~before))
            before = solved[level]
    return steps


def _between(
    problem: BalanceProblem,
    levels: int,
    span: tuple[int, int],
    sets: tuple[np.ndarray, np.ndarray],
    solved: dict[int, np.ndarray],
) -> None:
    """Solve the levels inside a span, within the sets that its ends remove."""
    low, high = span
    if high - low < 2:
        return
    middle = (low + high) // 2
    found = _at_level(problem, middle, levels, sets)
    if found is None:
        _between(problem, levels, (low, middle), sets, solved)
        below = [level for level in solved if low < level < middle]
        lower = solved[max(below)] if below else sets[0]
        _between(problem, levels, (middle, high), (lower, sets[1]), solved)
        return
    solved[middle] = found
    _between(problem, levels, (low, middle), (sets[0], found), solved)
    _between(problem, levels, (middle, high), (found, sets[1]), solved)


def _at_level(
    problem: BalanceProblem, level: int, levels: int, sets: tuple[np.ndarray, np.ndarray]
) -> np.ndarray | None:
    cells = [shuffle.removed(level / levels) for shuffle in problem.shuffles]
    if any(c is None for c in cells):
        return None
    room = np.minimum(np.floor(problem.widths * level / levels + 1e-9), problem.widths - 1)
    return _solve(problem, room, sets, [cell for c in cells if c is not None for cell in c])


def _solve(
    problem: BalanceProblem,
    room: np.ndarray,
    sets: tuple[np.ndarray, np.ndarray],
    cells: Sequence[tuple[np.ndarray, int]],
) -> np.ndarray | None:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array, hstack, vstack

    atoms, grids = len(problem.costs), len(problem.rows)
    even, low = _even_rows(problem)
    sizes = problem.taken.sum(axis=1)
    # Half a unit in all: importance decides between sets of one size, never the size itself.
    tilt = (problem.costs + 1e-9 * np.arange(atoms)) / (2 * (problem.costs.sum() + 1e-9 * atoms**2) + 1e-12)
    rooms = hstack([csr_array(problem.taken.T.astype(float)), csr_array((len(room), grids))])
    exact = np.asarray([gone for _, gone in cells], dtype=float)
    where = csr_array(
        (
            np.ones(sum(len(own) for own, _ in cells)),
            (
                np.repeat(np.arange(len(cells)), [len(own) for own, _ in cells]),
                np.concatenate([own for own, _ in cells]) if cells else np.zeros(0, np.int64),
            ),
        ),
        shape=(len(cells), atoms + grids),
    )
    matrix = vstack([block for block in (rooms, even, where) if block.shape[0]])
    lower = np.concatenate([np.zeros(len(room)), low, exact])
    upper = np.concatenate([room, np.zeros(even.shape[0]), exact])
    result = milp(
        np.concatenate([tilt - sizes, np.zeros(grids)]),
        constraints=LinearConstraint(csr_array(matrix), lower, upper),
        bounds=Bounds(np.concatenate([sets[0].astype(float), np.zeros(grids)]), _upper(problem, sets[1])),
        integrality=np.ones(atoms + grids),
        options={"node_limit": MOST_NODES},
    )
    return None if result.x is None else np.round(result.x[:atoms]).astype(bool)


def _upper(problem: BalanceProblem, most_atoms: np.ndarray) -> np.ndarray:
    most = [min((len(row) for row in grid), default=1) - 1 for grid in problem.rows]
    return np.concatenate([most_atoms.astype(float), np.asarray(most, dtype=float)])


def _even_rows(problem: BalanceProblem) -> tuple[Any, np.ndarray]:
    """Write `units removed of a row = count of its grid` for every row."""
    from scipy.sparse import csr_array

    atoms = len(problem.costs)
    rows, cols, data, count = [], [], [], 0
    for number, grid in enumerate(problem.rows):
        for own in grid:
            rows += [count] * (len(own) + 1)
            cols += [*own.tolist(), atoms + number]
            data += [1.0] * len(own) + [-1.0]
            count += 1
    matrix = csr_array((data, (rows, cols)), shape=(count, atoms + len(problem.rows)))
    return matrix, np.zeros(count)
