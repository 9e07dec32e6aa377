"""The members of units: every slice of a stored weight that lives and dies with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxprune.analysis.letters import joined
from onnxprune.analysis.records import PRODUCES, Slot
from onnxprune.analysis.trace import Step
from onnxprune.analysis.units import Units
from onnxprune.model.network import Stored


@dataclass(frozen=True)
class Member:
    """One axis, or several, of a stored float tensor, with the unit of every index.

    dims: dimensions of the tensor seen letter by letter; along: which of them the units vary on.
    """

    stored: Stored
    number: int
    node: str
    op: str
    operand: int
    role: str
    dims: tuple[int, ...]
    along: tuple[int, ...]
    units: np.ndarray

    @property
    def is_weight(self) -> bool:
        """Tell whether the tensor is a weight proper, not a vector of one value per channel."""
        return sum(size > 1 for size in self.dims) > 1 or self.role == PRODUCES

    @property
    def is_scale(self) -> bool:
        """Tell whether the tensor is the scale of a normalisation."""
        return self.operand == 1 and self.op.endswith("Normalization")

    def view(self) -> np.ndarray:
        """Load the tensor as [units…, rest]."""
        values = np.asarray(self.stored.values).reshape(self.dims)
        front = np.moveaxis(values, self.along, range(len(self.along)))
        return front.reshape(self.units.size, -1)


def members(found: Units) -> Iterator[Member]:
    """List the members of all units, in graph order."""
    for name, labelled in found.traced.shared.items():
        stored = found.traced.network.stored[name]
        for factor in labelled.factors:
            yield Member(
                stored, -1, "", "", 0, PRODUCES, labelled.shape, factor.axes, found.of[factor.labels]
            )
    for step in found.traced.steps:
        for slot in step.met.slots if step.met is not None else ():
            if slot.stored.is_float:
                sizes = step.met.sizes if step.met is not None else {}
                yield from _of_slot(found, step, slot, sizes)


def _of_slot(found: Units, step: Step, slot: Slot, sizes: dict[str, int]) -> Iterator[Member]:
    letters = joined(slot.axes, range(len(slot.axes)))
    dims = _dims(slot, letters, sizes)
    for entry in slot.entries:
        own = [x for x in letters if x in entry.block.letters]
        units = found.of[entry.block.arranged(own)]
        along = tuple(letters.index(x) for x in own)
        yield Member(
            slot.stored,
            step.number,
            step.site.name,
            step.node.op,
            slot.operand,
            entry.role,
            dims,
            along,
            units,
        )


def _dims(slot: Slot, letters: tuple[str, ...], sizes: dict[str, int]) -> tuple[int, ...]:
    """Return the dimensions of the tensor letter by letter; a broadcast axis keeps its own size."""
    own = {axis[0]: size for axis, size in zip(slot.axes, slot.stored.shape, strict=True) if len(axis) == 1}
    return tuple(own.get(x, sizes[x]) for x in letters)
