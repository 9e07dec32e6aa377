"""A graph as products of widths, for targets that price it.

A term is a node's work or a tensor's elements; it holds a base value times the living share of each block
that it varies with, and divided by that of the rows which two blocks share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TypeAlias

from onnxprune.analysis.axes import Block
from onnxprune.analysis.records import Cluster
from onnxprune.analysis.trace import Step, Trace
from onnxprune.analysis.units import Units
from onnxprune.model.graph import Stored

FACTORS = 6  # of a term

Factors: TypeAlias = list[tuple[int, int]]  # a block's number; 1: times its share, -1: divided by it
Term: TypeAlias = tuple[float, Factors]


class CostTerms:
    """Tells of nodes and tensors with which blocks of labels they shrink; blocks are numbered as they come.

    overhead: bytes of the file beside its tensors.
    """

    def __init__(self, units: Units, overhead: int) -> None:
        self.units, self.overhead = units, overhead
        self.blocks: dict[bytes, tuple[int, Block]] = {}

    @property
    def traced(self) -> Trace:
        """Return the trace: its steps, and the subscripts and sizes that each met."""
        return self.units.traced

    def factors(self, step: Step, subscripts: Iterable[str]) -> Factors:
        """Return the blocks with which a product over some subscripts of a node shrinks."""
        return [] if step.met is None else self._factors(step.met.clusters, set(subscripts))

    @cached_property
    def tensors(self) -> tuple[tuple[Stored, Factors], ...]:
        """Return the stored tensors; one whose uses keep different channels is copied, so each use counts."""
        return tuple(self._tensors())

    def _tensors(self) -> Iterator[tuple[Stored, Factors]]:
        traced = self.traced
        by_name: dict[str, list[Factors]] = {}
        for step in traced.steps:
            for slot in step.met.slots if step.met is not None else ():
                if slot.stored.is_parameter:
                    factors = self.factors(step, (x for axis in slot.axes for x in axis))
                    known = by_name.setdefault(slot.stored.name, [])
                    if factors not in known:
                        known.append(factors)
        for name, labelled in traced.shared.items():
            by_name[name] = [
                [(self._block(Block((f"a{f.axes[0]}",), f.labels)), 1) for f in labelled.factors]
            ]
        for name, stored in traced.network.stored.items():
            yield from ((stored, factors) for factors in by_name.get(name) or [[]])
        yield from ((stored, []) for stored in traced.network.inner)

    def _factors(self, clusters: Sequence[Cluster], subscripts: set[str]) -> Factors:
        factors: Factors = []
        for cluster in clusters:
            seen: set[str] = set()
            for top in cluster.tops:
                own = set(top.subscripts) & subscripts
                if not own:
                    continue
                block = top if own == set(top.subscripts) else _parent(cluster, own)
                if block is not None:
                    factors.append((self._block(block), 1))
                common = own & seen
                shared = _parent(cluster, common) if common else None
                if shared is not None:
                    factors.append((self._block(shared), -1))
                seen |= own
        return factors[:FACTORS]

    def _block(self, block: Block) -> int:
        key = self.units.of[block.labels].tobytes()
        if key not in self.blocks:
            self.blocks[key] = (len(self.blocks) + 1, block)
        return self.blocks[key][0]


def _parent(cluster: Cluster, subscripts: set[str]) -> Block | None:
    return next((b for b in cluster.parents if set(b.subscripts) == subscripts), None)
