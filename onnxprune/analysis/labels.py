"""Labels: which channel every element of a prunable axis belongs to.

A tensor carries a list of factors. A factor labels one or more axes with one integer array. Factors of
a tensor that share an axis are children of the same parents along it (heads by two head dimensions). An
axis without a factor is fixed: it cannot shrink.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune.analysis.axes import Block
from onnxprune.model.graph import Stored
from onnxprune.rules.signature import Axes, Axis, Signature


@dataclass(frozen=True, slots=True)
class Factor:
    """Labels that vary together on these axes; `labels` has one dimension for each."""

    axes: tuple[int, ...]
    labels: np.ndarray


@dataclass(frozen=True, slots=True)
class Labelled:
    """The concrete shape of a tensor and its factors."""

    shape: tuple[int, ...]
    factors: tuple[Factor, ...] = ()


@dataclass(frozen=True, slots=True)
class Pin:
    """Why labels cannot be removed: the tensor and axis where they met the node that froze them.

    channels: the axis holds channels; those of the taps of a kernel or the directions of an LSTM are none.
    """

    tensor: str
    axis: int
    node: str
    op: str
    reason: str
    channels: bool = True


@dataclass(frozen=True, slots=True)
class Family:
    """A relation of two axes: a parent lives iff one of its children lives.

    parents: [P] labels; children: [P, K] labels.
    """

    parents: np.ndarray
    children: np.ndarray


@dataclass(frozen=True, slots=True)
class Made:
    """Labels that were made at once: what for, the first of them, and how many."""

    what: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight that is computed: its elements [R, C] are no channels, those along its sides are.

    sides: labels of the channels along the rows and along the columns.
    """

    labels: np.ndarray
    sides: tuple[np.ndarray, ...]


@dataclass
class LabelConstraints:
    """Everything that the trace learns about labels, in the order in which it learns it.

    place: the number of the node that is traced, -1 before the first; made: new labels by place.
    """

    count: int = 0
    ties: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    families: list[Family] = field(default_factory=list)
    pins: list[tuple[np.ndarray, Pin]] = field(default_factory=list)
    grids: list[np.ndarray] = field(default_factory=list)
    matrices: list[Matrix] = field(default_factory=list)
    produced: list[np.ndarray] = field(default_factory=list)
    place: int = -1
    made: dict[int, list[Made]] = field(default_factory=dict)

    def matrix(self, labels: np.ndarray, sides: Sequence[np.ndarray]) -> None:
        """Note labels of a computed weight: they go with the channels along its sides only."""
        self.matrices.append(Matrix(labels, tuple(sides)))

    def fresh(self, shape: tuple[int, ...], what: str) -> np.ndarray:
        """Make new labels of this shape; `what` names them among those made at the same node."""
        size = int(np.prod(shape, dtype=np.int64))
        labels = np.arange(self.count, self.count + size).reshape(shape)
        self.made.setdefault(self.place, []).append(Made(what, self.count, size))
        self.count += size
        return labels

    def produce(self, shape: tuple[int, ...], what: str) -> np.ndarray:
        """Make new labels for the channels that a parameter or a node brings into being."""
        labels = self.fresh(shape, what)
        self.produced.append(labels)
        return labels

    def tie(self, left: np.ndarray, right: np.ndarray) -> None:
        """State that labels at the same place are one channel."""
        if left is not right:
            left, right = np.broadcast_arrays(left, right)
            self.ties.append((left.ravel(), right.ravel()))

    def adopt(self, parents: np.ndarray, children: np.ndarray) -> None:
        """State that parents [P…] live as long as one of their children [P…, K…] does."""
        self.families.append(Family(parents.ravel(), children.reshape(parents.size, -1)))

    def pin(self, labels: np.ndarray, pin: Pin) -> None:
        """State that these labels stay."""
        self.pins.append((labels.ravel(), pin))

    def broken(self, alive: np.ndarray) -> Iterator[tuple[np.ndarray, Pin]]:
        """List the pins that a removal breaks, with the labels that are gone.

        alive: booleans by label.
        """
        gone = [labels[~alive[labels]] for labels, _ in self.pins]
        return ((removed, pin) for removed, (_, pin) in zip(gone, self.pins, strict=True) if removed.size)

    def grid(self, labels: np.ndarray) -> None:
        """Note labels with rows and columns: their removals must stay rectangular."""
        self.grids.append(labels)


PRODUCES, CARRIES, CONSUMES = "produces", "carries", "consumes"


@dataclass(frozen=True, slots=True)
class Operand:
    """An input of a node: its labels if it is computed, its constant if it is stored."""

    tensor: str
    labelled: Labelled
    stored: Stored | None = None


@dataclass(frozen=True, slots=True)
class View:
    """A factor of an operand, seen as a block; `spelled` are all subscripts of its axes."""

    operand: int
    factor: int
    block: Block
    spelled: Axis
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """Labels over some subscripts of a stored constant, and what they do there."""

    block: Block
    role: str


@dataclass(frozen=True, slots=True)
class Slot:
    """The use of a stored constant by one input of one node."""

    stored: Stored
    operand: int
    axes: Axes
    entries: tuple[Entry, ...]


@dataclass
class Cluster:
    """Blocks that overlap in subscripts: the `tops`, and parents over fewer subscripts."""

    views: list[View]
    tops: list[Block]
    parents: list[Block] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class OutFactor:
    """A factor of an output: the block it carries, and the take that made it, if any."""

    output: int
    axes: tuple[int, ...]
    block: Block
    take: str | None = None
    pieces: tuple[Block | None, ...] = ()


@dataclass(frozen=True)
class Met:
    """The record of a node whose labels met, for replay, slicing and the oracle."""

    signature: Signature
    sizes: dict[str, int]
    views: tuple[View, ...]
    clusters: tuple[Cluster, ...]
    slots: tuple[Slot, ...]
    outs: tuple[OutFactor, ...]
    outputs: tuple[Labelled, ...]
