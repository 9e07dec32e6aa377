"""What leaves a node of the trace: the labels of its outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np

from onnxprune.analysis.axes import Block, merged, without
from onnxprune.analysis.labels import Cluster, Factor, LabelConstraints, Labelled, OutFactor
from onnxprune.rules.signature import Axes, Signature, Site, Take


class Meeting(Protocol):
    """What the outputs need of the meeting of the inputs."""

    book: LabelConstraints
    site: Site
    signature: Signature
    sizes: dict[str, int]

    def pin(self, block: Block, operand: int, reason: str) -> None:
        """State that the labels of a block stay."""

    def restricted(self, cluster: Cluster, subscripts: set[str]) -> list[Block]:
        """Return what is left of a cluster over these subscripts."""


class OutputLabels:
    """Makes the labels of a node's outputs from the clusters of its inputs."""

    def __init__(self, met: Meeting, clusters: Sequence[Cluster]) -> None:
        self.met, self.clusters = met, clusters
        self.book, self.site, self.signature, self.sizes = met.book, met.site, met.signature, met.sizes

    def run(self) -> tuple[tuple[OutFactor, ...], tuple[Labelled, ...]]:
        """Return the factors of the outputs as records, and the labelled outputs."""
        outs = tuple(self._outs())
        return outs, tuple(self._output(i, outs) for i in range(len(self.site.outputs)))

    def _outs(self) -> Iterator[OutFactor]:
        for number, axes in enumerate(self.signature.outputs):
            if axes is None or self.site.outputs[number] is None:
                continue
            subscripts = {subscript for axis in axes for subscript in axis}
            found = list(self._plain_outs(number, axes, subscripts))
            found += list(self._taken_outs(number, axes, subscripts))
            found += list(self._created_outs(number, axes))
            yield from self._without_products(found)

    def _plain_outs(self, number: int, axes: Axes, subscripts: set[str]) -> Iterator[OutFactor]:
        sources = {source for take in self.signature.takes.values() for source in take.sources}
        for cluster in self.clusters:
            if not sources & {subscript for top in cluster.tops for subscript in top.subscripts}:
                for block in self._untangled(self.met.restricted(cluster, subscripts), axes):
                    yield self._place(number, axes, block, None)
                continue
            for top in cluster.tops:
                if not sources.intersection(top.subscripts):
                    self.met.pin(top, 0, "labels that vary on crossing axes meet")

    def _untangled(self, blocks: list[Block], axes: Axes) -> list[Block]:
        """Return blocks that share whole axes only; of those that do not all but the largest go by rows.

        Two heads of Q that read one head of V vary on (h r), V on (h e), and the output on (h r e).
        """
        if _crossing_cleanly(blocks, axes):
            return blocks
        largest = max(blocks, key=lambda block: block.labels.size)
        for block in blocks:
            for dim, subscript in enumerate(block.subscripts):
                if block is not largest and subscript not in largest.subscripts:
                    self.book.tie(block.labels.take([0], axis=dim), block.labels)
        return [largest]

    def _place(
        self, number: int, axes: Axes, block: Block, take: str | None, pieces: tuple[Block | None, ...] = ()
    ) -> OutFactor:
        places, _ = merged(block, axes, self.sizes)
        return OutFactor(number, places, block, take, pieces)

    def _taken_outs(self, number: int, axes: Axes, subscripts: set[str]) -> Iterator[OutFactor]:
        taken = [name for name in self.signature.takes if name in subscripts or self._belongs(name, number)]
        done: set[int] = set()
        for name in taken:
            take = self.signature.takes[name]
            if id(take) in done:
                continue
            done.add(id(take))
            pieces = [self._piece(source, subscripts) for source in take.sources]
            if all(piece is None for piece in pieces):
                continue
            block = self._assembled(name, take, pieces)
            if block is None:
                continue
            if self.sizes.get(name, 1) == 1 or name not in subscripts:
                block = without(block.labels, block.subscripts, [name])
                if not block.subscripts:
                    self.met.pin(
                        Block((name,), block.labels.reshape(1)), 0, "a single element of the axis is picked"
                    )
            yield self._place(number, axes, block, name, tuple(pieces))

    def _belongs(self, name: str, number: int) -> bool:
        return number == 0 and name not in self._shown

    @cached_property
    def _shown(self) -> set[str]:
        """Return the subscripts of all outputs."""
        return {subscript for axes in self.signature.outputs if axes for axis in axes for subscript in axis}

    def _piece(self, source: str, subscripts: set[str]) -> Block | None:
        for cluster in self.clusters:
            if any(source in top.subscripts for top in cluster.tops):
                blocks = self.met.restricted(cluster, subscripts | {source})
                return next((b for b in blocks if source in b.subscripts), None)
        return None

    def _assembled(self, name: str, take: Take, pieces: list[Block | None]) -> Block | None:
        """Concatenate the pieces along their source subscripts and pick by the index."""
        shared = next(
            tuple(x for x in p.subscripts if x != s)
            for p, s in zip(pieces, take.sources, strict=True)
            if p is not None
        )
        arrays = []
        for source, piece in zip(take.sources, pieces, strict=True):
            if piece is not None and set(piece.subscripts) == {*shared, source}:
                arrays.append(piece.arranged([*shared, source]))
                continue
            if piece is not None or shared:
                for p in pieces:
                    if p is not None:
                        self.met.pin(p, 0, "parts with different inner axes are joined")
                return None
            labels = self.book.fresh((self.sizes[source],), source)
            self.met.pin(
                Block((source,), labels), take.sources.index(source), "a part of the joined axis is fixed"
            )
            arrays.append(labels)
        whole = np.concatenate(arrays, axis=-1)
        if (take.index < 0).any():
            if shared:
                self.met.pin(Block((*shared, name), whole), 0, "elements are created along an inner axis")
                return None
            whole = np.append(whole, self.book.produce((int((take.index < 0).sum()),), name))
            index = take.index.copy()
            index[index < 0] = np.arange(len(whole) - int((take.index < 0).sum()), len(whole))
        else:
            index = take.index
        return Block((*shared, name), whole if _is_identity(index, whole.shape[-1]) else whole[..., index])

    def _created_outs(self, number: int, axes: Axes) -> Iterator[OutFactor]:
        for axis in axes:
            for subscript in axis:
                if subscript in self.signature.created:
                    block = Block(
                        (subscript,), self.book.produce((self.sizes[subscript],), f"{number}:{subscript}")
                    )
                    yield self._place(number, axes, block, None)

    def _without_products(self, found: list[OutFactor]) -> Iterator[OutFactor]:
        placed: list[OutFactor] = []
        for out in sorted(found, key=lambda o: -o.block.labels.size):
            sharing = [other.block for other in placed if set(other.axes) & set(out.axes)]
            if any(not set(block.subscripts) & set(out.block.subscripts) for block in sharing):
                self.met.pin(out.block, 0, "two independent labelled axes are merged into one")
                continue
            placed.append(out)
            yield out

    def _output(self, number: int, outs: Sequence[OutFactor]) -> Labelled:
        shape = self.site.outputs[number]
        axes = self.signature.outputs[number] if number < len(self.signature.outputs) else None
        if axes is None or shape is None:
            return Labelled(shape or ())
        factors = []
        for out in outs:
            if out.output == number and out.axes:
                places, labels = merged(out.block, axes, self.sizes)
                factors.append(Factor(places, labels))
        return Labelled(shape, tuple(factors))


def _is_identity(index: np.ndarray, size: int) -> bool:
    return len(index) == size and bool((index == np.arange(size)).all())


def _crossing_cleanly(blocks: Sequence[Block], axes: Axes) -> bool:
    """Tell whether blocks that share subscripts share whole axes: heads by two head dimensions."""
    for i, block in enumerate(blocks):
        for other in blocks[i + 1 :]:
            for axis in axes:
                mine, its = set(axis) & set(block.subscripts), set(axis) & set(other.subscripts)
                if mine and its and mine != its:
                    return False
    return True
