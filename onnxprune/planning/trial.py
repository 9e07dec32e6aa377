"""A removal as it grows step by step: what each next step takes along, and what it saves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from onnxprune.planning.allocate import RemovalSequence
from onnxprune.planning.cost_model import CostModel
from onnxprune.planning.living import Links, LivingUnits


class TrialRemoval:
    """A depth into every sequence, the units that are dead there, and the amounts that are left.

    place: by sequence, how many of its steps are taken; depths: by sequence, the atoms that are gone after
    each step. Atoms that would empty an axis or remove what is pinned are skipped. Amounts and savings are
    arrays in the order of the prices' keys.
    """

    def __init__(
        self,
        prices: CostModel,
        living: LivingUnits,
        sequences: Sequence[RemovalSequence],
        depths: Sequence[np.ndarray],
    ) -> None:
        self.prices, self.sequences, self.depths = prices, sequences, depths
        self._living = living
        self._clusters = [_clusters(s, living) for s in sequences]
        self._together = _sharing(self._clusters)
        self._seen = self._terms_seen()
        self._met: dict[int, np.ndarray] = {}
        self._next: list[tuple[np.ndarray, np.ndarray] | None] = [None] * len(sequences)
        self.place = [0] * len(sequences)
        self.went: list[list[np.ndarray]] = [[] for _ in sequences]
        self._died: list[list[np.ndarray]] = [[] for _ in sequences]
        living.reset()
        prices.reset()

    def at(self, depths: Sequence[np.ndarray]) -> TrialRemoval:
        """Begin again with other depths of the same sequences; this trial must not be used any more."""
        return TrialRemoval(self.prices, self._living, self.sequences, depths)

    def _terms_seen(self) -> np.ndarray:
        """Tell for each sequence and term whether the one can change the other. [sequences, terms]."""
        members = Links.of(self._living.clusters, np.arange(len(self._living.clusters)), self._most())
        seen = np.zeros((len(self.sequences), len(self.prices.base)), dtype=bool)
        for i, clusters in enumerate(self._clusters):
            seen[i, self.prices.touched(self.prices.effect(members[clusters]))] = True
        return seen

    def _most(self) -> int:
        return int(self._living.clusters.max(initial=-1)) + 1

    def amounts(self) -> np.ndarray:
        """Return what is left."""
        return self.prices.amounts()

    def has_next(self, sequence: int) -> bool:
        """Tell whether a sequence has steps left."""
        return self.place[sequence] + 1 < len(self.depths[sequence])

    def span(self, sequence: int) -> tuple[int, int]:
        """Return the depths before and after the next step."""
        place = self.place[sequence]
        return int(self.depths[sequence][place]), int(self.depths[sequence][place + 1])

    def saving(self, sequence: int) -> np.ndarray | None:
        """Return what the next step saves with all that it takes along; None where nothing is left of it."""
        known = self._next[sequence]
        if known is None:
            died, _ = self._living.kill(np.concatenate(self._atoms(sequence)))
            self._living.revive(died)
            effect = self.prices.effect(died)
            known = self._next[sequence] = effect, self.prices.touched(effect)
        return self.prices.saving(*known) if known[0].any() else None

    def _atoms(self, sequence: int) -> tuple[np.ndarray, ...]:
        low, high = self.span(sequence)
        return self.sequences[sequence].atoms[low:high]

    def take(self, sequence: int) -> np.ndarray:
        """Carry the next step out; return the sequences whose savings change."""
        (low, high), atoms = self.span(sequence), self._atoms(sequence)
        went = np.arange(low, high)
        died, fits = self._living.kill(np.concatenate(atoms))
        if not fits:
            self._living.revive(died)
            died, went = self._one_by_one(atoms, low)
        effect = self.prices.effect(died)
        self.prices.remove(effect)
        self.place[sequence] += 1
        self.went[sequence].append(went)
        self._died[sequence].append(died)
        return self._changed(sequence)

    def _one_by_one(self, atoms: Sequence[np.ndarray], first: int) -> tuple[np.ndarray, np.ndarray]:
        all_died, went = [np.zeros(0, np.int64)], []
        for number, atom in enumerate(atoms, first):
            died, fits = self._living.kill(atom)
            if fits:
                all_died.append(died)
                went.append(number)
            else:
                self._living.revive(died)
        return np.concatenate(all_died), np.asarray(went, dtype=np.int64)

    def give_back(self, sequence: int) -> np.ndarray:
        """Undo the last step of a sequence; return the sequences whose savings change."""
        self.place[sequence] -= 1
        self.went[sequence].pop()
        died = self._died[sequence].pop()
        effect = self.prices.effect(died)
        if self._together[sequence].sum() > 1:
            self._rebuild()
        else:
            self._living.revive(died)
            self.prices.remove(-effect)
        return self._changed(sequence)

    def _rebuild(self) -> None:
        """Remove again all that went: what one step took along another one may hold or take now."""
        self._living.reset()
        self.prices.reset()
        atoms = [self.sequences[i].atoms[j] for i, j in self.going()]
        if atoms:
            self.prices.remove(self.prices.effect(self._living.kill(np.concatenate(atoms))[0]))

    def going(self) -> Iterator[tuple[int, int]]:
        """Yield what went: a sequence and its atom."""
        for i, steps in enumerate(self.went):
            yield from ((i, j) for went in steps for j in went.tolist())

    def _changed(self, sequence: int) -> np.ndarray:
        for i in np.flatnonzero(self._together[sequence]).tolist():
            self._next[i] = None
        if sequence not in self._met:
            meets = self._seen[:, self._seen[sequence]].any(axis=1) | self._together[sequence]
            self._met[sequence] = np.flatnonzero(meets)
        return self._met[sequence]


def _clusters(sequence: RemovalSequence, living: LivingUnits) -> np.ndarray:
    if not sequence.atoms:
        return np.zeros(0, np.int64)
    return np.unique(living.clusters[np.concatenate(sequence.atoms)])


def _sharing(sets: Sequence[np.ndarray]) -> np.ndarray:
    """Tell which of these sets meet. [sets, sets]."""
    numbers = np.concatenate([*sets, np.zeros(0, np.int64)])
    owner = np.repeat(np.arange(len(sets)), [len(s) for s in sets])
    meet = np.eye(len(sets), dtype=bool)
    order = np.lexsort((owner, numbers))
    numbers, owner = numbers[order], owner[order]
    for own in np.split(owner, np.flatnonzero(np.diff(numbers)) + 1) if len(owner) else ():
        if len(own) > 1:
            meet[np.ix_(own, own)] = True
    return meet
