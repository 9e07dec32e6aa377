"""Consumers: contractions whose stored weights read labelled channels, and their activations as rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from onnxprune.analysis.axes import joined
from onnxprune.analysis.labels import CARRIES, Entry, Slot
from onnxprune.analysis.trace import Step
from onnxprune.analysis.units import Units
from onnxprune.model.graph import Stored
from onnxprune.rules.signature import Axes, Signature

if TYPE_CHECKING:
    from onnxprune.data.moments import Gram


@dataclass(frozen=True)
class ActivationView:
    """How an activation is read as rows: the axes of the tensor by subscript, and which are summed over.

    subscripts: of every axis; groups, summed: subscripts in the order in which they are laid out.
    """

    tensor: str
    axes: Axes
    groups: tuple[str, ...]
    summed: tuple[str, ...]
    sizes: tuple[tuple[str, int], ...]

    def rows(self, values: np.ndarray) -> np.ndarray:
        """Arrange an activation as [groups, rows, places]."""
        sizes, dims, subscripts = dict(self.sizes), [], []
        for axis, size in zip(self.axes, values.shape, strict=True):
            known = [sizes.get(x) for x in axis]
            if not axis:
                dims.append(size)
                subscripts.append("")
            elif len(axis) == 1:
                dims.append(size)
                subscripts.append(axis[0])
            else:
                dims += [k if k is not None else -1 for k in known]
                subscripts += list(axis)
        grid = values.reshape(dims)
        front = [subscripts.index(x) for x in self.groups]
        back = [subscripts.index(x) for x in self.summed]
        middle = [i for i in range(len(subscripts)) if i not in front and i not in back]
        turned = grid.transpose([*front, *middle, *back])
        groups = int(np.prod([sizes[x] for x in self.groups], dtype=np.int64))
        places = int(np.prod([sizes[x] for x in self.summed], dtype=np.int64))
        return turned.reshape(groups, -1, places)


@dataclass(frozen=True)
class Consumer:
    """A weight that sums over labelled channels.

    units: [groups, places] the unit of each place that it sums over; others: the activations that it sums
    over at its other uses, alike to the first.
    """

    step: Step
    slot: Slot
    view: ActivationView
    units: np.ndarray
    bias: Slot | None
    others: tuple[ActivationView, ...] = ()

    @property
    def views(self) -> tuple[ActivationView, ...]:
        """Return the activations that the weight sums over, one for each of its uses."""
        return (self.view, *self.others)

    @property
    def has_bias(self) -> bool:
        """Tell whether a stored bias can take up the mean of what goes."""
        return self.bias is not None

    def gram(self, moments: Mapping[ActivationView, Gram]) -> Gram:
        """Return the moments of all that the weight sums over: those of its uses, added up."""
        first, *others = (moments[view] for view in self.views)
        return sum(others, first)

    def weight(self) -> np.ndarray:
        """Load the weight as [groups, places, outputs]; kernel offsets count as outputs."""
        values = np.asarray(self.slot.stored.values)
        subscripts, sizes = self._subscripts()
        turned = values.reshape([sizes[x] for x in subscripts]).transpose(self._order(subscripts))
        wide = turned.astype(np.float64 if values.dtype == np.float64 else np.float32)
        return wide.reshape(*self.units.shape, -1)

    def restored(self, weight: np.ndarray) -> np.ndarray:
        """Arrange a weight [groups, places, outputs] as it is stored."""
        subscripts, sizes = self._subscripts()
        order = self._order(subscripts)
        grid = weight.reshape([sizes[subscripts[i]] for i in order]).transpose(np.argsort(order))
        return grid.reshape(self.slot.stored.shape)

    def result_subscripts(self) -> tuple[tuple[str, ...], dict[str, int]]:
        """Return the subscripts of [groups, outputs], kernel offsets included, and their sizes."""
        subscripts, sizes = self._subscripts()
        kept = [subscripts[i] for i in self._order(subscripts) if subscripts[i] not in self.view.summed]
        return tuple(kept), sizes

    def _subscripts(self) -> tuple[tuple[str, ...], dict[str, int]]:
        sizes = self.step.met.sizes if self.step.met is not None else {}
        return joined(self.slot.axes, range(len(self.slot.axes))), sizes

    def _order(self, subscripts: tuple[str, ...]) -> list[int]:
        first = [subscripts.index(x) for x in (*self.view.groups, *self.view.summed)]
        return [*first, *(i for i in range(len(subscripts)) if i not in first)]


def consumers(units: Units) -> Iterator[Consumer]:
    """List the consumers of a model's units, in graph order."""
    traced, uses = units.traced, units.traced.network.uses
    tied = {found.step.number: found for name in traced.shared if (found := _tied(units, name)) is not None}
    for step in traced.steps:
        if step.met is None or not isinstance(step.verdict, Signature):
            continue
        for slot in step.met.slots:
            if _is_real(slot.stored) and len(uses[slot.stored.name]) == 1:
                made = _consumer(units, step, slot, 1)
                if made is not None:
                    yield made
        if step.number in tied:
            yield tied[step.number]


