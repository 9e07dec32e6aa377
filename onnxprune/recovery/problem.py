"""The error of a window of layers as a function of their weights, and what each layer can do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxprune.errors import UnprovedError
from onnxprune.model.runtime import one_line, open_session, runtime_errors
from onnxprune.recovery.gradients import adjoint, gradient_for
from onnxprune.recovery.regression import Linear
from onnxprune.recovery.walk import Walk, read_by
from onnxprune.recovery.windows import Window
from onnxprune.rules.tape import OPSET, STEP, NodeUse, Piece, Tape, measured

ROWS = 16_384  # of all batches together that a layer's Gram matrix is taken from, at least
PER_FEATURE = 8  # and as many for each feature
Weights: TypeAlias = dict[str, np.ndarray]
IR = 8
GRADIENT, END = "adjoint:of:", "adjoint:end:"  # names of gradients, and of what is missed at ends


@dataclass(frozen=True)
class Batch:
    """What goes into a window, and what is to come out of it, by tensor."""

    inputs: Mapping[str, np.ndarray]
    targets: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class LayerPart:
    """What a round of the fit learns from: directions from all batches, how far to go from a sample."""

    batches: Sequence[Batch]
    sample: Sequence[Batch]


@dataclass(frozen=True)
class Problem:
    """A window over batches: in parts to fit with in turn, and held out.

    scales: by end, what one unit of squared error counts; forward, backward: sessions.
    """

    layers: Sequence[Linear]
    parts: Sequence[LayerPart]
    held: Sequence[Batch]
    scales: Mapping[str, float]
    forward: Any
    backward: Any

    def residuals(self, weights: Weights, batches: Sequence[Batch]) -> np.ndarray:
        """Return what the ends miss of their targets, scaled so that squares add up to the error."""
        found = []
        for batch in batches:
            made = self._forward(weights, batch, list(self.scales))
            found += [
                ((made[name] - batch.targets[name]) * np.sqrt(scale)).ravel()
                for name, scale in self.scales.items()
            ]
        return np.concatenate(found)

    def error(self, weights: Weights, batches: Sequence[Batch]) -> float:
        """Return the squared error at all ends, relative to the energy of what is to come out."""
        return error_of(self.residuals(weights, batches), batches)

    def grams(self, weights: Weights) -> list[np.ndarray]:
        """Return by layer the Gram matrix of its features [g, f, f], of rows of a part drawn at random.

        A layer with a bias has a feature more, that is always one.
        """
        batches = self.parts[0].batches
        result: list[np.ndarray] = [np.zeros(1) for _ in self.layers]
        rng = np.random.default_rng(0)
        for batch in batches:
            made = self._run(weights, batch)
            for number, layer in enumerate(self.layers):
                most = max(ROWS, PER_FEATURE * layer.features) // len(batches) + 1
                (features,) = layer.rows(made[layer.node.input[0]], [], most, rng)
                if layer.bias:
                    features = np.concatenate([features, np.ones_like(features[..., :1])], axis=2)
                result[number] = result[number] + np.matmul(features.transpose(0, 2, 1), features).astype(
                    float
                )
        return result

    def weight_gradients(self, weights: Weights, batches: Sequence[Batch]) -> list[np.ndarray]:
        """Return by layer the gradient of half of the summed error by its weights and bias [g, f, m]."""
        result: list[np.ndarray] = [np.zeros(1) for _ in self.layers]
        for batch in batches:
            made = self._run(weights, batch)
            feeds = {END + n: (made[n] - batch.targets[n]) * s for n, s in self.scales.items()}
            for name in (i.name for i in self.backward.get_inputs() if i.name not in feeds):
                feeds[name] = made[name] if name in made else weights[name]
            gradients = _ran(self.backward, feeds)
            for number, layer in enumerate(self.layers):
                gradient = gradients[GRADIENT + layer.node.output[0]]
                pull = layer.pulled(made[layer.node.input[0]], gradient)
                if layer.bias:
                    axes = tuple(i for i in range(gradient.ndim) if i != layer.axis % gradient.ndim)
                    shift = gradient.sum(axis=axes).reshape(layer.groups, 1, -1)
                    pull = np.concatenate([pull, shift], axis=1)
                result[number] = result[number] + pull.astype(np.float64)
        return result

    def _run(self, weights: Weights, batch: Batch) -> dict[str, Any]:
        wanted = [output.name for output in self.forward.get_outputs()]
        return {**batch.inputs, **self._forward(weights, batch, wanted)}

    def _forward(self, weights: Weights, batch: Batch, wanted: Sequence[str]) -> dict[str, Any]:
        return _ran(self.forward, {**batch.inputs, **weights}, wanted)


def error_of(missed: np.ndarray, batches: Sequence[Batch]) -> float:
    """Sum up what the ends miss in some batches: the error, as of one batch."""
    return float(np.dot(missed, missed)) / len(batches)


def _ran(session: Any, feeds: Mapping[str, np.ndarray], wanted: Sequence[str] = ()) -> dict[str, Any]:
    """Run a session for some outputs, or for all. Raises UnprovedError where a kernel refuses."""
    names = list(wanted) or [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except runtime_errors() as error:
        raise UnprovedError(f"onnxruntime cannot differentiate the model: {one_line(error)}") from error


def pieced(walk: Walk, window: Window) -> Piece:
    """Run a window on the first batch to learn the shapes in it."""
    nodes = walk.nodes[window.start : window.stop]
    made = [name for node in nodes for name in node.output if name in walk.last]
    values = {**walk.values[0], **walk.ahead(window.stop, made, [0])[0]}
    values = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    read = {name for node in nodes for name in read_by(node)}
    stored = {name: numpy_helper.to_array(walk.weights[name]) for name in read if name in walk.weights}
    shapes = {name: tuple(value.shape) for name, value in {**values, **stored}.items()}
    return Piece(nodes, shapes, stored, walk.opsets)


def ends_of(walk: Walk, window: Window, piece: Piece) -> list[str]:
    """List the tensors of a window that depend on its layers and where gradients begin: read behind it, or
    by a node that no gradient passes.
    """
    moved = {layer.node.output[0] for layer in window.layers}
    stopped: set[str] = set()
    for node in piece.nodes:
        inside = set(node.input)
        stopped |= (read_by(node) - inside) & moved
        for place, name in enumerate(node.input):
            if name in moved and gradient_for(NodeUse(piece, node, place)) is None:
                stopped.add(name)
            elif name in moved:
                moved.add(node.output[0])
    return sorted(name for name in moved if name in stopped or walk.last.get(name, -1) >= window.stop)


def sessions(walk: Walk, window: Window, piece: Piece, ends: Sequence[str]) -> tuple[Any, Any]:
    """Open what runs a window forwards and backwards.

    The forward session gives the ends and what the backward one reads; that gives the gradients of the
    layers' outputs.
    """
    tape = Tape(piece)
    outputs = frozenset(layer.node.output[0] for layer in window.layers)
    gradients = adjoint(piece, tape, {name: END + name for name in ends}, outputs)
    for name, gradient in gradients.items():
        tape.nodes.append(helper.make_node("Identity", [gradient], [GRADIENT + name]))
    read = {n for node in tape.nodes for n in node.input} - {n for node in tape.nodes for n in node.output}
    read -= {tensor.name for tensor in tape.constants}
    made = {name for node in piece.nodes for name in node.output} | set(tape.slopes)
    features = {layer.node.input[0] for layer in window.layers}
    wanted = sorted({*ends, *((features | read) & made)})
    forward = _measuring(walk.piece(piece.nodes, wanted, window.tensors), tape)
    backward = _backward(tape, sorted(read), set(window.tensors))
    return open_session(forward, optimised=True), open_session(backward, optimised=True)


def _backward(tape: Tape, read: Sequence[str], fed: set[str]) -> onnx.ModelProto:
    """Make a model of a tape; read: what it takes from the forward pass or is stored."""
    kept = tape.piece.stored.keys() - fed
    made = [name for node in tape.nodes for name in node.output if name.startswith(GRADIENT)]
    constants = [numpy_helper.from_array(tape.piece.stored[name], name) for name in read if name in kept]
    graph = helper.make_graph(
        tape.nodes, "adjoint",
        [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in read if n not in kept],
        [onnx.ValueInfoProto(name=name) for name in made],
        [*tape.constants, *constants],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)


def _measuring(forward: onnx.ModelProto, tape: Tape) -> onnx.ModelProto:
    """Add what measures the slopes to a forward model."""
    step, scale = "adjoint:step", "adjoint:scale"
    for name, value in ((step, STEP), (scale, 0.5 / STEP)):
        forward.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    for node in tape.slopes.values():
        forward.graph.node.extend(measured(node, step, scale))
    return forward
