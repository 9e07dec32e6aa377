"""Gradients of a piece of a model, as the nodes of another one (reverse-mode differentiation).

One rule per operator says how the gradient of its output becomes that of an input. Where an operator has no
rule the gradient ends: whoever asks has to aim at its input instead. The nodes are of one opset, whatever
the piece is of; what they need of the forward pass are their inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxprune.recovery.regression import sliding

OPSET = 17
STEP = 1e-3  # half of the distance between two points of a slope
ELEMENTWISE = frozenset(
    (
        "Abs", "Celu", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish",
        "Neg", "PRelu", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Tanh", "ThresholdedRelu",
    )
)  # fmt: skip
Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """Nodes of a model in order; shapes: of every tensor in a run; stored: values of constants they read."""

    nodes: Sequence[onnx.NodeProto]
    shapes: Mapping[str, Shape]
    stored: Mapping[str, np.ndarray]


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


Rule: TypeAlias = Callable[[NodeUse, Tape, str], str]


def rule_for(use: NodeUse) -> Rule | None:
    """Return how the gradient of a node's output becomes that of an input; None where that is unknown."""
    node = use.node
    kind = node.op_type if node.domain in ("", "ai.onnx") and not any(node.output[1:]) else ""
    if kind not in RULES or (use.place and kind not in OF_ANY_INPUT):
        return None
    return RULES[kind] if kind not in PROVIDED or PROVIDED[kind](use) else None


def adjoint(piece: Piece, tape: Tape, gradients: Mapping[str, str], wanted: frozenset[str]) -> dict[str, str]:
    """Write the backward pass of a piece on a tape; return the gradients of the tensors wanted.

    gradients: what is known already, by tensor. Paths that no rule continues count for nothing, nor do
    those that lead to none of the tensors wanted.
    """
    needed = _reached(piece, wanted)
    parts: dict[str, list[str]] = {name: [known] for name, known in gradients.items()}
    for node in reversed(piece.nodes):
        coming = _total(tape, parts, node.output[0])
        if coming is None:
            continue
        for place, name in enumerate(node.input):
            use = NodeUse(piece, node, place)
            rule = rule_for(use) if name in needed else None
            if rule is not None:
                parts.setdefault(name, []).append(rule(use, tape, coming))
    totals = {name: _total(tape, parts, name) for name in sorted(wanted)}
    return {name: total for name, total in totals.items() if total is not None}


def _reached(piece: Piece, start: frozenset[str]) -> set[str]:
    """Return the tensors that depend on some."""
    result = set(start)
    for node in piece.nodes:
        if any(name in result for name in node.input):
            result.update(node.output)
    return result


def _total(tape: Tape, parts: dict[str, list[str]], name: str) -> str | None:
    found = parts.get(name)
    if not found:
        return None
    total = found[0]
    for part in found[1:]:
        total = tape.emit("Add", total, part)
    parts[name] = [total]
    return total


def _elementwise(use: NodeUse, tape: Tape, coming: str) -> str:
    """Multiply by a slope that is measured in the forward pass, by a central difference."""
    tape.slopes[slope_of(use.node)] = use.node
    return tape.emit("Mul", coming, slope_of(use.node))


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


