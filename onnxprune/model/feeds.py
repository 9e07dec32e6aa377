"""Inputs that a model runs with: sizes searched, values made from the declared types."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx

from onnxprune.errors import UsageError
from onnxprune.model.graph import InputSpec, input_specs
from onnxprune.model.inference import Inference
from onnxprune.model.mapped import MappedModel, light
from onnxprune.model.runtime import one_line, open_session, run, runtime_errors
from onnxprune.model.sizes import Given, Sizes, check_name, default_sizes, shown_inputs

Feeds = dict[str, np.ndarray]
Values = Mapping[str, Any]
Runner = Callable[[Feeds], Mapping[str, Any]]

_MASK = re.compile(r"mask", re.IGNORECASE)
_RATE = re.compile(r"^(sr|fs)$|sampl\w*_?rate", re.IGNORECASE)
_KIND = re.compile(r"type_id|segment", re.IGNORECASE)
_RATES = (16000, 8000)
_PADS = re.compile(r"(^|_)pad(s|ding)?$", re.IGNORECASE)
MOST_BYTES = 1 << 29  # of one tensor, at sizes that are guessed
_ID_LIMIT = 100  # exclusive; large enough to tell rows of an embedding apart, small enough for most


@dataclass(frozen=True)
class _Style:
    """How values are made: ints below `limit` (all equal to the largest where `extreme`), single ints
    equal to `single`, floats drawn or in [0, 1).
    """

    limit: int = _ID_LIMIT
    single: int | None = None
    unit: bool = False
    bools: bool | None = None
    extreme: bool = False


_STYLES = (
    _Style(),
    _Style(limit=10),
    _Style(limit=2),
    _Style(limit=1),
    _Style(unit=True),
    _Style(limit=10, single=1),
    _Style(limit=10, single=_RATES[0]),
    _Style(limit=10, single=_RATES[1]),
    _Style(limit=2, bools=True),
    _Style(limit=2, bools=False),
)


def find_feeds(
    model: onnx.ModelProto | MappedModel,
    given_shapes: Given | None = None,
    given_values: Values | None = None,
    seed: int = 0,
    runner: Runner | None = None,
) -> Feeds:
    """Find inputs with which onnxruntime runs the model; those giving finite outputs are preferred.

    runner: what runs the model, instead of a session of its own. Raises UsageError where none of the
    candidates runs, UnprovedError where no session can be opened.
    """
    source = model if isinstance(model, MappedModel) else light(model)
    values = _arrays(source.model, given_values or {})
    given: dict[str, tuple[int | None, ...]] = {n: a.shape for n, a in values.items() if a.ndim}
    candidates = default_sizes(source.model, given | dict(given_shapes or {}))
    return _search(source.model, runner or partial(run, open_session(source)), candidates, (values, seed))


def check_given(model: onnx.ModelProto, shapes: Given, values: Values) -> None:
    """Refuse sizes and values that the model's inputs do not take, without running it. Raises UsageError."""
    default_sizes(model, {n: a.shape for n, a in _arrays(model, values).items() if a.ndim} | dict(shapes))


def feeds_for(
    model: onnx.ModelProto,
    shapes: Mapping[str, tuple[int, ...]],
    values: Values | None = None,
    seed: int = 0,
    like: Mapping[str, np.ndarray] | None = None,
) -> Feeds:
    """Make inputs of the given shapes, in the value ranges of feeds known to run where `like` has them.

    Without `like` the ranges are searched as `find_feeds` does. Raises as `find_feeds`.
    """
    arrays = _arrays(model, values or {})
    sizes = default_sizes(model, shapes)[0]
    if like is None:
        return _search(model, partial(run, open_session(model)), [sizes], (arrays, seed))
    rng = np.random.default_rng(seed)
    specs = input_specs(model)
    return {n: _fitted(arrays[n], sizes[n]) if n in arrays else _alike(like[n], sizes[n], rng) for n in specs}


def _search(model: onnx.ModelProto, runner: Runner, candidates: list[Sizes], how: tuple[Feeds, int]) -> Feeds:
    """Try sizes and kinds of values in turn; none but the first sizes where a tensor would be very large.

    how: values that are given, and the seed of the others.
    """
    specs, (values, seed) = input_specs(model), how
    outputs = [output.name for output in model.graph.output]
    reason = ""
    inference = Inference(model) if len(candidates) > 1 else None
    for number, sizes in enumerate(candidates):
        if number and inference is not None and inference.largest(sizes) > MOST_BYTES:
            continue
        fallback: Feeds | None = None
        for feeds, extreme in _variants(specs, sizes, values, seed):
            try:
                made = runner(feeds)
            except runtime_errors() as error:
                reason = reason or one_line(error)
                continue
            # Ids that fit by luck would not fit with another seed: the largest of the range must, too.
            finite = _finite(made[name] for name in outputs)
            if finite and (extreme is None or _runs(runner, extreme)):
                return feeds
            fallback = fallback or feeds
        if fallback is not None:
            return fallback
    inputs = ", ".join(shown_inputs(specs))
    raise UsageError(
        f"no input found that onnxruntime runs the model with; its inputs are {inputs}; "
        "give sizes as --input-shape NAME:1,3,224,224 or values as --input-value NAME=VALUE|FILE.npy; "
        f"the first try failed with: {reason}"
    )


