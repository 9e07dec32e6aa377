"""Contractions with a stored weight as regressions: rows of features and outputs, and back to weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxprune.recovery.walk import Walk

Shape = tuple[int, ...]
STRETCH = 2048  # places of a grid that are taken at a time


@dataclass(frozen=True)
class Linear:
    """A Conv, Gemm or MatMul whose weight, and bias if it has one, nobody else reads.

    place: of the node in the walk; weight: [C_out, C_in/g, k…] or a matrix; bias: a stored vector that
    is added to every output, by this node or the next.
    """

    place: int
    node: onnx.NodeProto
    weight: str
    bias: str
    shape: Shape
    attrs: Mapping[str, Any]

    @property
    def groups(self) -> int:
        """Return the number of groups of a Conv, 1 otherwise."""
        return int(self.attrs.get("group", 1))

    @property
    def features(self) -> int:
        """Return the number of inputs that one output of a group sums over."""
        if self.node.op_type == "Conv":
            return prod(self.shape[1:])
        return self.shape[1] if self.attrs.get("transB", 0) else self.shape[0]

    @property
    def outputs(self) -> int:
        """Return the number of outputs of all groups."""
        if self.node.op_type == "Conv" or self.attrs.get("transB", 0):
            return self.shape[0]
        return self.shape[1]

    @property
    def axis(self) -> int:
        """Return the axis of the outputs in the result."""
        return 1 if self.node.op_type == "Conv" else -1

    def rows(
        self, data: np.ndarray, results: Sequence[np.ndarray], most: int, rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Draw rows: features [groups, rows, features] and, of each result, [groups, rows, outputs]."""
        if self.node.op_type == "Conv":
            return _conv_rows(self, data, results, most, rng)
        flat = [values.reshape(-1, values.shape[-1]) for values in (data, *results)]
        if len(flat[0]) > most:
            chosen = np.sort(rng.choice(len(flat[0]), most, replace=False))
            flat = [values[chosen] for values in flat]
        return [values[None] for values in flat]

    def pulled(self, data: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Return the gradient of the weight [groups, features, outputs] by that of the result, over all rows.

        data, gradient: of the shapes of the input and of the result.
        """
        if self.node.op_type == "Conv":
            return _conv_pulled(self, data, gradient)
        flat = [values.reshape(-1, values.shape[-1]) for values in (data, gradient)]
        return np.asarray(flat[0].T @ flat[1])[None]

    def changed(self, weight: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Add a change [groups, features, outputs] to a weight."""
        if self.node.op_type == "Conv":
            return weight + change.transpose(0, 2, 1).reshape(weight.shape)
        return weight + (change[0].T if self.attrs.get("transB", 0) else change[0])


def linears(walk: Walk) -> list[Linear]:
    """List the contractions of a walk that can be refitted, in order."""
    uses: dict[str, int] = {}
    for node in walk.nodes:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    for output in walk.model.graph.output:
        uses[output.name] = uses.get(output.name, 0) + 1
    result = []
    for place, node in enumerate(walk.nodes):
        if node.domain in ("", "ai.onnx") and node.op_type in ("Conv", "Gemm", "MatMul"):
            made = _linear(walk, place, node, uses)
            if made is not None:
                result.append(made)
    return result


def _linear(walk: Walk, place: int, node: onnx.NodeProto, uses: Mapping[str, int]) -> Linear | None:
    name = node.input[1]
    if uses[name] != 1 or not _is_float(walk, name) or node.input[0] in walk.weights:
        return None
    shape = tuple(walk.weights[name].dims)
    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    plain = attrs.get("alpha", 1.0) == attrs.get("beta", 1.0) == 1.0 and not attrs.get("transA", 0)
    if (
        not plain
        or _auto_pad(attrs) not in ("NOTSET", "VALID")
        or (node.op_type != "Conv" and len(shape) != 2)
    ):
        return None
    width = shape[0] if node.op_type == "Conv" or attrs.get("transB", 0) else shape[1]
    bias = node.input[2] if len(node.input) > 2 else _next_bias(walk, place, uses)
    return Linear(place, node, name, bias if _fits(walk, bias, width, uses) else "", shape, attrs)


def _fits(walk: Walk, bias: str, width: int, uses: Mapping[str, int]) -> bool:
    """Tell whether a bias is a stored vector, one value per output, that nobody else reads."""
    if not bias or uses[bias] != 1 or not _is_float(walk, bias):
        return False
    dims = walk.weights[bias].dims
    return prod(dims) == width and bool(dims) and dims[-1] == width


def _next_bias(walk: Walk, place: int, uses: Mapping[str, int]) -> str:
    """Return the constant that the next node adds to a MatMul."""
    output = walk.nodes[place].output[0]
    if uses.get(output, 0) != 1 or walk.nodes[place].op_type == "Conv":
        return ""
    reader = next((n for n in walk.nodes[place + 1 :] if output in n.input), None)
    if reader is None or reader.op_type != "Add":
        return ""
    others = [n for n in reader.input if n != output]
    return others[0] if others and others[0] in walk.weights else ""


def _is_float(walk: Walk, name: str) -> bool:
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
    return name in walk.weights and walk.weights[name].data_type in floats


def _auto_pad(attrs: Mapping[str, Any]) -> str:
    found = attrs.get("auto_pad", b"NOTSET")
    return found.decode() if isinstance(found, bytes) else str(found)


def _conv_rows(
    layer: Linear, data: np.ndarray, results: Sequence[np.ndarray], most: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Cut out the patches behind outputs drawn at random (im2col)."""
    kernel, rank, groups = layer.shape[2:], len(layer.shape) - 2, layer.groups
    strides, dilations, pads = sliding(layer.attrs, rank)
    padded = np.pad(data, [(0, 0), (0, 0), *((pads[i], pads[rank + i]) for i in range(rank))])
    front = (len(data), *_front(padded.shape[2:], kernel, strides, dilations))
    every = prod(front)
    chosen = np.arange(every) if every <= most else np.sort(rng.choice(every, most, replace=False))
    sample, *places = np.unravel_index(chosen, front)
    offsets = np.indices(kernel).reshape(rank, -1)
    index = [places[i][:, None] * strides[i] + offsets[i][None, :] * dilations[i] for i in range(rank)]
    patches = np.moveaxis(padded, 1, -1)[(sample[:, None], *index)]  # [rows, taps, C_in]
    grid = patches.reshape(len(chosen), offsets.shape[1], groups, patches.shape[-1] // groups)
    found = [grid.transpose(2, 0, 3, 1).reshape(groups, len(chosen), -1)]
    for result in results:
        rows = np.moveaxis(result, 1, -1)[(sample, *places)].reshape(len(chosen), groups, -1)
        found.append(rows.transpose(1, 0, 2))
    return found


def sliding(attrs: Mapping[str, Any], rank: int) -> tuple[list[int], list[int], list[int]]:
    """Return the strides, dilations and pads of a convolution over so many axes."""
    ones = [1] * rank
    return attrs.get("strides") or ones, attrs.get("dilations") or ones, attrs.get("pads") or [0] * (2 * rank)


def _front(
    padded: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """Return the sizes of a convolution's result."""
    sizes = zip(padded, kernel, strides, dilations, strict=True)
    return [(n - (k - 1) * d - 1) // s + 1 for n, k, s, d in sizes]


def _conv_pulled(layer: Linear, data: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Correlate inputs and gradients, both laid out on the padded grid: there a tap is a shift.

    Stretches of the grid that stay in the processor's cache, all taps of one in one product.
    """
    kernel, rank, groups = layer.shape[2:], len(layer.shape) - 2, layer.groups
    strides, dilations, pads = sliding(layer.attrs, rank)
    around = [n + pads[i] + pads[rank + i] for i, n in enumerate(data.shape[2:])]
    inside = [slice(pads[i], pads[i] + n) for i, n in enumerate(data.shape[2:])]
    reached = [slice(0, (n - 1) * s + 1, s) for n, s in zip(gradient.shape[2:], strides, strict=True)]
    inputs = _laid_out(data, around, inside, groups)
    weight_gradients = _laid_out(gradient, around, reached, groups)
    per_axis = [prod(around[i + 1 :]) for i in range(rank)]
    shifts = [
        sum(t * d * p for t, d, p in zip(taps, dilations, per_axis, strict=True))
        for taps in np.ndindex(*kernel)
    ]
    length = inputs.shape[2] - shifts[-1]  # a gradient behind reaches nothing
    found = np.zeros((groups, len(shifts) * inputs.shape[1], weight_gradients.shape[1]), data.dtype)
    stretch = np.empty((groups, len(shifts), inputs.shape[1], min(STRETCH, length)), data.dtype)
    for start in range(0, length, STRETCH):
        stop = min(start + STRETCH, length)
        for tap, shift in enumerate(shifts):
            stretch[:, tap, :, : stop - start] = inputs[:, :, start + shift : stop + shift]
        features = stretch.reshape(groups, -1, stretch.shape[3])[:, :, : stop - start]
        found += np.matmul(features, weight_gradients[:, :, start:stop].transpose(0, 2, 1))
    taps_last = found.reshape(groups, len(shifts), inputs.shape[1], -1).swapaxes(1, 2)
    return taps_last.reshape(groups, -1, weight_gradients.shape[1])


def _laid_out(values: np.ndarray, around: Sequence[int], places: Sequence[slice], groups: int) -> np.ndarray:
    """Lay values [n, channels, …] out on a grid of zeros, channels first [g, channels / g, n * places]."""
    grid = np.zeros((values.shape[1], len(values), *around), values.dtype)
    grid[(slice(None), slice(None), *places)] = values.swapaxes(0, 1)
    return grid.reshape(groups, len(grid) // groups, -1)


def stored(walk: Walk, name: str) -> np.ndarray:
    """Return the values of a stored tensor."""
    return np.asarray(numpy_helper.to_array(walk.weights[name]))
