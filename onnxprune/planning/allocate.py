"""How many channels go from where, by ratio, and what a step costs. Arrays in, removals out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

NARROW = 4  # onnxruntime's CPU kernels: widths that are no multiple fall back to slower ones


@dataclass(frozen=True)
class RemovalSequence:
    """One sequence of removals, cheapest first: unit sets, their costs, and the widths they act on.

    widths: channels of each group it touches; taken: [atoms, groups] channels that each atom takes.
    """

    atoms: tuple[np.ndarray, ...]
    costs: np.ndarray
    groups: tuple[int, ...]
    widths: np.ndarray
    taken: np.ndarray

    def depths(self, step: int, least: int) -> np.ndarray:
        """List how many atoms may go so that every group keeps an allowed width of at least `least`."""
        gone = np.vstack([np.zeros((1, len(self.groups)), np.int64), np.cumsum(self.taken, axis=0)])
        kept = self.widths - gone
        good = (kept >= np.minimum(least, self.widths)).all(axis=1) & (kept >= 1).all(axis=1)
        main = int(np.argmax(self.widths))
        fits = np.isin(kept[:, main], allowed_widths(int(self.widths[main]), step))
        fits[0] = True
        return np.flatnonzero(good & fits)

    def fitting(self, ratios: np.ndarray) -> tuple[RemovalSequence, int]:
        """Put first the atoms that go when each group loses at most floor(ratio * width).

        Returns the offer in that order and the number of these atoms; an atom too large is skipped.
        """
        room = np.floor(ratios * self.widths + 1e-9).astype(np.int64).tolist()
        chosen, rest = [], []
        for i, taken in enumerate(self.taken.tolist()):
            if all(t <= r for t, r in zip(taken, room, strict=True)):
                room = [r - t for t, r in zip(taken, room, strict=True)]
                chosen.append(i)
            else:
                rest.append(i)
        order = chosen + rest
        atoms = tuple(self.atoms[i] for i in order)
        return RemovalSequence(atoms, self.costs[order], self.groups, self.widths, self.taken[order]), len(
            chosen
        )


def by_ratio(
    sequences: Sequence[RemovalSequence], ratios: Mapping[int, float], step: int, least: int
) -> tuple[list[RemovalSequence], list[int]]:
    """Choose for each offer the depth nearest to its groups' ratios among the allowed ones.

    ratios: by group. Ties keep more. Returns the offers, reordered where atoms were skipped.
    """
    ordered, chosen = [], []
    for sequence in sequences:
        fitted, wanted = sequence.fitting(np.asarray([ratios.get(g, 0.0) for g in sequence.groups]))
        depths = fitted.depths(step, least)
        ordered.append(fitted)
        chosen.append(int(depths[np.argmin(np.abs(depths - wanted))]) if wanted else 0)
    return ordered, chosen


def ranked(sequences: Sequence[RemovalSequence], ratio: float, step: int, least: int) -> list[int]:
    """Rank all channels together and remove the cheapest until this share of them is gone."""
    total = sum(int(o.taken.sum()) + int((o.widths - o.taken.sum(axis=0)).sum()) for o in sequences)
    budget = ratio * total
    depths = [o.depths(step, least) for o in sequences]
    place, gone = [0] * len(sequences), 0
    while True:
        best, price = -1, np.inf
        for i, sequence in enumerate(sequences):
            if place[i] + 1 < len(depths[i]):
                lo, hi = depths[i][place[i]], depths[i][place[i] + 1]
                size = int(sequence.taken[lo:hi].sum())
                cost = float(sequence.costs[lo:hi].sum()) / max(size, 1)
                if cost < price and gone + size <= budget + 1e-9:
                    best, price = i, cost
        if best < 0:
            return [int(d[p]) for d, p in zip(depths, place, strict=True)]
        lo, hi = depths[best][place[best]], depths[best][place[best] + 1]
        gone += int(sequences[best].taken[lo:hi].sum())
        place[best] += 1


Loss: TypeAlias = Callable[[RemovalSequence, int, int], float]


def measured_loss(sequence: RemovalSequence, low: int, high: int) -> float:
    """Return what a step adds to the error, where costs are errors measured on data."""
    return float(sequence.costs[low:high].sum()) + 1e-12


def norm_loss(sequence: RemovalSequence, low: int, high: int) -> float:
    """Return how much a step costs a group, where costs are norms: the growth of the squared log of its loss.

    The square spreads a removal over many groups; the logarithm makes the last channels dear.
    """
    total = float(sequence.costs.sum()) * float(sequence.widths.sum()) / max(float(sequence.taken.sum()), 1.0)
    total = max(total, 1e-12)
    before = np.log(max(1 - float(sequence.costs[:low].sum()) / total, 1e-12))
    after = np.log(max(1 - float(sequence.costs[:high].sum()) / total, 1e-12))
    return float(after**2 - before**2) + 1e-12


def allowed_widths(width: int, step: int) -> np.ndarray:
    """List the widths a group of this width may have: its own, and multiples of the step below it.

    A width off the step costs what the next step costs, or more. Groups narrower than a step go by
    multiples of 4; below 8 channels there is nothing to align. (MobileNetV2 at half of the MACs, AVX-512:
    its 16-wide group cut to 12 or 8 makes the whole model 15 % slower than leaving it at 16.)
    """
    if step <= 1 or width < 2 * NARROW:
        return np.arange(1, width + 1)
    unit = step if width >= step else min(NARROW, step)
    return np.unique(np.append(np.arange(unit, width + 1, unit), width))
