"""Two plans one after the other, as one plan for the first model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from onnxprune.analysis.axes import joined
from onnxprune.analysis.labels import Labelled
from onnxprune.analysis.node_propagation import Slot
from onnxprune.analysis.replay import Cut, Kept, Replayed
from onnxprune.analysis.trace import Step, Trace
from onnxprune.analysis.units import Units
from onnxprune.rewrite.apply import index_along

Use = tuple[str, int]


def compose(first: Units, replayed: Replayed, second: Units, removed: np.ndarray) -> np.ndarray | None:
    """The units of the first graph that die with `dead` units of the second; None where some have no
    counterpart.

    second: units of the graph that the first replay makes. Units are matched by the elements of stored
    tensors that they hold, since the order of channels may differ. A weight that the first plan leaves a
    vector no longer ties its uses; where these then keep different channels, a unit has no counterpart.
    """
    came_from = dict(_origins(first, replayed))
    held: dict[Use, list[np.ndarray]] = {}
    for use, old in owners(first):
        held.setdefault(use, []).append(old)
    found, spared = np.zeros((2, first.count), dtype=bool)
    matched = np.zeros(second.count, dtype=bool)
    for use, new in owners(second):
        for old in held.get(use, ()):
            pulled = old.ravel()[came_from[use].ravel()] if use in came_from else old.ravel()
            if pulled.size == new.size and _one_to_one(new.ravel(), pulled):
                matched[new.ravel()] = True
                found[pulled[removed[new.ravel()]]] = True
                spared[pulled[~removed[new.ravel()]]] = True
    complete = matched[removed & (second.group_of_units >= 0)].all() and not (found & first.pinned).any()
    untied = first.traced.shared.keys() - second.traced.shared.keys()
    return found if complete and not (untied and (found & spared).any()) else None


def laid_out_otherwise(
    first: tuple[Trace, Replayed], second: tuple[Trace, Replayed], composed: Replayed
) -> bool:
    """Tell whether a grid whose rows keep columns of their own is another grid the other way.

    What the first plan leaves of it has rows and columns of its own: the second plan may keep as many from
    each of these where the composed one, on the first grid, keeps as many from each column.
    """
    for name, kept in first[1].tensors.items():
        if not any(_uneven(coords) for coords in kept.coords if coords is not None):
            continue
        once = _kept_places(first[0].tensors[name], composed.tensors[name])
        before = _kept_places(first[0].tensors[name], kept)
        after = second[1].tensors.get(name)
        twice = before if after is None else before.ravel()[_kept_places(second[0].tensors[name], after)]
        if not np.array_equal(once, twice):
            return True
    return False


def _uneven(coords: tuple[np.ndarray, ...]) -> bool:
    return any(
        (places != places[tuple(slice(None) if i == dim else slice(1) for i in range(places.ndim))]).any()
        for dim, places in enumerate(coords)
    )


def _kept_places(labelled: Labelled, kept: Kept) -> np.ndarray:
    """For every element that a tensor keeps, its place in the whole one."""
    index = list(np.indices(kept.shape, sparse=True))
    for factor, coords in zip(labelled.factors, kept.coords, strict=True):
        shape = [n if i in factor.axes else 1 for i, n in enumerate(kept.shape)]
        for axis, places in zip(factor.axes, coords or (), strict=coords is not None):
            index[axis] = places.reshape(shape)
    return np.ravel_multi_index(np.broadcast_arrays(*index), labelled.shape)


def _one_to_one(left: np.ndarray, right: np.ndarray) -> bool:
    pairs = np.unique(np.stack([left, right]), axis=1)
    return len(np.unique(left)) == len(np.unique(right)) == pairs.shape[1]


def _named(step: Step) -> str:
    """The first output that a node has: an LSTM may leave out its sequence."""
    return next(t.name for t in step.node.outputs if t.name)


def _slots(units: Units) -> Iterator[tuple[Use, Step, Slot]]:
    for step in units.traced.steps:
        for slot in step.met.slots if step.met is not None else ():
            yield (_named(step), slot.operand), step, slot


def owners(units: Units) -> Iterator[tuple[Use, np.ndarray]]:
    """For every use of a stored tensor and every block of labels on it, the unit of each element."""
    for name, labelled in units.traced.shared.items():
        for factor in labelled.factors:
            shape = [-1 if i in factor.axes else 1 for i in range(len(labelled.shape))]
            yield (name, -1), np.broadcast_to(units.of[factor.labels].reshape(shape), labelled.shape)
    for use, step, slot in _slots(units):
        subscripts = joined(slot.axes, range(len(slot.axes)))
        assert step.met is not None
        dims = _dims(slot, step.met.sizes)
        for entry in slot.entries:
            own = [x for x in subscripts if x in entry.block.subscripts]
            spread = units.of[entry.block.arranged(own)]
            spread = spread[tuple(slice(None) if x in own else None for x in subscripts)]
            yield use, np.broadcast_to(spread, dims).reshape(slot.stored.shape)


def _dims(slot: Slot, sizes: dict[str, int]) -> list[int]:
    """Sizes of the subscripts of a stored tensor; an axis that broadcasts keeps its own."""
    dims = []
    for axis, size in zip(slot.axes, slot.stored.shape, strict=True):
        dims += [size] if len(axis) == 1 else [sizes[x] for x in axis]
    return dims


def _origins(units: Units, replayed: Replayed) -> Iterator[tuple[Use, np.ndarray]]:
    """For every use that is cut, the place in the old tensor that each new element came from."""
    for name, labelled in units.traced.shared.items():
        yield (name, -1), _kept_places(labelled, replayed.tensors[name])
    steps = {step.number: step for step in units.traced.steps}
    for cut in replayed.cuts:
        yield (_named(steps[cut.step]), cut.slot.operand), _places(cut)


def _places(cut: Cut) -> np.ndarray:
    subscripts = joined(cut.slot.axes, range(len(cut.slot.axes)))
    places = np.arange(int(np.prod(cut.slot.stored.shape))).reshape([cut.full[x] for x in subscripts])
    return places[tuple(np.broadcast_arrays(*(index_along(x, subscripts, cut) for x in subscripts)))]


Reads = dict[int, tuple[str, tuple[int, ...], bytes]]


def parameters_read(model: onnx.ModelProto) -> dict[str, Reads]:
    """What every node that computes something reads of parameters, by the name of its first output.

    A vector with several readers is stored once or un-shared, depending on the way that led there; what is
    read is the same. Integers are left out: sizes and bounds may be spelled in several ways.
    """
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    result: dict[str, Reads] = {}
    for node in model.graph.node:
        if node.op_type == "Constant":
            stored[next(filter(None, node.output), "")] = _value_of(node)
        elif node.op_type == "Identity" and node.input[0] in stored:
            stored[next(filter(None, node.output), "")] = stored[node.input[0]]
        else:
            read = {i: stored[name] for i, name in enumerate(node.input) if name in stored}
            result[next(filter(None, node.output), "")] = {
                i: (str(a.dtype), a.shape, a.tobytes()) for i, a in read.items() if a.dtype.kind != "i"
            }
    return result


def _value_of(node: onnx.NodeProto) -> np.ndarray:
    attribute = node.attribute[0]
    value = onnx.helper.get_attribute_value(attribute)
    return numpy_helper.to_array(value) if attribute.name == "value" else np.asarray(value)
