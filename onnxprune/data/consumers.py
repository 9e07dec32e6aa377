"""Consumers: contractions whose stored weights read labelled channels, and their activations as rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxprune.analysis.axes import joined
from onnxprune.analysis.labels import Slot
from onnxprune.analysis.trace import Step
from onnxprune.analysis.units import Units
from onnxprune.rules.signature import Axes, Signature


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

    units: [groups, places] the unit of each place that it sums over.
    """

    step: Step
    slot: Slot
    view: ActivationView
    units: np.ndarray
    bias: Slot | None

    @property
    def has_bias(self) -> bool:
        """Tell whether a stored bias can take up the mean of what goes."""
        return self.bias is not None

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
    for step in units.traced.steps:
        if step.met is None or not isinstance(step.verdict, Signature):
            continue
        for slot in step.met.slots:
            stored = slot.stored
            real = stored.is_parameter and not stored.quantized and stored.itemsize > 1
            if real and len(units.traced.network.uses[stored.name]) == 1:
                made = _consumer(units, step, slot)
                if made is not None:
                    yield made


def _consumer(units: Units, step: Step, slot: Slot) -> Consumer | None:
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
        if bias is not None and len(units.traced.network.uses[bias.stored.name]) > 1:
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
