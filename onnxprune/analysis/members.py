"""The members of units: every slice of a stored weight that lives and dies with them.

A quantised weight is a member of the node that reads what DequantizeLinear makes of it, with the real
numbers that its codes stand for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from onnxprune.analysis.decoding import decoded
from onnxprune.analysis.letters import joined
from onnxprune.analysis.records import CARRIES, CONSUMES, PRODUCES, Entry, Slot
from onnxprune.analysis.trace import Step
from onnxprune.analysis.units import Units
from onnxprune.model.network import Stored
from onnxprune.rules.signature import Code, Signature


@dataclass(frozen=True)
class Member:
    """One axis, or several, of a stored tensor of parameters, with the unit of every index.

    dims: dimensions of the tensor seen letter by letter; along: which of them the units vary on; values:
    how its real numbers are loaded.
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
        values = self.values().reshape(self.dims)
        front = np.moveaxis(values, self.along, range(len(self.along)))
        return front.reshape(self.units.size, -1)


def members(found: Units) -> Iterator[Member]:
    """List the members of all units, in graph order."""
    readers = _Readers(found)
    for name, labelled in found.traced.shared.items():
        stored = found.traced.network.stored[name]
        load = readers.loader(stored, readers.steps.get(name, ()))
        for factor in labelled.factors:
            units = found.of[factor.labels]
            yield Member(stored, -1, "", "", 0, PRODUCES, labelled.shape, factor.axes, units, load)
    for step in found.traced.steps:
        for slot in step.met.slots if step.met is not None else ():
            if slot.stored.is_parameter:
                yield from _of_slot(found, readers, step, slot)


def _of_slot(found: Units, readers: _Readers, step: Step, slot: Slot) -> Iterator[Member]:
    letters = joined(slot.axes, range(len(slot.axes)))
    assert step.met is not None
    dims = _dims(slot, letters, step.met.sizes)
    load = readers.loader(slot.stored, ((step, slot.operand), *readers.behind(step)))
    for entry in slot.entries:
        own = [x for x in letters if x in entry.block.letters]
        units = found.of[entry.block.arranged(own)]
        along = tuple(letters.index(x) for x in own)
        reader, place, role = readers.reader(step, slot, entry)
        node, op = reader.site.name, reader.node.op
        yield Member(slot.stored, reader.number, node, op, place, role, dims, along, units, load)


class _Readers:
    """Who reads the real numbers of a quantised constant, and how they are loaded."""

    def __init__(self, found: Units) -> None:
        self.steps: dict[str, list[tuple[Step, int]]] = {}
        for step in found.traced.steps:
            for place, operand in enumerate(step.operands):
                if operand is not None and operand.stored is None:
                    self.steps.setdefault(operand.tensor, []).append((step, place))

    def loader(self, stored: Stored, steps: Sequence[tuple[Step, int]]) -> Callable[[], np.ndarray]:
        """Return what loads the values: decoded as the first of these steps that reads codes does."""
        for reader, place in steps:
            code = reader.verdict.codes.get(place) if isinstance(reader.verdict, Signature) else None
            if code is not None and (reader.site.inputs[place] == stored.shape or _is_scalar(reader, code)):
                return partial(_decoded, stored, reader, place, code)
        return partial(_plain, stored)

    def reader(self, step: Step, slot: Slot, entry: Entry) -> tuple[Step, int, str]:
        """Return the node that contracts with a constant behind DequantizeLinear, and its role there."""
        behind = [(s, place) for s, place in self.behind(step) if s.met is not None]
        if not slot.stored.coded or step.node.op != "DequantizeLinear" or not behind or step.met is None:
            return step, slot.operand, entry.role
        reader, place = behind[0]
        out = next((o for o in step.met.outs if o.block is entry.block), None)
        factor = -1 if out is None else step.met.outs.index(out)
        assert reader.met is not None
        kept = reader.met.signature.kept_letters()
        consumed = any(
            view.operand == place and view.factor == factor and not set(view.block.letters) & kept
            for view in reader.met.views
        )
        single = sum(size > 1 for size in slot.stored.shape) < 2
        return reader, place, CONSUMES if consumed else CARRIES if single else PRODUCES

    def behind(self, step: Step) -> list[tuple[Step, int]]:
        """Return the steps that read the first output of a step, with the input at which they do."""
        return self.steps.get(step.node.outputs[0].name, []) if step.node.outputs else []


def _is_scalar(step: Step, code: Code) -> bool:
    shapes = [step.site.shape(p) for p in (code.scale, code.zero) if p is not None]
    return all(size == 1 for shape in shapes for size in shape)


def _plain(stored: Stored) -> np.ndarray:
    return np.asarray(stored.values)


def _decoded(stored: Stored, step: Step, place: int, code: Code) -> np.ndarray:
    return decoded(np.asarray(stored.values), step, place, code)


def _dims(slot: Slot, letters: tuple[str, ...], sizes: dict[str, int]) -> tuple[int, ...]:
    """Return the dimensions of the tensor letter by letter; a broadcast axis keeps its own size."""
    own = {axis[0]: size for axis, size in zip(slot.axes, slot.stored.shape, strict=True) if len(axis) == 1}
    return tuple(own.get(x, sizes[x]) for x in letters)
