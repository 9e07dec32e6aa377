"""The members of units: every slice of a stored weight that lives and dies with them.

A quantised weight is a member of the node that reads what DequantizeLinear makes of it, with the real
numbers that its codes stand for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from onnxprune.analysis.axes import joined
from onnxprune.analysis.labels import CARRIES, PRODUCES, Entry, Slot
from onnxprune.analysis.readers import Readers, decoded, is_decoder
from onnxprune.analysis.trace import Step
from onnxprune.analysis.units import Units
from onnxprune.model.graph import Stored
from onnxprune.rules.signature import Code, Signature


@dataclass(frozen=True)
class Member:
    """One axis, or several, of a stored tensor of parameters, with the unit of every index.

    dims: dimensions of the tensor seen subscript by subscript; along: which of them the units vary on;
    values: how its real numbers are loaded; is_scale: the tensor is the scale of a normalisation.
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
    values: Callable[[], np.ndarray]
    is_scale: bool = False

    @property
    def is_weight(self) -> bool:
        """Tell whether the tensor is a weight proper, not a vector of one value per channel."""
        return sum(size > 1 for size in self.dims) > 1 or self.role == PRODUCES

    def view(self) -> np.ndarray:
        """Load the tensor as [units…, rest]."""
        values = self.values().reshape(self.dims)
        front = np.moveaxis(values, self.along, range(len(self.along)))
        return front.reshape(self.units.size, -1)


def members(units: Units) -> Iterator[Member]:
    """List the members of all units, in graph order."""
    readers = Readers(units.traced)
    for name, labelled in units.traced.shared.items():
        stored = units.traced.network.stored[name]
        load = _loader(stored, readers.steps.get(name, ()))
        for place, factor in enumerate(labelled.factors):
            indices, role = units.of[factor.labels], readers.shared_role(name, place)
            yield Member(stored, -1, "", "", 0, role, labelled.shape, factor.axes, indices, load)
    for step in units.traced.steps:
        for slot in step.met.slots if step.met is not None else ():
            if slot.stored.is_parameter:
                yield from _of_slot(units, readers, step, slot)


def _of_slot(units: Units, readers: Readers, step: Step, slot: Slot) -> Iterator[Member]:
    subscripts = joined(slot.axes, range(len(slot.axes)))
    assert step.met is not None
    dims = _dims(slot, subscripts, step.met.sizes)
    load = _loader(slot.stored, ((step, slot.operand), *readers.behind(step)))
    for entry in slot.entries:
        own = [x for x in subscripts if x in entry.block.subscripts]
        indices = units.of[entry.block.arranged(own)]
        along = tuple(subscripts.index(x) for x in own)
        reader, place, role = _reader(readers, step, slot, entry)
        node, op = reader.site.name, reader.node.op
        scale = place == _scale_of(reader)
        yield Member(slot.stored, reader.number, node, op, place, role, dims, along, indices, load, scale)


def _scale_of(step: Step) -> int | None:
    """Return the input that holds the scale of a normalisation; None for other nodes."""
    if step.facets.statistics is not None:
        return step.facets.statistics.scale
    how = step.verdict.normalisation if isinstance(step.verdict, Signature) else None
    return None if how is None else how.scale


def _loader(stored: Stored, steps: Sequence[tuple[Step, int]]) -> Callable[[], np.ndarray]:
    """Return what loads the values: decoded as the first of these steps that reads codes does."""
    for reader, place in steps:
        code = reader.verdict.codes.get(place) if isinstance(reader.verdict, Signature) else None
        if code is not None and (reader.site.inputs[place] == stored.shape or _is_scalar(reader, code)):
            return partial(_decoded, stored, reader, place, code)
    return partial(_plain, stored)


def _reader(readers: Readers, step: Step, slot: Slot, entry: Entry) -> tuple[Step, int, str]:
    """Return the node that contracts with a constant behind DequantizeLinear, and its role there."""
    behind = [(s, place) for s, place in readers.behind(step) if s.met is not None]
    if not is_decoder(step) or slot.operand or not behind:
        return step, slot.operand, entry.role
    single = sum(size > 1 for size in slot.stored.shape) < 2
    role = readers.role(step, entry.block)
    return *behind[0], CARRIES if single and role == PRODUCES else role


def _is_scalar(step: Step, code: Code) -> bool:
    shapes = [step.site.shape(p) for p in (code.scale, code.zero) if p is not None]
    return all(size == 1 for shape in shapes for size in shape)


def _plain(stored: Stored) -> np.ndarray:
    return np.asarray(stored.values)


def _decoded(stored: Stored, step: Step, place: int, code: Code) -> np.ndarray:
    return decoded(np.asarray(stored.values), step, place, code)


def _dims(slot: Slot, subscripts: tuple[str, ...], sizes: dict[str, int]) -> tuple[int, ...]:
    """Return the dimensions of the tensor subscript by subscript; a broadcast axis keeps its own size."""
    own = {axis[0]: size for axis, size in zip(slot.axes, slot.stored.shape, strict=True) if len(axis) == 1}
    return tuple(own.get(x, sizes[x]) for x in subscripts)
