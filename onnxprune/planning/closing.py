"""What classes of units take along when one of them goes by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.analysis.units import Units
from onnxprune.planning.living import Links


def taken_along(units: Units, classes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """List the units outside of disjoint classes that the death of one class alone would kill.

    Returns the place of the class, and the unit; sorted. The work is that of what dies.
    """
    rows = units.rows
    owners = Links.of(rows.child, rows.row, units.count)
    children = Links.of(rows.parent[rows.row], rows.child, units.count)
    whole = np.bincount(rows.row, minlength=len(rows.parent))
    of = np.repeat(np.arange(len(classes)), [len(c) for c in classes])
    dead = _keyed(of, np.concatenate([*classes, np.zeros(0, np.int64)]).astype(np.int64), units.count)
    own, new = dead, dead
    emptied = np.zeros(0, np.int64)
    while len(new):
        keys, counts = _emptied(dead, owners, units.count, len(whole))
        full = keys[counts == whole[keys % max(len(whole), 1)]]
        fresh = np.setdiff1d(full, emptied, assume_unique=True)
        emptied = full
        up = _keyed(fresh // max(len(whole), 1), rows.parent[fresh % max(len(whole), 1)], units.count)
        down = _spread(new, children, units.count)
        new = np.setdiff1d(np.union1d(up, down), dead, assume_unique=True)
        dead = np.union1d(dead, new)
    more = np.setdiff1d(dead, own, assume_unique=True)
    return more // units.count, more % units.count


def _keyed(place: np.ndarray, number: np.ndarray, count: int) -> np.ndarray:
    return np.unique(place * count + number)


def _spread(keys: np.ndarray, links: Links, count: int) -> np.ndarray:
    place, unit = keys // count, keys % count
    lengths = links.start[unit + 1] - links.start[unit]
    return _keyed(np.repeat(place, lengths), links[unit], count)


def _emptied(dead: np.ndarray, owners: Links, count: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Count for each class and row how many entries of the row are dead."""
    place, unit = dead // count, dead % count
    lengths = owners.start[unit + 1] - owners.start[unit]
    return np.unique(np.repeat(place, lengths) * rows + owners[unit], return_counts=True)