def _conv(use: NodeUse, tape: Tape, coming: str) -> str:
    attrs, size = use.attributes, use.size[2:]
    made, kernel = (use.piece.shapes[name][2:] for name in (use.node.output[0], use.node.input[1]))
    rank = len(size)
    strides, dilations, pads = sliding(attrs, rank)
    covered = [(made[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 for i in range(rank)]
    left = [size[i] - covered[i] + pads[i] + pads[rank + i] for i in range(rank)]
    return tape.emit(
        "ConvTranspose", coming, use.node.input[1], strides=strides, dilations=dilations, pads=pads,
        output_padding=left, group=attrs.get("group", 1),
    )  # fmt: skip


def _gemm(use: NodeUse, tape: Tape, coming: str) -> str:
    back = 0 if use.attributes.get("transB", 0) else 1
    return tape.emit("Gemm", coming, use.node.input[1], transB=back, alpha=use.attributes.get("alpha", 1.0))


def _matmul(use: NodeUse, tape: Tape, coming: str) -> str:
    return tape.emit("MatMul", coming, tape.emit("Transpose", use.node.input[1], perm=[1, 0]))


def _add(use: NodeUse, tape: Tape, coming: str) -> str:
    return tape.summed(coming, use.node.output[0], use.name)


def _sub(use: NodeUse, tape: Tape, coming: str) -> str:
    return _add(use, tape, tape.emit("Neg", coming) if use.place else coming)


def _mul(use: NodeUse, tape: Tape, coming: str) -> str:
    return _add(use, tape, tape.emit("Mul", coming, use.node.input[1 - use.place]))


def _div(use: NodeUse, tape: Tape, coming: str) -> str:
    return _add(use, tape, tape.emit("Div", coming, use.node.input[1]))


def _batch_norm(use: NodeUse, tape: Tape, coming: str) -> str:
    scale, _, _, variance = (use.piece.stored[name].astype(np.float64) for name in use.node.input[1:])
    slope = scale / np.sqrt(variance + use.attributes.get("epsilon", 1e-5))
    return tape.emit("Mul", coming, tape.constant(slope.reshape(-1, *[1] * (len(use.size) - 2)), np.float32))


def _concat(use: NodeUse, tape: Tape, coming: str) -> str:
    axis = use.attributes["axis"]
    ends = np.cumsum([0, *(use.piece.shapes[name][axis] for name in use.node.input)])
    limits = (tape.constant([int(end)]) for end in ends[use.place : use.place + 2])
    return tape.emit("Slice", coming, *limits, tape.constant([axis]))


def _slice(use: NodeUse, tape: Tape, coming: str) -> str:
    for axis, picked in _slices(use).items():
        coming = _put_back(use, tape, coming, (axis, np.arange(use.size[axis])[picked]))
    return coming


def _slices(use: NodeUse) -> dict[int, slice]:
    """Return by axis what a Slice picks."""
    names = [*use.node.input[1:], "", "", "", ""]
    given: list[Any] = [
        use.piece.stored[name].ravel().tolist() if name else use.attributes.get(word)
        for name, word in zip(names[:4], ("starts", "ends", "axes", "steps"), strict=True)
    ]
    starts, ends = given[:2]
    axes = range(len(starts)) if given[2] is None else given[2]
    steps = [1] * len(starts) if given[3] is None else given[3]
    picked = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        before = step < 0 and end < -use.size[axis]  # down to the first and with it
        picked[axis % len(use.size)] = slice(start, None if before else end, step)
    return picked


def _gather(use: NodeUse, tape: Tape, coming: str) -> str:
    axis = use.attributes.get("axis", 0) % len(use.size)
    return _put_back(use, tape, coming, (axis, use.piece.stored[use.node.input[1]] % use.size[axis]))


def _put_back(use: NodeUse, tape: Tape, coming: str, picked: tuple[int, np.ndarray]) -> str:
    """Sum what was picked along an axis at the places it came from; picked: the axis and the places."""
    axis, places = picked
    chosen = np.zeros((len(places), use.size[axis]))
    chosen[np.arange(len(places)), places] = 1
    order = list(range(len(use.size)))
    order[axis], order[-1] = order[-1], order[axis]
    turned = tape.emit("Transpose", coming, perm=order)
    return tape.emit("Transpose", tape.emit("MatMul", turned, tape.constant(chosen, np.float32)), perm=order)


def _pad(use: NodeUse, tape: Tape, coming: str) -> str:
    starts = _pads(use)[: len(use.size)]
    ends = [start + n for start, n in zip(starts, use.size, strict=True)]
    axes = list(range(len(use.size)))
    return tape.emit("Slice", coming, tape.constant(starts), tape.constant(ends), tape.constant(axes))


def _pads(use: NodeUse) -> list[int]:
    given = (
        use.piece.stored[use.node.input[1]].tolist() if len(use.node.input) > 1 else use.attributes["pads"]
    )
    return list(given)


def _reshaped(use: NodeUse, tape: Tape, coming: str) -> str:
    return tape.like(coming, use.name)


def _transposed(use: NodeUse, tape: Tape, coming: str) -> str:
    perm = use.attributes.get("perm") or list(reversed(range(len(use.size))))
    return tape.emit("Transpose", coming, perm=[int(i) for i in np.argsort(perm)])


def _has_matrix(use: NodeUse) -> bool:
    return len(use.piece.shapes[use.node.input[1]]) == 2 and len(use.size) > 1


def _pads_by_numbers(use: NodeUse) -> bool:
    return use.attributes.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")


def _keeps_input(use: NodeUse) -> bool:
    return not use.attributes.get("transA", 0)


def _uses_statistics(use: NodeUse) -> bool:
    return use.fixed and not use.attributes.get("training_mode", 0)


def _has_places(use: NodeUse) -> bool:
    return use.fixed and use.piece.stored[use.node.input[1]].ndim == 1


def _adds_only(use: NodeUse) -> bool:
    """Tell whether a Pad adds, on all axes, nothing of its input."""
    plain = use.attributes.get("mode", b"constant") == b"constant" and len(use.node.input) < 4
    return use.fixed and plain and min(_pads(use)) >= 0


OF_ANY_INPUT = frozenset(("Add", "Concat", "Mul", "Sub"))  # of the others the first is differentiated by
PROVIDED: Mapping[str, Callable[[NodeUse], bool]] = {
    "BatchNormalization": _uses_statistics, "Conv": _pads_by_numbers, "Gather": _has_places,
    "Gemm": _keeps_input, "MatMul": _has_matrix, "Pad": _adds_only, "Slice": lambda use: use.fixed,
}  # fmt: skip
RULES: Mapping[str, Rule] = {
    "Add": _add, "BatchNormalization": _batch_norm, "Concat": _concat, "Conv": _conv, "Div": _div,
    "Dropout": _reshaped, "Flatten": _reshaped, "Gather": _gather, "Gemm": _gemm, "Identity": _reshaped,
    "MatMul": _matmul, "Mul": _mul, "Pad": _pad, "Reshape": _reshaped, "Slice": _slice,
    "Squeeze": _reshaped, "Sub": _sub, "Transpose": _transposed, "Unsqueeze": _reshaped,
    **dict.fromkeys(ELEMENTWISE, _elementwise),
}  # fmt: skip
