"""Which channels cost least: the optimal brain surgeon on Gram matrices, and cheaper criteria of data.

The loss of a consumer Y = X W when places of X are removed and the rest of W is refitted is known in
closed form (Hassibi and Stork 1993; Frantar and Alistarh 2022, arXiv:2208.11580, for whole channels: Kwon
et al. 2022). Arrays in, arrays out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

DAMPING = 0.01
ROUNDS = 192  # of removal for one group; a wide group loses several units in each
WIDE = 4096  # places above which correlations are left out


@dataclass(frozen=True)
class Reader:
    """One consumer of units: a weight that sums over their activations.

    gram, products: [places, places] of its activation and of its weights; units: [places], the unit of
    each, -1 for none; energy: of the whole consumer's output, to which losses are relative.
    """

    gram: np.ndarray
    products: np.ndarray
    units: np.ndarray
    energy: float

    @cached_property
    def inverse(self) -> np.ndarray | None:
        """Return the inverse of the Gram matrix, damped by 1 % of its mean diagonal; None if too wide."""
        size = len(self.gram)
        if size > WIDE:
            return None
        damping = DAMPING * max(float(self.gram.diagonal().mean()), 1e-30)
        return np.linalg.inv(self.gram + damping * np.eye(size))


def obs_losses(readers: Sequence[Reader], units: np.ndarray) -> np.ndarray:
    """Return the loss that each unit adds at its turn, when the cheapest goes first.

    units: [U] the units of the group. Returns [U]; their sum is the loss of removing all of them.
    """
    states = [_State(reader, units) for reader in readers if reader.inverse is not None]
    fixed = diagonal_losses([r for r in readers if r.inverse is None], units, weighted=True)
    alive = np.ones(len(units), dtype=bool)
    result = np.zeros(len(units))
    step = max(1, -(-len(units) // ROUNDS))
    floor = 0.0
    while alive.any():
        losses = fixed + np.sum([state.losses() for state in states], axis=0)
        left = np.flatnonzero(alive)  # a loss that is no number comes last, but among what is left
        chosen = left[np.argsort(losses[left], kind="stable")[:step]]
        for unit in chosen.tolist():
            # The next removal never costs less than the last: the greedy order is the order of the scores.
            floor = max(floor, float(losses[unit]))
            result[unit] = floor
            alive[unit] = False
        for state in states:
            state.remove(chosen)
    return result


class _State:
    """The inverse Gram and the correlation of the weights of one reader while units go."""

    def __init__(self, reader: Reader, units: np.ndarray) -> None:
        assert reader.inverse is not None
        size = len(reader.gram)
        self.inverse = reader.inverse.copy()
        self.products = reader.products.copy()
        self.total = max(reader.energy, 1e-30)
        rank = {int(u): i for i, u in enumerate(units.tolist())}
        self.rank = np.asarray([rank.get(int(u), -1) for u in reader.units.tolist()])
        self.count = len(units)
        self.gone = np.zeros(size, dtype=bool)
        self.multiple = bool((np.bincount(self.rank[self.rank >= 0], minlength=1) > 1).any())

    def losses(self) -> np.ndarray:
        """Return the loss of removing each unit now [U]."""
        own = np.flatnonzero((self.rank >= 0) & ~self.gone)
        if not self.multiple:
            single = self.products[own, own] / np.maximum(self.inverse[own, own], 1e-30)
            return np.bincount(self.rank[own], weights=single, minlength=self.count) / self.total
        found = np.zeros(self.count)
        for unit in np.unique(self.rank[own]).tolist():
            places = own[self.rank[own] == unit]
            block = self.inverse[np.ix_(places, places)]
            found[unit] = np.trace(np.linalg.solve(block, self.products[np.ix_(places, places)]))
        return found / self.total

    def remove(self, chosen: np.ndarray) -> None:
        """Take these units out and fold what they carried into the others."""
        places = np.flatnonzero(np.isin(self.rank, chosen) & ~self.gone)
        if not len(places):
            return
        block = self.inverse[np.ix_(places, places)]
        fold = np.linalg.solve(block, self.inverse[places]).T
        self.inverse -= fold @ self.inverse[places]
        crossed = fold @ self.products[places]
        self.products += -crossed - crossed.T + fold @ self.products[np.ix_(places, places)] @ fold.T
        self.gone[places] = True
        self.inverse[places] = 0.0
        self.inverse[:, places] = 0.0
        self.inverse[places, places] = 1.0
        self.products[places] = 0.0
        self.products[:, places] = 0.0


def diagonal_losses(readers: Sequence[Reader], units: np.ndarray, weighted: bool) -> np.ndarray:
    """Return the loss of each unit by itself, without correlations [U].

    weighted: energy of the activation times that of the weights (Sun et al. 2023, arXiv:2306.11695);
    otherwise the energy of the activation alone (Hu et al. 2016, arXiv:1607.03250).
    """
    result = np.zeros(len(units))
    rank = {int(u): i for i, u in enumerate(units.tolist())}
    for reader in readers:
        energy = reader.gram.diagonal().astype(np.float64)
        if weighted:
            energy = energy * reader.products.diagonal()
        own = np.asarray([rank.get(int(u), -1) for u in reader.units.tolist()])
        share = energy / max(float(energy.sum()), 1e-30)
        result += np.bincount(own[own >= 0], weights=share[own >= 0], minlength=len(units))
    return result
