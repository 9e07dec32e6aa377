"""What a removal saves: amounts such as MACs, parameters and bytes, as products of the widths of blocks.

A Conv's MACs are the product of two groups' widths, so prices change with every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
from scipy.sparse import csr_array

from onnxprune.analysis.units import Units
from onnxprune.planning.allocate import RemovalSequence
from onnxprune.planning.target import FACTORS, CostTerms, Term, amount_of

STANDARD = ("macs", "params", "size")  # always priced: who shares work or tensors has a part in a step


class CostModel:
    """Current amounts of a graph and what each offer's next step would save.

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
        self._counts = self._multiplicities()
        self._pack(terms)

    def _multiplicities(self) -> csr_array:
        rows, cols = [], []
        for number, block in self._blocks.values():
            rows.append(np.full(block.labels.size, number))
            cols.append(self._found.of[block.labels].ravel())
        shape = (len(self.size), self._found.count)
        if not rows:
            return csr_array(shape)
        row, col = np.concatenate(rows), np.concatenate(cols)
        return csr_array((np.ones(len(row)), (row, col)), shape=shape)

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
        return self._summed(self.kind, self._values(np.arange(len(self.base)), self.alive))

    def _summed(self, kind: np.ndarray, values: np.ndarray) -> dict[str, float]:
        sums = np.bincount(kind, weights=values, minlength=len(self.keys))
        return dict(zip(self.keys, sums.tolist(), strict=True))

    def _values(self, terms: np.ndarray, alive: np.ndarray) -> np.ndarray:
        share = np.maximum(alive, 0.0) / self.size
        parts = share[self.factor[terms]]
        parts = np.where(self.sign[terms] < 0, 1.0 / np.maximum(parts, 1e-12), parts)
        return self.base[terms] * parts.prod(axis=1)

    def effect(self, units: np.ndarray) -> np.ndarray:
        """Return how many labels of each block these units hold."""
        mark = np.zeros(self._found.count)
        mark[units] = 1.0
        return self._counts @ mark

    def touched(self, effect: np.ndarray) -> np.ndarray:
        """Return the terms that an effect changes."""
        return np.flatnonzero((effect[self.factor] > 0).any(axis=1))

    def saving(self, effect: np.ndarray, terms: np.ndarray) -> Mapping[str, float]:
        """Return what removing this effect saves now."""
        saved = self._values(terms, self.alive) - self._values(terms, self.alive - effect)
        return self._summed(self.kind[terms], saved)

    def remove(self, effect: np.ndarray) -> None:
        """Carry an effect out; a negative one is taken back."""
        self.alive = self.alive - effect


class SequenceCosts:
    """The prices as the allocator sees them: one number per offer and step."""

    def __init__(
        self, prices: CostModel, sequences: Sequence[RemovalSequence], depths: Sequence[np.ndarray]
    ) -> None:
        self.prices = prices
        self.effects: list[list[np.ndarray]] = []
        self.terms: list[np.ndarray] = []
        for sequence, depth in zip(sequences, depths, strict=True):
            steps = [prices.effect(np.concatenate(sequence.atoms[lo:hi])) for lo, hi in pairwise(depth)]
            self.effects.append(steps)
            total = np.sum(steps, axis=0) if steps else np.zeros(len(prices.size))
            self.terms.append(prices.touched(total))

    def quantities(self) -> Mapping[str, float]:
        """Return the quantities as they stand."""
        return self.prices.quantities()

    def saving(self, sequence: int, step: int) -> Mapping[str, float]:
        """Return what this step of an offer would save now."""
        return self.prices.saving(self.effects[sequence][step], self.terms[sequence])

    def take(self, sequence: int, step: int, sign: int = 1) -> list[int]:
        """Carry out (or with -1 take back) a step; return the offers whose prices it changes."""
        self.prices.remove(sign * self.effects[sequence][step])
        own = set(self.terms[sequence].tolist())
        return [i for i, terms in enumerate(self.terms) if own & set(terms.tolist())]
