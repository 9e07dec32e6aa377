"""Contractions with a stored weight that can be refitted: which there are in a walk, and their bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxprune.recovery.walk import Walk, read_by
from onnxprune.rules.regressions import Regression
from onnxprune.rules.signature import Arithmetic


@dataclass(frozen=True)
class Linear:
    """A contraction with a weight, and a bias if it has one, that only nodes like it read.

    place: of the node in the walk; form: as which regression its rule sees it; bias: a stored vector that is
    added to every output, by this node or the next. Of `linears` nobody else reads them.
    """

    place: int
    node: onnx.NodeProto
    weight: str
    bias: str
    form: Regression

    @property
    def groups(self) -> int:
        """Return the number of groups of a Conv, 1 otherwise."""
        return self.form.groups

    @property
    def features(self) -> int:
        """Return the number of inputs that one output of a group sums over."""
        return self.form.features

    @property
    def outputs(self) -> int:
        """Return the number of outputs of all groups."""
        return self.form.outputs

    @property
    def axis(self) -> int:
        """Return the axis of the outputs in the result."""
        return self.form.axis

    def rows(
        self, data: np.ndarray, results: Sequence[np.ndarray], most: int, rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Draw rows: features [groups, rows, features] and, of each result, [groups, rows, outputs]."""
        return self.form.rows(data, results, most, rng)

    def pulled(self, data: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Return the gradient of the weight [groups, features, outputs] by that of the result."""
        return self.form.pulled(data, gradient)

    def changed(self, weight: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Add a change [groups, features, outputs] to a weight."""
        return self.form.changed(weight, change)


def linears(walk: Walk) -> list[Linear]:
    """List the contractions of a walk that can be refitted by themselves, in order."""
    uses = _uses(walk)
    found = (_linear(walk, place, node, uses, 1) for place, node in enumerate(walk.nodes))
    return [layer for layer in found if layer is not None]


def tied_linears(walk: Walk) -> list[tuple[Linear, ...]]:
    """List the contractions that can be refitted together, as they read one weight, by their first place.

    All readers of the weight are alike: they sum over the same features, and add the same bias or none.
    """
    uses = _uses(walk)
    readers: dict[str, list[int]] = {}
    for place, node in enumerate(walk.nodes):
        if walk.facets(node).regression is not None and uses[node.input[1]] > 1:
            readers.setdefault(node.input[1], []).append(place)
    found = []
    for name, places in readers.items():
        layers = [_linear(walk, place, walk.nodes[place], uses, len(places)) for place in places]
        tied = [layer for layer in layers if layer is not None]
        alike = len({(layer.bias, layer.groups, layer.features, layer.outputs) for layer in tied}) == 1
        if len(tied) == uses[name] and alike:
            found.append(tuple(tied))
    return found


def _uses(walk: Walk) -> dict[str, int]:
    """Count the readers of every tensor, the outside of the graph being one."""
    uses: dict[str, int] = {}
    for node in walk.nodes:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
        for name in read_by(node) - set(node.input):
            uses[name] = uses.get(name, 0) + 1
    for output in walk.model.graph.output:
        uses[output.name] = uses.get(output.name, 0) + 1
    return uses


def _linear(
    walk: Walk, place: int, node: onnx.NodeProto, uses: Mapping[str, int], times: int
) -> Linear | None:
    """Describe a contraction; None where it cannot be refitted.

    times: how often its weight, and its bias if it has one, are read.
    """
    make = walk.facets(node).regression
    if make is None:
        return None
    name = node.input[1]
    if uses[name] != times or not _is_float(walk, name) or node.input[0] in walk.weights:
        return None
    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    form = make(tuple(walk.weights[name].dims), attrs)
    if form is None:
        return None
    bias = node.input[2] if len(node.input) > 2 else _next_bias(walk, place, form, uses)
    fits = bool(bias) and uses[bias] == times and _fits(walk, bias, form.outputs)
    return Linear(place, node, name, bias if fits else "", form)


def _fits(walk: Walk, bias: str, width: int) -> bool:
    """Tell whether a bias is a stored vector, one value per output."""
    if not _is_float(walk, bias):
        return False
    dims = walk.weights[bias].dims
    return prod(dims) == width and bool(dims) and dims[-1] == width


def _next_bias(walk: Walk, place: int, form: Regression, uses: Mapping[str, int]) -> str:
    """Return the constant that the next node adds along the last axis."""
    output = walk.nodes[place].output[0]
    if uses.get(output, 0) != 1 or form.axis != -1:
        return ""
    reader = next((n for n in walk.nodes[place + 1 :] if output in n.input), None)
    if reader is None or walk.facets(reader).arithmetic is not Arithmetic.SUM:
        return ""
    others = [n for n in reader.input if n != output]
    return others[0] if others and others[0] in walk.weights else ""


def _is_float(walk: Walk, name: str) -> bool:
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
    return name in walk.weights and walk.weights[name].data_type in floats


def stored(walk: Walk, name: str) -> np.ndarray:
    """Return the values of a stored tensor."""
    return np.asarray(numpy_helper.to_array(walk.weights[name]))