def _is_real(stored: Stored) -> bool:
    return stored.is_parameter and not stored.quantized and stored.itemsize > 1


def _tied(units: Units, name: str) -> Consumer | None:
    """Describe a weight with several uses; None where these are not alike, or one of them is another kind."""
    traced = units.traced
    stored, readers = traced.network.stored[name], traced.network.uses[name]
    if not _is_real(stored) or name in traced.outside:
        return None
    steps = {step.number: step for step in traced.steps}
    found: list[Consumer] = []
    for number, place in readers:
        step = steps.get(number)
        if step is None or step.met is None or not isinstance(step.verdict, Signature):
            return None
        axes = step.met.signature.inputs[place] if place < len(step.met.signature.inputs) else None
        views = [view for view in step.met.views if view.operand == place and not view.frozen]
        if axes is None:
            return None
        slot = Slot(stored, place, axes, tuple(Entry(view.block, CARRIES) for view in views))
        made = _consumer(units, step, slot, len(readers))
        if made is None or (found and not _alike(found[0], made)):
            return None
        found.append(made)
    first, *others = found
    return replace(first, others=tuple(other.view for other in others))


def _alike(left: Consumer, right: Consumer) -> bool:
    """Tell whether two uses of a weight sum over the same units of it, and add the same bias or none."""
    biases = [None if c.bias is None else c.bias.stored.name for c in (left, right)]
    orders = [c.slot.axes for c in (left, right)], [(c.view.groups, c.view.summed) for c in (left, right)]
    same = all(one == other for one, other in orders) and biases[0] == biases[1]
    return same and np.array_equal(left.units, right.units)


def _consumer(units: Units, step: Step, slot: Slot, uses: int) -> Consumer | None:
    """Describe one use of a weight; uses: how often it, and its bias if it has one, are read."""
    met = step.met
    assert met is not None
    own = {x for axis in slot.axes for x in axis}
    out = {x for axes in met.signature.outputs if axes for axis in axes for x in axis}
    for number, operand in enumerate(step.operands):
        axes = met.signature.inputs[number] if number < len(met.signature.inputs) else None
        if operand is None or operand.stored is not None or axes is None or number == slot.operand:
            continue
        subscripts = joined(axes, range(len(axes)))
        summed = tuple(x for x in subscripts if x in own and x not in out)
        groups = tuple(x for x in subscripts if x in own and x in out)
        if not summed:
            continue
        indices = _units(units, slot, met.sizes, (groups, summed))
        if indices is None or not (units.group_of_units[indices] >= 0).any():
            return None
        sizes = tuple((x, met.sizes[x]) for x in (*groups, *summed))
        view = ActivationView(operand.tensor, axes, groups, summed, sizes)
        bias = next((s for s in met.slots if s.operand > slot.operand and len(s.stored.shape) == 1), None)
        if bias is not None and len(units.traced.network.uses[bias.stored.name]) != uses:
            bias = None
        return Consumer(step, slot, view, indices, bias)
    return None


def _units(
    units: Units, slot: Slot, sizes: dict[str, int], wanted: tuple[tuple[str, ...], tuple[str, ...]]
) -> np.ndarray | None:
    """Return the unit of each place [groups, places], or None where one array does not say it."""
    groups, summed = wanted
    order = (*groups, *summed)
    blocks = [e.block for e in slot.entries if set(e.block.subscripts) & set(summed)]
    if len(blocks) != 1 or not set(blocks[0].subscripts) <= set(order):
        return None
    own = [x for x in order if x in blocks[0].subscripts]
    labels = blocks[0].arranged(own)[tuple(slice(None) if x in own else None for x in order)]
    full = np.broadcast_to(labels, [sizes[x] for x in order])
    count = int(np.prod([sizes[x] for x in groups], dtype=np.int64))
    return units.of[full].reshape(count, -1)
