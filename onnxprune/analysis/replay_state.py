"""The state of a replay: what every tensor of the shrunk graph keeps, and what was found on the way."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from onnxprune.analysis.axes import Block, Coords, rectangle
from onnxprune.analysis.labels import Labelled, Slot
from onnxprune.analysis.trace import Step, Trace
from onnxprune.rules.selection import counts_through
from onnxprune.rules.signature import Fix, Shape
from onnxprune.rules.values import Known


@dataclass(frozen=True, slots=True)
class Kept:
    """A tensor of the shrunk graph: its shape and, per factor, coordinates on each axis.

    None stands for a factor that is whole and in its old order.
    """

    shape: Shape
    coords: tuple[tuple[np.ndarray, ...] | None, ...]


def selected(values: np.ndarray, labelled: Labelled, kept: Kept) -> np.ndarray:
    """Pick the elements of an original tensor that the pruned one keeps, in its order."""
    axes = [axis for factor in labelled.factors for axis in factor.axes]
    if len(set(axes)) < len(axes):
        return values[_crossed(values.shape, labelled, kept)]
    for factor, coords in zip(labelled.factors, kept.coords, strict=True):
        if coords is None:
            continue
        if len(factor.axes) == 1:
            values = np.take(values, coords[0], axis=factor.axes[0])
            continue
        front = np.moveaxis(values, factor.axes, range(len(factor.axes)))
        values = np.moveaxis(front[coords], range(len(factor.axes)), factor.axes)
    return values


def _crossed(shape: tuple[int, ...], labelled: Labelled, kept: Kept) -> tuple[np.ndarray, ...]:
    """Index by all factors at once, since several vary on one axis, where they keep the same places."""
    rank = len(shape)
    index = [
        np.arange(n).reshape([-1 if i == axis else 1 for i in range(rank)]) for axis, n in enumerate(shape)
    ]
    for factor, coords in zip(labelled.factors, kept.coords, strict=True):
        for axis, places in zip(factor.axes, coords or (), strict=coords is not None):
            dims = dict(zip(factor.axes, places.shape, strict=True))
            index[axis] = places.reshape([dims.get(i, 1) for i in range(rank)])
    return tuple(np.broadcast_arrays(*index))


@dataclass(frozen=True, slots=True)
class Cut:
    """What one use of a stored constant keeps: coordinates by subscript, arranged over subscripts.

    sizes: of subscripts after the removal; full: before it.
    """

    step: int
    slot: Slot
    picks: tuple[tuple[Block, Coords], ...]
    sizes: dict[str, int]
    full: dict[str, int]


@dataclass(frozen=True, slots=True)
class Rescale:
    """A run-time value that must be corrected before a node reads it, exactly, per element.

    Where the shapes differ, both are indices that count through their places, and it is the shape that is
    corrected.
    """

    step: int
    operand: int
    before: np.ndarray
    after: np.ndarray

    @property
    def recounts(self) -> bool:
        """Tell whether the index must count again, through another shape."""
        return self.before.shape != self.after.shape


@dataclass(frozen=True, slots=True)
class Conflict:
    """A place where the shrunk graph would not compute what the masked original does."""

    node: str
    reason: str
    labels: np.ndarray


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean written out: a sum over a labelled axis, times or over its size, which becomes the kept one.

    operand: the input of the step that holds the size or its reciprocal; factor: new value per old.
    """

    step: int
    operand: int
    factor: float


@dataclass
class Replayed:
    """The outcome of a replay: a proof of shapes and order, or conflicts."""

    tensors: dict[str, Kept] = field(default_factory=dict)
    cuts: list[Cut] = field(default_factory=list)
    fixes: list[tuple[int, Fix]] = field(default_factory=list)
    rescales: list[Rescale] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    sizes: dict[int, dict[str, int]] = field(default_factory=dict)
    refs: dict[int, list[tuple[Block, Coords | None]]] = field(default_factory=dict)
    means: list[Mean] = field(default_factory=list)


def _both_count(now: np.ndarray, wanted: np.ndarray) -> bool:
    """Tell whether two indices of as many axes count through their places, so that a shape says all."""
    return now.ndim == wanted.ndim and all(counts_through(index, index.size) for index in (now, wanted))


class ClashError(Exception):
    """A node of the shrunk graph would not compute what the masked original does."""

    def __init__(self, reason: str, labels: np.ndarray) -> None:
        super().__init__(reason)
        self.labels = labels


class ReplayState:
    """The shrunk graph as far as the replay has come."""

    def __init__(self, traced: Trace, alive: np.ndarray) -> None:
        self.traced, self.alive = traced, alive
        self.result = Replayed()
        self.known: dict[str, Known] = {}
        self.sums: dict[str, tuple[int, int]] = {}
        self._rectangles: dict[int, np.ndarray | None] = {}

    def kept(self, name: str) -> Kept:
        """Return what a tensor keeps: all of it where nothing was recorded."""
        result = self.result.tensors.get(name)
        if result is None:
            labelled = self.traced.tensors.get(name) or Labelled(())
            result = Kept(labelled.shape, (None,) * len(labelled.factors))
        return result

    def natural(self, labelled: Labelled) -> Kept:
        """Return what survives of a tensor whose axes are labelled one by one."""
        shape, coords = list(labelled.shape), []
        for factor in labelled.factors:
            places = np.flatnonzero(self.alive[factor.labels])
            whole = len(places) == factor.labels.size
            shape[factor.axes[0]] = len(places)
            coords.append(None if whole else (places,))
        return Kept(tuple(shape), tuple(coords))

    def require_values(self, step: Step, fixed: dict[int, np.ndarray]) -> None:
        """Correct run-time values that follow the shrunk shapes but must not."""
        for place, tensor in enumerate(step.node.inputs):
            now = self.known.get(tensor.name)
            if now is None:
                continue
            wanted = fixed.get(place, self.traced.known[tensor.name].value)
            if now.value.shape != wanted.shape:
                if not _both_count(now.value, wanted):
                    labels = self.traced.labels_behind(tensor.name)
                    raise ClashError(f"the value '{tensor.name}' changes its shape", labels)
                self.result.rescales.append(Rescale(step.number, place, now.value, wanted))
                continue
            if wanted.dtype.kind == "b" and not np.array_equal(now.value, wanted):
                labels = self.traced.labels_behind(tensor.name)
                raise ClashError(f"the condition '{tensor.name}' changes", labels)
            if ((now.value == 0) & (wanted != 0)).any():
                tops = [top.labels.ravel() for c in (step.met.clusters if step.met else ()) for top in c.tops]
                labels = np.concatenate(tops) if tops else np.zeros(0, np.int64)
                raise ClashError(f"the size '{tensor.name}' becomes 0", labels)
            if not np.array_equal(now.value, wanted):
                self.result.rescales.append(Rescale(step.number, place, now.value, wanted))

    def places(self, block: Block) -> np.ndarray | None:
        """Return the surviving places of a block as a grid, None if it is no grid."""
        key = id(block.labels)
        if key not in self._rectangles:
            self._rectangles[key] = rectangle(self.alive[block.labels])
        return self._rectangles[key]
