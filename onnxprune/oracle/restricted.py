"""Normalisations restricted to the kept channels, written out in primitive operators.

y = (x - mean) / sqrt(var + eps) * scale + bias, with mean and variance over the kept elements
(Ba et al. 2016, arXiv:1607.06450; Wu and He 2018, arXiv:1803.08494; RMSNorm: arXiv:1910.07467).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import NodeProto

from onnxprune.analysis.trace import Step
from onnxprune.oracle.builder import Builder

WITHOUT_MEAN = ("RMSNormalization", "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization")
SUMMING = {
    "SkipLayerNormalization": (3, (2, 3)),
    "SkipSimplifiedLayerNormalization": (3, (2,)),
    "EmbedLayerNormalization": (2, (5, 6)),
}
SUMMING_EPSILON = 1e-12


class _Body:
    """Writes a chain of primitive nodes."""

    def __init__(self, builder: Builder, dtype: np.dtype) -> None:
        self.builder, self.dtype = builder, dtype
        self.nodes: list[NodeProto] = []

    def add(self, op: str, *inputs: str, output: str = "", dtype: Any = None, **attributes: Any) -> str:
        result = output or self.builder.variable(op.lower(), self.dtype if dtype is None else dtype)
        self.nodes.append(self.builder.node(op, inputs, result, **attributes))
        return result

    def number(self, value: float) -> str:
        return self.builder.constant("number", np.asarray(value, dtype=self.dtype))

    def mean(self, value: str, axes: list[int], factor: float) -> str:
        if self.builder.opset >= 18:
            where = self.builder.constant("axes", np.asarray(axes, np.int64))
            mean = self.add("ReduceMean", value, where, keepdims=1)
        else:
            mean = self.add("ReduceMean", value, axes=axes, keepdims=1)
        return self.add("Mul", mean, self.number(factor))

    def masked(self, mask: np.ndarray, value: str) -> str:
        if self.builder.opset >= 9:
            return self.add("Where", self.builder.constant("mask", mask), value, self.number(0.0))
        return self.add("Mul", value, self.builder.constant("mask", np.asarray(mask, dtype=self.dtype)))


@dataclass(frozen=True)
class _Normalisation:
    """What is normalised: the operator, its data, parameters and outputs."""

    op: str
    data: str
    params: tuple[str, ...]
    outputs: tuple[str, ...]
    epsilon: float


def restrict(builder: Builder, step: Step, mask: np.ndarray, factor: float) -> list[NodeProto]:
    """Return what stands for a normalisation: one over the kept elements.

    mask: booleans that broadcast to the input; factor: all elements per kept element of a statistic.
    """
    node, attrs = builder.patch.node(step.number), step.node.attrs
    body = _Body(builder, builder.dtype(node.output[0]))
    shape = step.site.out()
    axes, view = list(range(2, len(shape))), ""
    epsilon = float(attrs.get("epsilon", 1e-5))
    wanted = _Normalisation(node.op_type, node.input[0], tuple(node.input[1:]), tuple(node.output), epsilon)
    if node.op_type in SUMMING:
        wanted = _summed(body, node, float(attrs.get("epsilon", SUMMING_EPSILON)))
        axes = [len(shape) - 1]
    elif node.op_type == "GroupNormalization":
        data, mask, view = _grouped(body, wanted.data, shape, mask, int(attrs["num_groups"]))
        wanted = replace(wanted, data=data)
        axes = [2, 3]
    elif node.op_type != "InstanceNormalization":
        axes = list(range(int(attrs.get("axis", -1)) % len(shape), len(shape)))
    scaled = _normalised(body, wanted, mask, axes, factor)
    if view and step.site.opset >= 21:
        scaled, view = body.add("Reshape", scaled, view), ""
    for op, param in zip(("Mul", "Add"), wanted.params, strict=False):
        if param:
            scaled = body.add(op, scaled, _shaped(body, wanted.op, param, len(shape), bool(view)))
    if view:
        scaled = body.add("Reshape", scaled, view)
    body.add("Identity", scaled, output=node.output[0])
    return body.nodes


def _summed(body: _Body, node: NodeProto, epsilon: float) -> _Normalisation:
    """Let the node make only the sum that it normalises, and what it counts.

    Returns the normalisation proper, of that sum.
    """
    place, params = SUMMING[node.op_type]
    outputs = [*node.output, *[""] * (place + 1 - len(node.output))]
    total = outputs[place] or body.builder.variable("sum", body.dtype)
    embeds = node.op_type.startswith("Embed")
    summing = NodeProto()
    summing.CopyFrom(node)
    between = outputs[1:place] if embeds else [""] * (place - 1)
    del summing.output[:]
    summing.output.extend([body.builder.variable("unused", body.dtype), *between, total])
    body.nodes.append(summing)
    statistics = () if embeds else tuple(outputs[1:place])
    chosen = tuple(node.input[i] for i in params if i < len(node.input))
    return _Normalisation(node.op_type, total, chosen, (outputs[0], *statistics), epsilon)


def _normalised(body: _Body, wanted: _Normalisation, mask: np.ndarray, axes: list[int], factor: float) -> str:
    centred = body.masked(mask, wanted.data)
    centre = ""
    if wanted.op not in WITHOUT_MEAN:
        centre = body.mean(centred, axes, factor)
        centred = body.masked(mask, body.add("Sub", wanted.data, centre))
    variance = body.mean(body.add("Mul", centred, centred), axes, factor)
    spread = body.add("Sqrt", body.add("Add", variance, body.number(wanted.epsilon)))
    _statistics(body, wanted.outputs[1:], centre, spread)
    return body.add("Div", centred, spread)


def _statistics(body: _Body, outputs: tuple[str, ...], centre: str, spread: str) -> None:
    """Give the mean and the inverse deviation, the further outputs of a LayerNormalization."""
    inverse = body.add("Reciprocal", spread) if any(outputs) else ""
    for output, value in zip(outputs, [v for v in (centre, inverse) if v], strict=False):
        if output:
            body.add("Identity", value, output=output)


def _grouped(
    body: _Body, data: str, shape: tuple[int, ...], mask: np.ndarray, groups: int
) -> tuple[str, np.ndarray, str]:
    target = np.asarray([0, groups, shape[1] // groups, -1], np.int64)
    whole = body.add("Shape", data, dtype=np.int64)
    viewed = body.add("Reshape", data, body.builder.constant("shape", target))
    spatial = np.broadcast_to(mask, (1, shape[1], *mask.shape[2:]))
    return viewed, spatial.reshape(1, groups, shape[1] // groups, -1), whole


def _shaped(body: _Body, op: str, param: str, rank: int, grouped: bool) -> str:
    """Give a vector per channel or group the rank that broadcasts."""
    if op not in ("InstanceNormalization", "GroupNormalization"):
        return param
    tail = [1, 1] if grouped else [1] * (rank - 2)
    target = body.builder.constant("shape", np.asarray([-1, *tail], np.int64))
    return body.add("Reshape", param, target)
