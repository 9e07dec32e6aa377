"""Normalisations restricted to the kept channels, written out in primitive operators.

y = (x - mean) / sqrt(var + eps) * scale + bias, with mean and variance over the kept elements
(Ba et al. 2016, arXiv:1607.06450; Wu and He 2018, arXiv:1803.08494; RMSNorm: arXiv:1910.07467). What is
normalised how is said by the signature alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from onnxprune.analysis.trace import Step
from onnxprune.model.patch import Patch
from onnxprune.rules.signature import Axes, Axis, Normalisation, Signature


class Builder:
    """Makes nodes and tensors for a patch, and knows the element type of every tensor."""

    def __init__(self, patch: Patch, dtypes: Mapping[str, int], opset: int) -> None:
        self.patch, self.opset = patch, opset
        self._dtypes = dict(dtypes)

    def dtype(self, name: str) -> np.dtype:
        """Return the numpy type of a tensor."""
        return np.dtype(helper.tensor_dtype_to_np_dtype(self._dtypes[name]))

    def constant(self, kind: str, values: np.ndarray) -> str:
        """Add a constant and return its name."""
        name = self.patch.initializer(self.patch.fresh(f"__oracle_{kind}"), np.asarray(values))
        self._dtypes[name] = int(helper.np_dtype_to_tensor_dtype(values.dtype))
        return name

    def variable(self, kind: str, dtype: np.dtype) -> str:
        """Return the name of a tensor that a node is to make."""
        name = self.patch.fresh(f"__oracle_{kind}")
        self._dtypes[name] = int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
        return name

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
        """Make a node of the standard domain."""
        name = self.patch.fresh(f"__oracle_{op.lower()}_node")
        return helper.make_node(op, inputs, [output], name, **attributes)


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

    def shaped(self, value: str, shape: list[int]) -> str:
        return self.add("Reshape", value, self.builder.constant("shape", np.asarray(shape, np.int64)))

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
class _View:
    """The normalised tensor as its statistics are taken: one dimension for each entry of `dims`.

    dims: the subscripts that a dimension numbers; shape: what it is reshaped to, None where it stays.
    """

    dims: tuple[Axis, ...]
    shape: tuple[int, ...] | None

    def over(self, subscripts: frozenset[str]) -> list[int]:
        """Return the dimensions along which these subscripts vary."""
        return [i for i, dim in enumerate(self.dims) if subscripts.intersection(dim)]

    def placed(self, own: Axes, sizes: Mapping[str, int]) -> list[int]:
        """Return the shape in which a tensor with these axes broadcasts to the view."""
        subscripts = {x for axis in own for x in axis}
        dims = [_product(dim, sizes) if subscripts & set(dim) else 1 for dim in self.dims]
        return dims[next((i for i, size in enumerate(dims) if size > 1), len(dims) - 1) :]


def _view(axes: Axes, normalised: frozenset[str], sizes: Mapping[str, int]) -> _View:
    """Split an axis along which a part is normalised and a part is not, such as groups of channels.

    Sizes in front of it are taken over from the tensor, and so is the product of those behind it where all
    or none of them are normalised: the view holds at other sizes of these, too.
    """
    mixed = [i for i, axis in enumerate(axes) if set(axis) & normalised and set(axis) - normalised]
    if not mixed:
        return _View(axes, None)
    front, own = axes[: mixed[0]], axes[mixed[0]]
    behind = tuple(x for axis in axes[mixed[0] + 1 :] for x in axis)
    split = tuple((x,) for x in own)
    shape = (*(0 for _ in front), *(sizes[x] for x in own))
    if len(mixed) == 1 and len(axes) > mixed[0] + 1 and set(behind) & normalised in (set(), set(behind)):
        return _View((*front, *split, behind), (*shape, -1))
    rest = tuple((x,) for x in behind)
    return _View((*front, *split, *rest), (*shape, *(sizes[x] for x in behind)))


def restrict(builder: Builder, step: Step, mask: np.ndarray, factor: float) -> list[NodeProto]:
    """Return what stands for a normalisation: one over the kept elements.

    mask: booleans that broadcast to the output; factor: all elements per kept element of a statistic.
    """
    signature, met = step.verdict, step.met
    assert isinstance(signature, Signature)
    assert met is not None
    how, axes = signature.normalisation, signature.outputs[0]
    assert how is not None
    assert axes is not None
    node = builder.patch.node(step.number)
    body = _Body(builder, builder.dtype(node.output[0]))
    data = node.input[0] if how.summed is None else _summed(body, node, how)
    view = _view(axes, signature.normalised, met.sizes)
    back = ""
    if view.shape is not None:
        back = body.add("Shape", data, dtype=np.int64)
        data = body.shaped(data, list(view.shape))
        mask = _viewed(mask, axes, view, met.sizes)
    scaled = _normalised(body, how, (data, mask), (view.over(signature.normalised), factor), node)
    for op, place in (("Mul", how.scale), ("Add", how.bias)):
        own = None if place is None or place >= len(node.input) else signature.inputs[place]
        if own is None or not node.input[place or 0]:
            continue
        param = node.input[place or 0]
        if back or own != axes[len(axes) - len(own) :]:
            param = body.shaped(param, view.placed(own, met.sizes))
        scaled = body.add(op, scaled, param)
    if back:
        scaled = body.add("Reshape", scaled, back)
    body.add("Identity", scaled, output=node.output[0])
    return body.nodes


def _viewed(mask: np.ndarray, axes: Axes, view: _View, sizes: Mapping[str, int]) -> np.ndarray:
    """Lay a mask out as the view does, of size 1 along the dimensions on which it does not vary."""
    whole = np.broadcast_to(mask, [_product(axis, sizes) for axis in axes])
    result = whole.reshape([_product(dim, sizes) for dim in view.dims])
    for place in range(result.ndim):
        first = result.take([0], axis=place)
        result = first if (result == first).all() else result
    return result


def _product(subscripts: Axis, sizes: Mapping[str, int]) -> int:
    return int(np.prod([sizes[x] for x in subscripts], dtype=np.int64))


def _summed(body: _Body, node: NodeProto, how: Normalisation) -> str:
    """Let the node make only the sum that it normalises, and what it counts; return the sum."""
    assert how.summed is not None
    outputs = [*node.output, *[""] * (how.summed + 1 - len(node.output))]
    total = outputs[how.summed] or body.builder.variable("sum", body.dtype)
    for place in (how.mean, how.inverse):
        if place is not None:
            outputs[place] = ""
    outputs[0], outputs[how.summed] = body.builder.variable("unused", body.dtype), total
    summing = NodeProto()
    summing.CopyFrom(node)
    del summing.output[:]
    summing.output.extend(outputs)
    body.nodes.append(summing)
    return total


def _normalised(
    body: _Body,
    how: Normalisation,
    given: tuple[str, np.ndarray],
    statistic: tuple[list[int], float],
    node: NodeProto,
) -> str:
    """Write the normalisation proper. given: data and mask; statistic: dimensions and factor of a mean."""
    data, mask = given
    centred = body.masked(mask, data)
    centre = ""
    if how.centred:
        centre = body.mean(centred, *statistic)
        centred = body.masked(mask, body.add("Sub", data, centre))
    variance = body.mean(body.add("Mul", centred, centred), *statistic)
    spread = body.add("Sqrt", body.add("Add", variance, body.number(how.epsilon)))
    for place, value in ((how.mean, centre), (how.inverse, spread)):
        output = node.output[place] if place is not None and place < len(node.output) else ""
        if output:
            wanted = value if place == how.mean else body.add("Reciprocal", value)
            body.add("Identity", wanted, output=output)
    return body.add("Div", centred, spread)
