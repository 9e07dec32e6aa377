"""Values that are known before a model runs: what a node makes of shapes and of small stored integers.

Each function here is what numpy calls the operator; a rule names the one that belongs to it (`evaluate`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
import onnx

LIMIT = 1 << 16  # elements of a value that is followed


DERIVED, DYNAMIC = np.uint8(1), np.uint8(2)


@dataclass(frozen=True, slots=True)
class Known:
    """A value known at analysis, and marks of its elements.

    DERIVED: it comes from a Shape at run time, so that it may change when channels are removed.
    DYNAMIC: it, or whether it is there at all, changes with the sizes of the model's inputs.
    """

    value: np.ndarray
    marks: np.ndarray

    @staticmethod
    def constant(value: np.ndarray) -> Known:
        """Wrap a value that is stored in the model."""
        return Known(value, np.zeros(value.shape, dtype=np.uint8))

    @staticmethod
    def dims(shape: tuple[int, ...], varying: np.ndarray | None = None) -> Known:
        """Wrap the dims of a tensor; varying: which of them change with the sizes of the model's inputs."""
        marks = np.full(len(shape), DERIVED)
        if varying is not None:
            marks = marks | np.where(varying, DYNAMIC, np.uint8(0))
        return Known(np.asarray(shape, dtype=np.int64), marks)

    @property
    def derived(self) -> bool:
        """Tell whether any element comes from a Shape."""
        return bool((self.marks & DERIVED).any())

    @property
    def mark(self) -> np.uint8:
        """Return the marks of all elements together."""
        return np.bitwise_or.reduce(self.marks, axis=None, initial=np.uint8(0))


@dataclass(frozen=True)
class Given:
    """What a node is evaluated on; the first input is known. outputs: how many the node has."""

    attrs: Mapping[str, Any]
    inputs: tuple[Known | None, ...]
    outputs: int

    @property
    def spread(self) -> np.uint8:
        """Return the marks of all inputs but the first: they decide about every element."""
        others = (known.mark for known in self.inputs[1:] if known is not None)
        return reduce(np.bitwise_or, others, np.uint8(0))

    @property
    def present(self) -> list[Known]:
        """Return the inputs that are there."""
        return [known for known in self.inputs if known is not None]

    def ints(self, attr: str, place: int) -> list[int] | None:
        """Read a list of integers that is an attribute in old opsets and an input in new ones."""
        if attr in self.attrs:
            return list(self.attrs[attr])
        known = self.inputs[place] if place < len(self.inputs) else None
        return None if known is None else [int(v) for v in known.value.ravel()]


Evaluate: TypeAlias = Callable[[Given], "tuple[Known, ...] | None"]
FromShape: TypeAlias = Callable[[Known, Mapping[str, Any]], Known]


# -- arithmetic ----------------------------------------------------------------------------------------------
def pointwise(function: Callable[..., Any]) -> Evaluate:
    """Evaluate element by element; what is made of a marked element is marked."""

    def evaluate(given: Given) -> tuple[Known, ...]:
        known = given.present
        with np.errstate(all="ignore"):
            value = np.asarray(function(*(k.value for k in known)))
        none = np.zeros(value.shape, dtype=np.uint8)
        return (Known(value, reduce(np.bitwise_or, (k.marks for k in known), none)),)

    return evaluate


def typed(function: Callable[..., Any]) -> Evaluate:
    """Evaluate element by element, in the type of the first operand."""
    return pointwise(lambda *values: np.asarray(function(*values)).astype(values[0].dtype))


def folded(function: Callable[..., Any]) -> Evaluate:
    """Evaluate an operator of any number of operands, two at a time."""
    return pointwise(lambda *values: reduce(function, values))


