"""Normalisations restricted to the kept channels, written out in primitive operators.

y = (x - mean) / sqrt(var + eps) * scale + bias, with mean and variance over the kept elements
(Ba et al. 2016, arXiv:1607.06450; Wu and He 2018, arXiv:1803.08494; RMSNorm: arXiv:1910.07467).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.analysis.trace import Step

WITHOUT_MEAN = ("RMSNormalization", "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization")
SUMMING = {
    "SkipLayerNormalization": (3, (2, 3)),
    "SkipSimplifiedLayerNormalization": (3, (2,)),
    "EmbedLayerNormalization": (2, (5, 6)),
}
SUMMING_EPSILON = 1e-12


class Maker(Protocol):
    """What makes the tensors of the oracle: fresh names and known types."""

    opset: int

    def dtype(self, name: str) -> np.dtype:
        """Return the numpy type of a tensor."""

    def constant(self, kind: str, values: np.ndarray) -> gs.Constant:
        """Make a constant."""

    def variable(self, kind: str, dtype: np.dtype) -> gs.Variable:
        """Make a tensor."""


class _Body:
    """Writes a chain of primitive nodes."""

    def __init__(self, maker: Maker, dtype: np.dtype) -> None:
        self.maker, self.dtype = maker, dtype
        self.nodes: list[gs.Node] = []

    def add(self, op: str, *inputs: gs.Tensor, output: gs.Tensor | None = None, **attrs: object) -> gs.Tensor:
        result = output if output is not None else self.maker.variable(op.lower(), self.dtype)
        self.nodes.append(
            gs.Node(op, f"{result.name}_node", attrs=dict(attrs), inputs=list(inputs), outputs=[result])
        )
        return result

    def number(self, value: float) -> gs.Constant:
        return self.maker.constant("number", np.asarray(value, dtype=self.dtype))

    def mean(self, value: gs.Tensor, axes: list[int], factor: float) -> gs.Tensor:
        if self.maker.opset >= 18:
            mean = self.add(
                "ReduceMean", value, self.maker.constant("axes", np.asarray(axes, np.int64)), keepdims=1
            )
        else:
            mean = self.add("ReduceMean", value, axes=axes, keepdims=1)
        return self.add("Mul", mean, self.number(factor))

    def masked(self, mask: gs.Tensor, value: gs.Tensor) -> gs.Tensor:
        if self.maker.opset >= 9:
            return self.add("Where", mask, value, self.number(0.0))
        cast = self.maker.constant("mask", np.asarray(mask.values, dtype=self.dtype))
        return self.add("Mul", value, cast)


def restrict(maker: Maker, step: Step, node: gs.Node, mask: np.ndarray, factor: float) -> list[gs.Node]:
    """Replace a normalisation by one over the kept elements.

    mask: booleans that broadcast to the input; factor: all elements per kept element of a statistic.
    """
    body = _Body(maker, maker.dtype(node.outputs[0].name))
    shape = step.site.out()
    data, axes, view = node.inputs[0], list(range(2, len(shape))), None
    params = list(node.inputs[1:])
    if node.op in SUMMING:
        data, node, params = _summed(body, node)
        axes = [len(shape) - 1]
    elif node.op == "GroupNormalization":
        data, mask, view = _grouped(body, data, shape, mask, int(node.attrs["num_groups"]))
        axes = [2, 3]
    elif node.op != "InstanceNormalization":
        axes = list(range(int(node.attrs.get("axis", -1)) % len(shape), len(shape)))
    shown = maker.constant("mask", mask)
    normal = _normalised(body, node, shown, data, axes, factor)
    if view is not None and step.site.opset >= 21:
        normal, view = body.add("Reshape", normal, view), None
    scaled = normal
    for op, param in zip(("Mul", "Add"), params, strict=False):
        if not param.name:
            continue
        scaled = body.add(op, scaled, _shaped(body, node, param, len(shape), view is not None))
    if view is not None:
        scaled = body.add("Reshape", scaled, view)
    body.add("Identity", scaled, output=node.outputs[0])
    return body.nodes


def _summed(body: _Body, node: gs.Node) -> tuple[gs.Tensor, gs.Node, list[gs.Tensor]]:
    """Let the node make only the sum that it normalises, and what it counts.

    Returns the sum, a stand-in for the normalisation proper, and its parameters.
    """
    place, params = SUMMING[node.op]
    outputs = [*node.outputs, *(gs.Variable.empty() for _ in range(place + 1 - len(node.outputs)))]
    chosen = [node.inputs[i] for i in params if i < len(node.inputs)]
    epsilon = node.attrs.get("epsilon", SUMMING_EPSILON)
    total = outputs[place] if outputs[place].name else body.maker.variable("sum", body.dtype)
    statistics = [] if node.op.startswith("Embed") else outputs[1:place]
    normal = gs.Node(node.op, attrs={"epsilon": epsilon}, outputs=[outputs[0], *statistics])
    made = [body.maker.variable("unused", body.dtype), *outputs[1:place], total]
    made[1:place] = [gs.Variable.empty() if o in statistics else o for o in made[1:place]]
    summing = gs.Node(
        node.op, f"{total.name}_node", dict(node.attrs), list(node.inputs), made, domain=node.domain
    )
    body.nodes.append(summing)
    return total, normal, chosen


def _normalised(
    body: _Body, node: gs.Node, mask: gs.Tensor, data: gs.Tensor, axes: list[int], factor: float
) -> gs.Tensor:
    centred = body.masked(mask, data)
    centre = None
    if node.op not in WITHOUT_MEAN:
        centre = body.mean(centred, axes, factor)
        centred = body.masked(mask, body.add("Sub", data, centre))
    variance = body.mean(body.add("Mul", centred, centred), axes, factor)
    spread = body.add("Sqrt", body.add("Add", variance, body.number(float(node.attrs.get("epsilon", 1e-5)))))
    _statistics(body, node, centre, spread)
    return body.add("Div", centred, spread)


def _statistics(body: _Body, node: gs.Node, centre: gs.Tensor | None, spread: gs.Tensor) -> None:
    """Give the mean and the inverse deviation, the further outputs of a LayerNormalization."""
    inverse = body.add("Reciprocal", spread) if any(t.name for t in node.outputs[1:]) else None
    given = [value for value in (centre, inverse) if value is not None]
    for output, value in zip(node.outputs[1:], given, strict=False):
        if output.name:
            body.add("Identity", value, output=output)


def _grouped(
    body: _Body, data: gs.Tensor, shape: tuple[int, ...], mask: np.ndarray, groups: int
) -> tuple[gs.Tensor, np.ndarray, gs.Tensor]:
    target = np.asarray([0, groups, shape[1] // groups, -1], np.int64)
    whole = body.add("Shape", data)
    whole.dtype = np.dtype(np.int64)
    viewed = body.add("Reshape", data, body.maker.constant("shape", target))
    spatial = np.broadcast_to(mask, (1, shape[1], *mask.shape[2:]))
    return viewed, spatial.reshape(1, groups, shape[1] // groups, -1), whole


def _shaped(body: _Body, node: gs.Node, param: gs.Tensor, rank: int, grouped: bool) -> gs.Tensor:
    """Give a vector per channel or group the rank that broadcasts."""
    if node.op not in ("InstanceNormalization", "GroupNormalization"):
        return param
    tail = [1, 1] if grouped else [1] * (rank - 2)
    target = body.maker.constant("shape", np.asarray([-1, *tail], np.int64))
    return body.add("Reshape", param, target)
