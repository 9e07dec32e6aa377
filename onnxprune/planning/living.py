"""Which units live while steps are tried: what a removal takes along, found row by row.

`Rows.close` says what a removal comes to; this says the same of one step more, for the work of that step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.analysis.units import Units, components


@dataclass(frozen=True)
class Links:
    """From one kind of numbers to another: the targets of number i are `to[start[i]:start[i + 1]]`."""

    start: np.ndarray
    to: np.ndarray

    @staticmethod
    def of(source: np.ndarray, to: np.ndarray, count: int) -> Links:
        """Link each source, a number below `count`, to what stands at its place in `to`."""
        order = np.argsort(source, kind="stable")
        start = np.concatenate([[0], np.cumsum(np.bincount(source, minlength=count))])
        return Links(start.astype(np.int64), to[order])

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        """Return the targets of all these numbers."""
        low = self.start[numbers]
        lengths = self.start[numbers + 1] - low
        total = int(lengths.sum())
        if not total:
            return np.zeros(0, np.int64)
        return self.to[np.repeat(low - np.cumsum(lengths) + lengths, lengths) + np.arange(total)]


class LivingUnits:
    """Units that die by steps; each step takes along parents whose rows empty, and children of the dead.

    clusters: by unit, the number of its cluster: units of two clusters never take each other along.
    """

    def __init__(self, units: Units) -> None:
        rows, guards = units.rows, units.guards
        self._parents, self._pinned = rows.parent, units.pinned
        sizes = [len(guard) for guard in guards]
        owner = np.concatenate([rows.row, len(rows.parent) + np.repeat(np.arange(len(guards)), sizes)])
        member = np.concatenate([rows.child, *guards])
        self._owners = Links.of(member, owner, units.count)
        self._children = Links.of(rows.parent[rows.row], rows.child, units.count)
        self._whole = np.bincount(owner, minlength=len(rows.parent) + len(guards))
        self.clusters = linked_by_rows(units)
        self.dead = np.zeros(units.count, dtype=bool)
        self._living = self._whole.copy()

    def reset(self) -> None:
        """Let all units live."""
        self.dead[:] = False
        self._living[:] = self._whole

    def kill(self, indices: np.ndarray) -> tuple[np.ndarray, bool]:
        """Remove units with all that goes along.

        Returns the units that died of it, and whether this may be: no pinned unit died and no axis is empty.
        """
        fits, died = True, []
        new = np.unique(indices[~self.dead[indices]])
        while len(new):
            died.append(new)
            self.dead[new] = True
            owners = self._owners[new]
            np.subtract.at(self._living, owners, 1)
            empty = np.unique(owners[self._living[owners] == 0])
            orphaned = empty[empty < len(self._parents)]
            fits = fits and len(orphaned) == len(empty) and not self._pinned[new].any()
            new = np.unique(np.concatenate([self._parents[orphaned], self._children[new]]))
            new = new[~self.dead[new]]
        return (np.concatenate(died) if died else np.zeros(0, np.int64)), fits

    def revive(self, died: np.ndarray) -> None:
        """Undo the last `kill`: what died of it lives again."""
        self.dead[died] = False
        np.add.at(self._living, self._owners[died], 1)


def linked_by_rows(units: Units) -> np.ndarray:
    """Number the units so that those of one number may take each other along, and no others."""
    rows = units.rows
    return components(units.count, [(rows.parent[rows.row], rows.child)])[1]
