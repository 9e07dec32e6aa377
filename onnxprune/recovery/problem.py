"""The error of a window of layers as a function of their weights, and what each layer can do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxprune.errors import UnprovedError
from onnxprune.model.runtime import one_line, open_session, run, runtime_errors
from onnxprune.model.tensors import read_by
from onnxprune.recovery.context import with_values
from onnxprune.recovery.gradients import adjoint, gradient_for
from onnxprune.recovery.regression import Linear
from onnxprune.recovery.walk import Walk
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
class Passes:
    """What runs a window.

    ends, backward: sessions forwards to the ends, and backwards; both are given the weights. forward: a model
    that gives all that the backward pass reads, too. It holds the weights: it runs over many batches, and
    kernels are faster where weights are constant.
    """

    ends: Any
    forward: onnx.ModelProto
    backward: Any


@dataclass(frozen=True)
class Problem:
    """A window over batches: in parts to fit with in turn, and held out.

    scales: by end, what one unit of squared error counts.
    """

    layers: Sequence[Linear]
    parts: Sequence[LayerPart]
    held: Sequence[Batch]
    scales: Mapping[str, float]
    passes: Passes

    def residuals(self, weights: Weights, batches: Sequence[Batch]) -> np.ndarray:
        """Return what the ends miss of their targets, scaled so that squares add up to the error."""
        found = []
        for batch in batches:
            made = _ran(self.passes.ends, {**batch.inputs, **weights})
            for name, scale in self.scales.items():
                missed = np.subtract(made[name], batch.targets[name]).ravel()
                missed *= np.sqrt(scale, dtype=missed.dtype)
                found.append(missed)
        return found[0] if len(found) == 1 else np.concatenate(found)

    def error(self, weights: Weights, batches: Sequence[Batch]) -> float:
        """Return the squared error at all ends, relative to the energy of what is to come out."""
        return error_of(self.residuals(weights, batches), batches)

    def weight_gradients(
        self, weights: Weights, batches: Sequence[Batch], grams: LayerGrams | None = None
    ) -> list[np.ndarray]:
        """Return by layer the gradient of half of the summed error by its weights and bias [g, f, m].

        grams: takes what the layers read on the way.
        """
        result: list[np.ndarray] = [np.zeros(1) for _ in self.layers]
        forward = open_session(with_values(self.passes.forward, weights), optimised=True)
        for batch in batches:
            made = {**batch.inputs, **_ran(forward, batch.inputs)}
            if grams is not None:
                grams.add(made, len(batches))
            feeds = {END + n: (made[n] - batch.targets[n]) * s for n, s in self.scales.items()}
            for name in (i.name for i in self.passes.backward.get_inputs() if i.name not in feeds):
                feeds[name] = made[name] if name in made else weights[name]
            gradients = _ran(self.passes.backward, feeds)
            for number, layer in enumerate(self.layers):
                gradient = gradients[GRADIENT + layer.node.output[0]]
                pull = layer.pulled(made[layer.node.input[0]], gradient)
                if layer.bias:
                    axes = tuple(i for i in range(gradient.ndim) if i != layer.axis % gradient.ndim)
                    shift = gradient.sum(axis=axes).reshape(layer.groups, 1, -1)
                    pull = np.concatenate([pull, shift], axis=1)
                result[number] = result[number] + pull.astype(np.float64)
        return result


class LayerGrams:
    """Gram matrices of the features of layers [g, f, f], of rows drawn at random.

    A layer with a bias has a feature more, that is always one.
    """

    def __init__(self, layers: Sequence[Linear]) -> None:
        self.layers = layers
        self.sums: list[np.ndarray] = [np.zeros(1) for _ in layers]
        self._rng = np.random.default_rng(0)

    def add(self, made: Mapping[str, np.ndarray], count: int) -> None:
        """Add what is made of one batch, of so many."""
        for number, layer in enumerate(self.layers):
            most = max(ROWS, PER_FEATURE * layer.features) // count + 1
            (features,) = layer.rows(made[layer.node.input[0]], [], most, self._rng)
            if layer.bias:
                features = np.concatenate([features, np.ones_like(features[..., :1])], axis=2)
            product = np.matmul(features.transpose(0, 2, 1), features)
            self.sums[number] = self.sums[number] + product.astype(float)


def error_of(missed: np.ndarray, batches: Sequence[Batch]) -> float:
    """Sum up what the ends miss in some batches: the error, as of one batch."""
    return float(np.dot(missed, missed)) / len(batches)


def _ran(session: Any, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Run a session. Raises UnprovedError where a kernel refuses."""
    try:
        return run(session, feeds)
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


def passes(walk: Walk, window: Window, piece: Piece, ends: Sequence[str]) -> Passes:
    """Open what runs a window forwards and backwards.

    The forward pass gives the ends and what the backward one reads; that gives the gradients of the layers'
    outputs. Errors alone need neither, and slopes cost as much again as the layers.
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
    short = walk.piece(piece.nodes, ends, window.tensors)
    forward = _measuring(walk.piece(piece.nodes, wanted), tape)
    backward = _backward(tape, sorted(read), set(window.tensors))
    return Passes(open_session(short, optimised=True), forward, open_session(backward, optimised=True))


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
