"""What rules say of weights that fit: onnx's own shape inference does not ask.

A rule's `fits` lists the inputs whose sizes contradict each other, with what is wrong, as the end of a
sentence about the tensor. Sizes may be unknown here, so it reads shapes and not a signature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import onnx

Dims: TypeAlias = "list[int | None]"


@dataclass(frozen=True)
class Meeting:
    """A node and the sizes of what it reads, as far as they are known; None for an axis of any size."""

    node: onnx.NodeProto
    shapes: Mapping[str, Dims]

    def dims(self, place: int) -> Dims | None:
        """Return the sizes of an input; None where it is missing or of unknown rank."""
        there = place < len(self.node.input) and self.node.input[place]
        return self.shapes.get(self.node.input[place]) if there else None

    def attribute(self, name: str, default: int) -> int:
        """Return an integer attribute."""
        return next((int(a.i) for a in self.node.attribute if a.name == name), default)

    def takes(self, found: int | None, has: int | None) -> Iterator[tuple[int, str]]:
        """Compare the input channels of the weight with those of the data."""
        if _differ(has, found):
            yield 1, f"takes {found} input channels, but its input '{self.node.input[0]}' has {has}"

    def biases(self, out: int | None) -> Iterator[tuple[int, str]]:
        """Compare the last axis of the bias with the output channels."""
        bias = self.dims(2)
        if bias and bias[-1] != 1 and _differ(bias[-1], out):
            yield 2, f"has {bias[-1]} biases, expected {out}"


Fits: TypeAlias = Callable[[Meeting], "Iterator[tuple[int, str]]"]


def _differ(first: int | None, second: int | None) -> bool:
    return first is not None and second is not None and first != second


def _kernel(meeting: Meeting) -> list[int] | None:
    """Return the dims of the weight of a convolution, None where they are not all known."""
    dims = meeting.dims(1)
    known = [] if dims is None else [d for d in dims if d is not None]
    return known if dims is not None and len(known) == len(dims) >= 3 else None


def convolution(meeting: Meeting) -> Iterator[tuple[int, str]]:
    """Check a Conv: W is [C_out, C_in/g, k…]."""
    weight, group = _kernel(meeting), meeting.attribute("group", 1)
    if weight is None:
        return
    out = weight[0]
    if group < 1 or out % group:
        yield 1, f"has {out} output channels, expected a multiple of group {group}"
    yield from _convolved(meeting, weight[1] * group, out, len(weight))


def transposed_convolution(meeting: Meeting) -> Iterator[tuple[int, str]]:
    """Check a ConvTranspose: W is [C_in, C_out/g, k…]."""
    weight, group = _kernel(meeting), meeting.attribute("group", 1)
    if weight is None:
        return
    inner = weight[0]
    if group < 1 or inner % group:
        yield 1, f"takes {inner} input channels, expected a multiple of group {group}"
    yield from _convolved(meeting, inner, weight[1] * group, len(weight))


def _convolved(meeting: Meeting, inner: int, out: int, rank: int) -> Iterator[tuple[int, str]]:
    data, bias = meeting.dims(0), meeting.dims(2)
    if data is not None and len(data) == rank:
        yield from meeting.takes(inner, data[1])
    if bias is not None and len(bias) == 1 and _differ(bias[0], out):
        yield 2, f"has {bias[0]} biases, expected {out}"


def gemm(meeting: Meeting) -> Iterator[tuple[int, str]]:
    """Check a Gemm: A [M, K] and B [K, N], either transposed."""
    left, right = meeting.dims(0), meeting.dims(1)
    if left is None or right is None or len(left) != 2 or len(right) != 2:
        return
    transposed = bool(meeting.attribute("transB", 0))
    yield from meeting.takes(right[int(transposed)], left[0 if meeting.attribute("transA", 0) else 1])
    yield from meeting.biases(right[0 if transposed else 1])


def matmul(meeting: Meeting) -> Iterator[tuple[int, str]]:
    """Check a MatMul."""
    left, right = meeting.dims(0), meeting.dims(1)
    if left and right:
        yield from meeting.takes(right[-2] if len(right) > 1 else right[0], left[-1])


def per_channel(meeting: Meeting) -> Iterator[tuple[int, str]]:
    """Check vectors of one value for each channel, the second axis of the data."""
    data = meeting.dims(0)
    if data is None or len(data) < 2:
        return
    for place in range(1, len(meeting.node.input)):
        vector = meeting.dims(place)
        if vector is not None and len(vector) == 1 and _differ(vector[0], data[1]):
            yield place, f"has {vector[0]} channels, but its input '{meeting.node.input[0]}' has {data[1]}"
