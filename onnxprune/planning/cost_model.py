"""What a removal saves: amounts such as MACs, parameters and bytes, as products of the widths of blocks.

A Conv's MACs are the product of two groups' widths, so prices change with every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from onnxprune.analysis.units import Units
from onnxprune.planning.living import Links
from onnxprune.planning.target import FACTORS, CostTerms, Term, amount_of

STANDARD = ("macs", "params", "size")  # always priced: who shares work or tensors has a part in a step


class CostModel:
    """Current amounts of a graph, and what removals save.

    overhead: bytes of the file beside its tensors; more: targets to price beside the standard ones.
    """

    def __init__(self, units: Units, overhead: int, more: Iterable[str] = ()) -> None:
        self._found = units
        costs = CostTerms(units, overhead)
        self.keys = tuple(dict.fromkeys((*STANDARD, *more)))
        terms = [list(amount_of(key).terms(costs)) for key in self.keys]
        self._blocks = costs.blocks
        sizes = [1.0] + [float(b.labels.size) for _, b in self._blocks.values()]
        self.size = np.asarray(sizes)
        self.alive = self.size.copy()
        self._holders = self._blocks_of_units()
        self._pack(terms)

    def _blocks_of_units(self) -> Links:
        rows, cols = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for number, block in self._blocks.values():
            rows.append(np.full(block.labels.size, number))
            cols.append(self._found.of[block.labels].ravel())
        return Links.of(np.concatenate(cols), np.concatenate(rows), self._found.count)

    def _pack(self, terms: Sequence[Sequence[Term]]) -> None:
        rows = [(k, base, factors) for k, own in enumerate(terms) for base, factors in own]
        self.kind = np.asarray([r[0] for r in rows], np.int64)
        self.base = np.asarray([r[1] for r in rows], np.float64)
        self.factor = np.zeros((len(rows), FACTORS), np.int64)
        self.sign = np.ones((len(rows), FACTORS))
        for i, (_, _, factors) in enumerate(rows):
            for j, (block, sign) in enumerate(factors):
                self.factor[i, j], self.sign[i, j] = block, sign

    def quantities(self) -> dict[str, float]:
        """Return the amounts as they stand."""
        return dict(zip(self.keys, self.amounts().tolist(), strict=True))

    def amounts(self) -> np.ndarray:
        """Return the amounts as they stand, in the order of the keys."""
        return self._summed(self.kind, self._values(np.arange(len(self.base)), self.alive))

    def _summed(self, kind: np.ndarray, values: np.ndarray) -> np.ndarray:
        return np.bincount(kind, weights=values, minlength=len(self.keys))

    def _values(self, terms: np.ndarray, alive: np.ndarray) -> np.ndarray:
        share = np.maximum(alive, 0.0) / self.size
        parts = share[self.factor[terms]]
        parts = np.where(self.sign[terms] < 0, 1.0 / np.maximum(parts, 1e-12), parts)
        return self.base[terms] * parts.prod(axis=1)

    def effect(self, units: np.ndarray) -> np.ndarray:
        """Return how many labels of each block these units hold."""
        return np.bincount(self._holders[units], minlength=len(self.size)).astype(np.float64)

    def touched(self, effect: np.ndarray) -> np.ndarray:
        """Return the terms that an effect changes."""
        return np.flatnonzero((effect[self.factor] > 0).any(axis=1))

    def saving(self, effect: np.ndarray, terms: np.ndarray) -> np.ndarray:
        """Return what removing this effect saves now, in the order of the keys."""
        saved = self._values(terms, self.alive) - self._values(terms, self.alive - effect)
        return self._summed(self.kind[terms], saved)

    def remove(self, effect: np.ndarray) -> None:
        """Carry an effect out; a negative one is taken back."""
        self.alive = self.alive - effect

    def reset(self) -> None:
        """Take everything back."""
        self.alive = self.size.copy()
