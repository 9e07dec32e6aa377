"""What the trace records of a node: views of its operands, clusters, slots of constants, outputs."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnxprune.analysis.axes import Block
from onnxprune.analysis.labels import Labelled
from onnxprune.model.graph import Stored
from onnxprune.rules.signature import Axes, Axis, Signature

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