def quotient(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Divide; integers are rounded towards zero."""
    if np.issubdtype(left.dtype, np.integer):
        return np.asarray(np.sign(left) * np.sign(right) * (np.abs(left) // np.abs(right)))
    return np.asarray(left / right)


def remainder(given: Given) -> tuple[Known, ...] | None:
    """Evaluate Mod: of the sign of the divisor, or of the dividend with `fmod`."""
    return pointwise(np.fmod if given.attrs.get("fmod", 0) else np.mod)(given)


def cast(given: Given) -> tuple[Known, ...]:
    """Evaluate Cast."""
    first = given.present[0]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(int(given.attrs["to"]))
    return (Known(first.value.astype(dtype), first.marks),)


def reduced(function: Callable[..., Any]) -> Evaluate:
    """Evaluate a reduction; what any marked element went into is marked."""

    def evaluate(given: Given) -> tuple[Known, ...]:
        first, axes = given.present[0], given.ints("axes", 1)
        where = tuple(range(first.value.ndim)) if axes is None else tuple(axes)
        keep = bool(given.attrs.get("keepdims", 1))
        value = np.asarray(function(first.value, axis=where, keepdims=keep)).astype(first.value.dtype)
        return (Known(value, np.asarray(np.bitwise_or.reduce(first.marks, axis=where)).reshape(value.shape)),)

    return evaluate


# -- movement ------------------------------------------------------------------------------------------------
def moved(move: Callable[[np.ndarray, Given], np.ndarray]) -> Evaluate:
    """Evaluate an operator that moves elements about: the marks move as the values do.

    Bounds, places and sizes that are marked decide which elements are there at all: they mark all of them.
    """

    def evaluate(given: Given) -> tuple[Known, ...]:
        first = given.present[0]
        return (Known(move(first.value, given), move(first.marks, given) | given.spread),)

    return evaluate


def sliced(data: np.ndarray, given: Given) -> np.ndarray:
    """Slice data."""
    starts, ends = given.ints("starts", 1) or [], given.ints("ends", 2) or []
    axes = given.ints("axes", 3) or list(range(len(starts)))
    steps = given.ints("steps", 4) or [1] * len(starts)
    picks: list[slice] = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        stop = None if step < 0 and end < -data.shape[axis] else end
        picks[axis] = slice(start, stop, step)
    return data[tuple(picks)]


def unsqueezed(data: np.ndarray, given: Given) -> np.ndarray:
    """Add axes of size 1."""
    axes = given.ints("axes", 1) or []
    return np.expand_dims(data, tuple(a % (data.ndim + len(axes)) for a in axes))


def squeezed(data: np.ndarray, given: Given) -> np.ndarray:
    """Drop axes of size 1."""
    axes = given.ints("axes", 1)
    return np.squeeze(data, None if axes is None else tuple(axes))


def reshaped(data: np.ndarray, given: Given) -> np.ndarray:
    """Reshape data; 0 stands for the size of the input."""
    target = given.ints("shape", 1) or []
    return data.reshape([data.shape[i] if t == 0 else t for i, t in enumerate(target)])


def flattened(data: np.ndarray, given: Given) -> np.ndarray:
    """Join the axes in front of one, and those from it on."""
    axis = int(given.attrs.get("axis", 1))
    return data.reshape(int(np.prod(data.shape[:axis], dtype=np.int64)), -1)


def turned(data: np.ndarray, given: Given) -> np.ndarray:
    """Permute axes."""
    return np.transpose(data, given.attrs.get("perm"))


def triangle(data: np.ndarray, given: Given) -> np.ndarray:
    """Keep the upper or lower triangle of the last two axes; the rest is zero."""
    known = given.inputs[1] if len(given.inputs) > 1 else None
    k = 0 if known is None else int(known.value.item())
    return np.triu(data, k) if given.attrs.get("upper", 1) else np.tril(data, k)


def gathered(data: np.ndarray, given: Given) -> np.ndarray:
    """Take places along an axis."""
    index = given.present[1].value.astype(np.int64)
    return np.take(data, index, axis=int(given.attrs.get("axis", 0)))


def expanded(given: Given) -> tuple[Known, ...] | None:
    """Evaluate Expand of integers: floats that are spread out are data, whose axes have channels.

    What is spread along a size that is marked is marked: there are more or fewer of it later.
    """
    first, target = given.present
    if first.value.dtype.kind == "f":
        return None
    shape = np.broadcast_shapes(first.value.shape, tuple(int(v) for v in target.value.ravel()))
    value, marks = (np.array(np.broadcast_to(x, shape)) for x in (first.value, first.marks))
    own = (*(1 for _ in range(len(shape) - first.value.ndim)), *first.value.shape)
    grown = np.asarray(shape[len(shape) - target.value.size :]) != own[len(shape) - target.value.size :]
    return (Known(value, marks | Known(grown, np.where(grown, target.marks.ravel(), np.uint8(0))).mark),)


def joined(given: Given) -> tuple[Known, ...]:
    """Evaluate Concat."""
    axis, known = int(given.attrs["axis"]), given.present
    return (Known(*(np.concatenate([getattr(k, part) for k in known], axis) for part in ("value", "marks"))),)


def split(given: Given) -> tuple[Known, ...]:
    """Evaluate Split; without sizes the last part may be smaller."""
    data, axis = given.present[0], int(given.attrs.get("axis", 0))
    sizes = given.ints("split", 1)
    width = -(-data.value.shape[axis] // given.outputs)
    ends = np.cumsum(sizes)[:-1] if sizes else np.arange(1, given.outputs) * width
    parts = (np.split(array, ends, axis) for array in (data.value, data.marks | given.spread))
    return tuple(Known(value, marks) for value, marks in zip(*parts, strict=True))


# -- made from numbers ---------------------------------------------------------------------------------------
def counted(given: Given) -> tuple[Known, ...]:
    """Evaluate Range."""
    known = given.present
    value = np.arange(*(k.value.item() for k in known)).astype(known[0].value.dtype)
    return (Known(value, np.full(value.shape, given.spread | known[0].mark)),)


def one_hot(given: Given) -> tuple[Known, ...]:
    """Evaluate OneHot; an index outside of the depth is nowhere."""
    indices, depth, pair = given.present
    size = int(depth.value.item())
    where = indices.value.astype(np.int64)
    where = np.where(where < 0, where + size, where)
    axis = int(given.attrs.get("axis", -1)) % (where.ndim + 1)
    places = np.arange(size).reshape([-1 if i == axis else 1 for i in range(where.ndim + 1)])
    hot = np.expand_dims(where, axis) == places
    (off, on), marks = pair.value, pair.marks
    return (Known(np.where(hot, on, off), np.where(hot, *marks[::-1]) | indices.mark | depth.mark),)


def filled(given: Given) -> tuple[Known, ...] | None:
    """Evaluate ConstantOfShape of integers and booleans; of floats it makes data."""
    shape, fill = given.present[0], given.attrs.get("value")
    item = np.zeros(1, np.float32) if fill is None else np.asarray(fill.values)
    countable = np.issubdtype(item.dtype, np.integer) or item.dtype == bool
    if not countable or not shape.value.size or np.prod(shape.value) > LIMIT:
        return None
    value = np.full([int(v) for v in shape.value], item.ravel()[0], dtype=item.dtype)
    return (Known(value, np.full(value.shape, shape.mark)),)


def shape_value(dims: Known, attrs: Mapping[str, Any]) -> Known:
    """Evaluate Shape of the dims of its input."""
    part = slice(attrs.get("start", 0), attrs.get("end"))
    return Known(dims.value[part], dims.marks[part])


def size_value(dims: Known, _attrs: Mapping[str, Any]) -> Known:
    """Evaluate Size of the dims of its input."""
    return Known(np.asarray(np.prod(dims.value, dtype=np.int64)), np.asarray(dims.mark | DERIVED))
