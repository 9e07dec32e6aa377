"""What rules say of gradients: the backward pass of a piece of a model, as the nodes of another one.

Reverse-mode differentiation (Baydin et al. 2018, arXiv:1502.05767): a rule's `gradient` writes the nodes that
turn the gradient of a node's output into that of an input. The nodes are of one opset, whatever the piece
is of; what they need of the forward pass are tensors of the piece, by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 17
STEP = 1e-3  # half of the distance between two points of a slope
Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """Nodes of a model in order, and the versions of their domains.

    shapes: of every tensor in a run; stored: values of constants they read.
    """

    nodes: Sequence[onnx.NodeProto]
    shapes: Mapping[str, Shape]
    stored: Mapping[str, np.ndarray]
    opsets: Mapping[str, int]


@dataclass
class Tape:
    """The nodes of a backward pass so far; slopes: the elementwise nodes whose slopes it needs."""

    piece: Piece
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    slopes: dict[str, onnx.NodeProto] = field(default_factory=dict)

    def emit(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return its output."""
        name = f"adjoint:{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, values: Any, kind: type = np.int64) -> str:
        """Add a constant and return its name."""
        name = f"adjoint:constant:{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def number(self, value: float) -> str:
        """Add a number and return its name."""
        return self.constant(value, np.float32)

    def like(self, gradient: str, name: str) -> str:
        """Give a gradient the shape of a tensor of the piece."""
        return self.emit("Reshape", gradient, self.emit("Shape", name))

    def summed(self, gradient: str, made: str, name: str) -> str:
        """Sum a gradient over the axes along which a tensor was broadcast to what was made of it."""
        wide, own = self.piece.shapes[made], self.piece.shapes[name]
        if wide == own:
            return gradient
        padded = (1,) * (len(wide) - len(own)) + own
        axes = [i for i, (a, b) in enumerate(zip(wide, padded, strict=True)) if b == 1 and a != 1]
        if axes:
            gradient = self.emit("ReduceSum", gradient, self.constant(axes), keepdims=1)
        return gradient if len(wide) == len(own) else self.like(gradient, name)


@dataclass(frozen=True)
class NodeUse:
    """A node of a piece as the reader of one of its inputs."""

    piece: Piece
    node: onnx.NodeProto
    place: int

    @property
    def name(self) -> str:
        """Return the input."""
        return self.node.input[self.place]

    @property
    def made(self) -> str:
        """Return the output."""
        return self.node.output[0]

    @property
    def size(self) -> Shape:
        """Return the shape of the input."""
        return self.piece.shapes[self.name]

    @property
    def attributes(self) -> dict[str, Any]:
        """Return the node's attributes."""
        return {a.name: helper.get_attribute_value(a) for a in self.node.attribute}

    @property
    def fixed(self) -> bool:
        """Tell whether all other inputs are stored."""
        others = [n for i, n in enumerate(self.node.input) if n and i != self.place]
        return all(name in self.piece.stored for name in others)

    def has(self, place: int) -> bool:
        """Tell whether an optional input is present."""
        return place < len(self.node.input) and bool(self.node.input[place])

    def stored(self, place: int) -> np.ndarray | None:
        """Return the values of an input that is stored."""
        return self.piece.stored.get(self.node.input[place]) if self.has(place) else None


Back: TypeAlias = Callable[[NodeUse, Tape, str], str]


def _always(_use: NodeUse) -> bool:
    return True


@dataclass(frozen=True)
class Gradient:
    """How the gradient of a node's output becomes that of an input.

    back: writes it on a tape and returns its name; when: the nodes that it is right for. Known for every
    input where `every`, else for the first.
    """

    back: Back
    every: bool = False
    when: Callable[[NodeUse], bool] = _always

    def known_for(self, use: NodeUse) -> bool:
        """Tell whether it is right for this input of this node, of which one output is read."""
        return (self.every or not use.place) and not any(use.node.output[1:]) and self.when(use)


# -- slopes that the forward pass measures -------------------------------------------------------------------
def _by_slope(use: NodeUse, tape: Tape, coming: str) -> str:
    tape.slopes[slope_of(use.node)] = use.node
    return tape.emit("Mul", coming, slope_of(use.node))


SLOPE = Gradient(_by_slope)  # of an elementwise operator without jumps: a central difference of the node


def slope_of(node: onnx.NodeProto) -> str:
    """Name the slope of an elementwise node."""
    return f"adjoint:slope:{node.output[0]}"


def measured(node: onnx.NodeProto, step: str, scale: str) -> list[onnx.NodeProto]:
    """Return the nodes that measure a slope; step, scale: constants STEP and 1 / (2 STEP)."""
    base = slope_of(node)
    made = []
    for kind, end in (("Add", "above"), ("Sub", "below")):
        made.append(helper.make_node(kind, [node.input[0], step], [f"{base}:at:{end}"]))
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = ""
        copy.input[0], copy.output[0] = f"{base}:at:{end}", f"{base}:{end}"
        made.append(copy)
    made.append(helper.make_node("Sub", [f"{base}:above", f"{base}:below"], [f"{base}:rise"]))
    made.append(helper.make_node("Mul", [f"{base}:rise", scale], [base]))
    return made
