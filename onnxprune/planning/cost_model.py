"""What a removal saves: MACs, parameters and bytes as products of the widths of blocks.

A Conv's MACs are the product of two groups' widths, so prices change with every step. A term is a
node's MACs or a tensor's elements; it holds a base value times the living share of each block that
it varies with, and divided by that of the rows which two blocks share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from scipy.sparse import csr_array

from onnxprune.analysis.axes import Block
from onnxprune.analysis.cost import product
from onnxprune.analysis.units import Units
from onnxprune.planning.allocate import RemovalSequence
from onnxprune.rules.signature import Pinned

FACTORS = 6


class CostModel:
    """Current quantities of a graph and what each offer's next step would save."""

    def __init__(self, units: Units, overhead: int) -> None:
        self._blocks: dict[bytes, tuple[int, Block]] = {}
        self._terms: dict[str, list[tuple[float, list[tuple[int, int]]]]] = {
            "macs": [],
            "params": [],
            "size": [],
        }
        self._found = units
        self._collect(overhead)
        sizes = [1.0] + [float(b.labels.size) for _, b in self._blocks.values()]
        self.size = np.asarray(sizes)
        self.alive = self.size.copy()
        self._counts = self._multiplicities()
        self._pack()

    def _collect(self, overhead: int) -> None:
        traced = self._found.traced
        for step in traced.steps:
            if step.met is None:
                if isinstance(step.verdict, Pinned) and step.verdict.macs:
                    self._terms["macs"].append((float(step.verdict.macs), []))
                continue
            for subscripts in step.met.signature.products:
                count = float(product(subscripts, step.met.sizes))
                self._terms["macs"].append((count, self._factors(step.met.clusters, set(subscripts))))
        self._parameters(overhead)

    def _parameters(self, overhead: int) -> None:
        traced = self._found.traced
        # A vector whose uses keep different channels is copied: every such use counts.
        by_name: dict[str, list[list[tuple[int, int]]]] = {}
        for step in traced.steps:
            for slot in step.met.slots if step.met is not None else ():
                if slot.stored.is_parameter:
                    subscripts = {x for axis in slot.axes for x in axis}
                    clusters = step.met.clusters if step.met is not None else ()
                    factors, known = (
                        self._factors(clusters, subscripts),
                        by_name.setdefault(slot.stored.name, []),
                    )
                    if factors not in known:
                        known.append(factors)
        for name, labelled in traced.shared.items():
            by_name[name] = [
                [(self._block(Block((f"a{f.axes[0]}",), f.labels)), 1) for f in labelled.factors]
            ]
        for name, stored in traced.network.stored.items():
            count = float(np.prod(stored.shape, dtype=np.int64))
            for factors in by_name.get(name) or [[]]:
                if stored.is_parameter:
                    self._terms["params"].append((count, factors))
                self._terms["size"].append((count * stored.itemsize, factors))
        for stored in traced.network.inner:
            count = float(np.prod(stored.shape, dtype=np.int64))
            self._terms["params"].append((count if stored.is_parameter else 0.0, []))
            self._terms["size"].append((count * stored.itemsize, []))
        self._terms["size"].append((float(overhead), []))

    def _factors(self, clusters: Sequence, subscripts: set[str]) -> list[tuple[int, int]]:
        factors = []
        for cluster in clusters:
            seen: set[str] = set()
            for top in cluster.tops:
                own = set(top.subscripts) & subscripts
                if not own:
                    continue
                block = top if own == set(top.subscripts) else self._parent(cluster, own)
                if block is not None:
                    factors.append((self._block(block), 1))
                common = own & seen
                shared = self._parent(cluster, common) if common else None
                if shared is not None:
                    factors.append((self._block(shared), -1))
                seen |= own
        return factors[:FACTORS]

    def _parent(self, cluster: object, subscripts: set[str]) -> Block | None:
        return next((b for b in cluster.parents if set(b.subscripts) == subscripts), None)  # type: ignore[attr-defined]

    def _block(self, block: Block) -> int:
        key = self._found.of[block.labels].tobytes()
        if key not in self._blocks:
            self._blocks[key] = (len(self._blocks) + 1, block)
        return self._blocks[key][0]

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

    def _pack(self) -> None:
        self.keys = tuple(self._terms)
        rows = [(k, base, factors) for k, key in enumerate(self.keys) for base, factors in self._terms[key]]
        self.kind = np.asarray([r[0] for r in rows])
        self.base = np.asarray([r[1] for r in rows])
        self.factor = np.zeros((len(rows), FACTORS), np.int64)
        self.sign = np.ones((len(rows), FACTORS))
        for i, (_, _, factors) in enumerate(rows):
            for j, (block, sign) in enumerate(factors):
                self.factor[i, j], self.sign[i, j] = block, sign

    def quantities(self) -> dict[str, float]:
        """Return MACs, parameters and bytes as they stand."""
        values = self._values(np.arange(len(self.base)), self.alive)
        return dict(zip(self.keys, np.bincount(self.kind, weights=values, minlength=3).tolist(), strict=True))

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
        return dict(
            zip(self.keys, np.bincount(self.kind[terms], weights=saved, minlength=3).tolist(), strict=True)
        )

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