def _runs(runner: Runner, feeds: Feeds) -> bool:
    try:
        return bool(runner(feeds))
    except runtime_errors():
        return False


def _finite(outputs: Any) -> bool:
    floats = (a for a in outputs if isinstance(a, np.ndarray) and a.dtype.kind == "f")
    return all(bool(np.isfinite(a).all()) for a in floats)


def _variants(
    specs: Mapping[str, InputSpec], sizes: Sizes, values: Feeds, seed: int
) -> Iterator[tuple[Feeds, Feeds | None]]:
    """Feeds of the given sizes in every style that makes a difference, the usual one first.

    With each come the feeds that hold the style's largest ints, None where there are no ints.
    """
    seen: list[list[bytes]] = []
    for style in _STYLES:
        feeds = _styled(specs, sizes, values, (style, seed))
        extreme = _styled(specs, sizes, values, (replace(style, extreme=True), seed))
        if _key(feeds) not in seen:
            seen.append(_key(feeds))
            yield feeds, None if _key(extreme) == _key(feeds) else extreme


def _styled(specs: Mapping[str, InputSpec], sizes: Sizes, values: Feeds, how: tuple[_Style, int]) -> Feeds:
    style, seed = how
    feeds: Feeds = {}
    for index, (name, spec) in enumerate(specs.items()):
        # One generator per input: how one is made must not shift the values of the next.
        rng = np.random.default_rng((seed, index))
        given = name in values
        feeds[name] = _fitted(values[name], sizes[name]) if given else _made(spec, sizes[name], style, rng)
    return feeds


def _key(feeds: Feeds) -> list[bytes]:
    return [b"" if array.dtype.kind == "O" else array.tobytes() for array in feeds.values()]


def _made(spec: InputSpec, shape: tuple[int, ...], style: _Style, rng: np.random.Generator) -> np.ndarray:
    dtype = np_dtype(spec)
    if dtype.kind == "O":
        return np.full(shape, "1", object)
    if dtype.kind == "b":
        return np.full(shape, style.bools) if style.bools is not None else _random_bools(spec, shape, rng)
    if dtype.kind in "iu":
        return _ints(spec, shape, style, rng).astype(dtype)
    if _MASK.search(spec.name):
        return np.ones(shape, dtype)
    drawn = rng.random(shape) if style.unit else rng.standard_normal(shape)
    return np.asarray(drawn).astype(dtype)


def _random_bools(spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return np.ones(shape, bool) if _MASK.search(spec.name) else np.asarray(rng.random(shape) < 0.5)


def _ints(spec: InputSpec, shape: tuple[int, ...], style: _Style, rng: np.random.Generator) -> np.ndarray:
    if _MASK.search(spec.name):
        return np.ones(shape, np.int64)
    if int(np.prod(shape)) == 1 and len(shape) < 2:
        if style.single is not None:
            return np.full(shape, style.single, np.int64)
        if _RATE.search(spec.name):
            return np.full(shape, _RATES[0], np.int64)
    # Token types have a table of two rows where the tokens beside them have thousands.
    few = _KIND.search(spec.name) or _PADS.search(spec.name)  # and widths of a border multiply
    limit = min(style.limit, 2) if few else style.limit
    return np.full(shape, limit - 1, np.int64) if style.extreme else np.asarray(rng.integers(0, limit, shape))


def _alike(sample: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """New values in the range of a sample; a constant stays that constant."""
    if sample.size == 0 or sample.dtype == object or bool((sample == sample.flat[0]).all()):
        return _fitted(sample, shape)
    if sample.dtype == bool:
        return np.asarray(rng.random(shape) < 0.5)
    if sample.dtype.kind in "iu":
        return np.asarray(rng.integers(int(sample.min()), int(sample.max()) + 1, shape)).astype(sample.dtype)
    drawn = rng.random(shape) if float(sample.min()) >= 0 else rng.standard_normal(shape)
    return np.asarray(drawn).astype(sample.dtype)


def _fitted(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Repeat or cut an array along each axis until it has the shape."""
    if array.ndim == 0 or array.size == 0:
        return np.broadcast_to(array, shape).copy() if array.ndim == 0 else np.zeros(shape, array.dtype)
    for axis, size in enumerate(shape):
        if array.shape[axis] != size:
            array = np.take(array, np.arange(size) % array.shape[axis], axis)
    return array


def np_dtype(spec: InputSpec) -> np.dtype:
    """numpy's type for an input.

    Raises UsageError for an input that is no tensor.
    """
    if not spec.dtype:
        raise UsageError(
            f"input '{spec.name}' is no tensor (a sequence, map or optional); it cannot be made up"
        )
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(spec.dtype))


def _arrays(model: onnx.ModelProto, values: Values) -> Feeds:
    specs = input_specs(model)
    result: Feeds = {}
    for name, value in values.items():
        check_name(name, specs)
        try:
            array = np.asarray(value, np_dtype(specs[name]))
        except (TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"input '{name}': its value is no {np_dtype(specs[name])}: {error}") from error
        rank = len(specs[name].dims or array.shape)
        if array.ndim not in (0, rank):
            raise UsageError(f"input '{name}': got an array of {array.ndim} dimensions, expected {rank}")
        result[name] = array
    return result
