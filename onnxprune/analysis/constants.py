"""Small values followed through the graph: shapes, the arithmetic on them, and integer constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx

LIMIT = 1 << 16


@dataclass(frozen=True, slots=True)
class Known:
    """A value known at analysis; `derived` marks the elements that come from a Shape at run time."""

    value: np.ndarray
    derived: np.ndarray

    @staticmethod
    def constant(value: np.ndarray) -> Known:
        """Wrap a value that is stored in the model."""
        return Known(value, np.zeros(value.shape, dtype=bool))


Arrays = list[np.ndarray | None]
_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "Abs": np.abs, "Add": np.add, "And": np.logical_and, "Ceil": np.ceil, "Equal": np.equal,
    "Floor": np.floor, "Greater": np.greater, "GreaterOrEqual": np.greater_equal,
    "Identity": lambda x: x, "Less": np.less, "LessOrEqual": np.less_equal, "Max": np.maximum,
    "Min": np.minimum, "Mul": np.multiply, "Neg": np.negative, "Not": np.logical_not,
    "Or": np.logical_or, "Pow": np.power, "Reciprocal": np.reciprocal, "Sqrt": np.sqrt,
    "Sub": np.subtract, "Where": np.where,
}  # fmt: skip
_REDUCE: dict[str, Callable[..., Any]] = {
    "ReduceProd": np.prod,
    "ReduceSum": np.sum,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
}


def _ints(array: np.ndarray | None) -> list[int]:
    return [] if array is None else [int(v) for v in array.ravel()]


def _axes(attrs: Mapping[str, Any], inputs: Arrays, index: int = 1) -> list[int] | None:
    if "axes" in attrs:
        return list(attrs["axes"])
    return _ints(inputs[index]) if len(inputs) > index and inputs[index] is not None else None


def _divide(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    if np.issubdtype(left.dtype, np.integer):
        return np.sign(left) * np.sign(right) * (np.abs(left) // np.abs(right))
    return left / right


def _modulo(left: np.ndarray, right: np.ndarray, truncated: bool) -> np.ndarray:
    """Return the remainder, of the sign of the divisor, or of the dividend where truncated."""
    return np.asarray(np.fmod(left, right) if truncated else np.mod(left, right))


def _slice(data: np.ndarray, attrs: Mapping[str, Any], inputs: Arrays) -> np.ndarray:
    starts = list(attrs["starts"]) if "starts" in attrs else _ints(inputs[1])
    ends = list(attrs["ends"]) if "ends" in attrs else _ints(inputs[2])
    axes = _axes(attrs, inputs, 3) or list(range(len(starts)))
    steps = _ints(inputs[4]) if len(inputs) > 4 else [1] * len(starts)
    picks: list[slice] = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps or [1] * len(starts), strict=True):
        size = data.shape[axis]
        stop = None if step < 0 and end < -size else end
        picks[axis] = slice(start, stop, step)
    return data[tuple(picks)]


def _unsqueeze(data: np.ndarray, attrs: Mapping[str, Any], inputs: Arrays) -> np.ndarray:
    axes = _axes(attrs, inputs) or []
    rank = data.ndim + len(axes)
    return np.expand_dims(data, tuple(a % rank for a in axes))


def _squeeze(data: np.ndarray, attrs: Mapping[str, Any], inputs: Arrays) -> np.ndarray:
    axes = _axes(attrs, inputs)
    return np.squeeze(data, None if axes is None else tuple(axes))


def _reshape(data: np.ndarray, attrs: Mapping[str, Any], inputs: Arrays) -> np.ndarray:
    target = list(attrs["shape"]) if "shape" in attrs else _ints(inputs[1])
    return data.reshape([data.shape[i] if t == 0 else t for i, t in enumerate(target)])


def _expand(data: np.ndarray, _attrs: Mapping[str, Any], inputs: Arrays) -> np.ndarray:
    return (
        data * np.ones(_ints(inputs[1]), dtype=data.dtype)
        if data.dtype != bool
        else data | np.zeros(_ints(inputs[1]), dtype=bool)
    )


def _gather(data: np.ndarray, attrs: Mapping[str, Any], inputs: Arrays) -> np.ndarray:
    assert inputs[1] is not None
    return np.take(data, inputs[1].astype(np.int64), axis=int(attrs.get("axis", 0)))


_MOVES: dict[str, Callable[[np.ndarray, Mapping[str, Any], Arrays], np.ndarray]] = {
    "Slice": _slice,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Expand": _expand,
    "Gather": _gather,
    "Flatten": lambda data, _a, _i: data.reshape(1, -1),
    "Transpose": lambda data, attrs, _i: np.transpose(data, attrs.get("perm")),
}


def evaluate(
    op: str, attrs: Mapping[str, Any], inputs: list[Known | None], outputs: int = 1
) -> tuple[Known, ...] | None:
    """Run a node on known inputs; None where it fails or is not one that shapes are computed with."""
    values: Arrays = [None if known is None else known.value for known in inputs]
    first = inputs[0] if inputs else None
    if first is None or any(v is not None and v.size > LIMIT for v in values):
        return None
    try:
        if op == "Split":
            return _split(first, attrs, values, outputs)
        result = _evaluate(op, attrs, inputs, values, first)
    except (IndexError, ValueError, ZeroDivisionError):
        return None
    return None if result is None or outputs != 1 or result.value.size > LIMIT else (result,)


def _split(data: Known, attrs: Mapping[str, Any], values: Arrays, outputs: int) -> tuple[Known, ...] | None:
    axis = int(attrs.get("axis", 0))
    given = list(attrs["split"]) if "split" in attrs else _ints(values[1]) if len(values) > 1 else []
    width = -(-data.value.shape[axis] // outputs)
    ends = np.cumsum(given)[:-1] if given else np.arange(1, outputs) * width
    parts = (np.split(array, ends, axis) for array in (data.value, data.derived))
    found = tuple(Known(value, derived) for value, derived in zip(*parts, strict=True))
    return found if len(found) == outputs else None


def _evaluate(
    op: str, attrs: Mapping[str, Any], inputs: list[Known | None], values: Arrays, first: Known
) -> Known | None:
    known = [k for k in inputs if k is not None]
    if op == "Expand" and first.value.dtype.kind == "f":
        return None  # spread out it is data, whose axes have channels: the initial state of an RNN
    if op in _MOVES:
        move = _MOVES[op]
        return Known(move(first.value, attrs, values), move(first.derived, attrs, values))
    functions = _ELEMENTWISE | {"Div": _divide, "Mod": partial(_modulo, truncated=bool(attrs.get("fmod", 0)))}
    if op in functions:
        function = functions[op]
        value = _chained(op, function, [k.value for k in known])
        derived = np.zeros(value.shape, dtype=bool)
        for k in known:
            derived = derived | k.derived
        return Known(value, derived)
    if op == "Cast":
        dtype = onnx.helper.tensor_dtype_to_np_dtype(int(attrs["to"]))
        return Known(first.value.astype(dtype), first.derived)
    if op == "Concat":
        axis = int(attrs["axis"])
        return Known(
            np.concatenate([k.value for k in known], axis), np.concatenate([k.derived for k in known], axis)
        )
    if op in _REDUCE:
        axes = _axes(attrs, values)
        where = None if axes is None else tuple(axes)
        keep = bool(attrs.get("keepdims", 1))
        value = np.asarray(_REDUCE[op](first.value, axis=where, keepdims=keep)).astype(first.value.dtype)
        return Known(value, np.asarray(first.derived.any(axis=where, keepdims=keep)))
    return _filled(op, attrs, known)


def _chained(op: str, function: Callable[..., Any], values: list[np.ndarray]) -> np.ndarray:
    if op not in ("Max", "Min"):
        with np.errstate(all="ignore"):
            result = np.asarray(function(*values))
        return result.astype(values[0].dtype) if op in ("Pow", "Sqrt", "Reciprocal") else result
    result = values[0]
    for value in values[1:]:
        result = np.asarray(function(result, value))
    return result


def _filled(op: str, attrs: Mapping[str, Any], known: list[Known]) -> Known | None:
    derived = any(k.derived.any() for k in known)
    if op == "Range":
        value = np.arange(*(k.value.item() for k in known)).astype(known[0].value.dtype)
    elif op == "ConstantOfShape" and known[0].value.size and np.prod(known[0].value) <= LIMIT:
        fill = attrs.get("value")
        item = np.zeros(1, np.float32) if fill is None else np.asarray(fill.values)
        if not np.issubdtype(item.dtype, np.integer) and item.dtype != bool:
            return None
        value = np.full([int(v) for v in known[0].value], item.ravel()[0], dtype=item.dtype)
    else:
        return None
    return Known(value, np.full(value.shape, derived))


def shape_value(shape: tuple[int, ...], attrs: Mapping[str, Any]) -> Known:
    """Evaluate a Shape node."""
    value = np.asarray(shape, dtype=np.int64)[attrs.get("start", 0) : attrs.get("end")]
    return Known(value, np.ones(value.shape, dtype=bool))


def size_value(shape: tuple[int, ...]) -> Known:
    """Evaluate a Size node."""
    return Known(np.asarray(np.prod(shape, dtype=np.int64)), np.ones((), dtype=bool))
