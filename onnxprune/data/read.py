"""Data of a user: inputs, with labels or targets beside them, from files, a script or Python.

Calibration data is inputs alone; validation data may hold what the outputs should be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from zipfile import BadZipFile

import numpy as np
import onnx

from onnxprune.data.scripts import function_in, guarded
from onnxprune.errors import UsageError, without_object
from onnxprune.model.feeds import np_dtype
from onnxprune.model.graph import InputSpec, input_specs
from onnxprune.paths import open_file
from onnxprune.settings.kinds import is_script

Feeds: TypeAlias = dict[str, np.ndarray]
Source: TypeAlias = Any
Item = TypeVar("Item")
BATCH, ELEMENTS = 32, 1 << 22  # samples of a batch, and elements of its inputs, at most
HELD_OUT = 5  # every fifth batch is held out
MAX_SAMPLES = 1024
LABELS = "labels"  # the array of labels beside the inputs


@dataclass(frozen=True)
class Calibration:
    """Batches of inputs that run the model; every fifth is held out from fitting.

    samples: in all batches together; synthesised: how they were chosen where they are made up.
    """

    batches: tuple[Feeds, ...]
    samples: int
    synthesised: str = ""

    @property
    def fit(self) -> list[Feeds]:
        """Return the batches to fit with."""
        return [b for i, b in enumerate(self.batches) if not self.held(i)]

    @property
    def held_out(self) -> list[Feeds]:
        """Return the batches to judge with."""
        return [b for i, b in enumerate(self.batches) if self.held(i)]

    @property
    def judge(self) -> tuple[Feeds, ...]:
        """Return the batches held out; all, where none is."""
        return tuple(self.held_out or self.fit)

    @property
    def each(self) -> int:
        """Return the samples of a batch."""
        return max(self.samples // max(len(self.batches), 1), 1)

    def thinned(self, most: int) -> Calibration:
        """Return so many batches at most, evenly chosen: as large a part of them held out as before."""
        if most >= len(self.batches):
            return self
        fewer = replace(self, batches=self.batches[:most], samples=self.each * most)
        sides = (
            iter(spread(self.fit, len(fewer.fit))),
            iter(spread(self.held_out, len(fewer.held_out))),
        )
        return replace(fewer, batches=tuple(next(sides[fewer.held(i)]) for i in range(most)))

    def held(self, number: int) -> bool:
        """Tell whether a batch is held out: every fifth, and of a few batches the last."""
        few = len(self.batches) < HELD_OUT
        return number == len(self.batches) - 1 > 0 if few else number % HELD_OUT == HELD_OUT - 1


@dataclass(frozen=True)
class Validation:
    """Batches of inputs, and what the outputs should be where that is known.

    labels, targets: in the order of the samples; targets by the name of the output.
    """

    batches: tuple[Feeds, ...]
    labels: np.ndarray | None = None
    targets: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class _Form:
    """What a feed holds: the inputs of the model, what may stand beside them, and the word for the data."""

    specs: Mapping[str, InputSpec]
    word: str
    beside: tuple[str, ...] = ()


def read_calibration(source: Source, model: onnx.ModelProto, most: int = MAX_SAMPLES) -> Calibration:
    """Read calibration data for a model.

    source: an `.npz` (arrays by input name, samples along a leading axis), a folder of `.npy`/`.npz`
    (one feed a file), `script.py:function` (called; gives an iterable of feeds), a dict of arrays, an
    iterable of feeds, or onnxruntime's CalibrationDataReader. most: samples that are read.
    Raises UsageError for data that does not fit the model, with the first thing that is wrong.
    """
    form = _Form(input_specs(model), "calibration")
    rows, count = [], 0
    for row, _ in _read(source, form):
        rows.append(row)
        count += samples_in(row, form.specs)
        if count >= most:
            break
    return Calibration(tuple(_batched(rows, form.specs, count // HELD_OUT)), count)


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """Choose so many items at most, evenly, the first and the last among them."""
    places = np.linspace(0, len(items) - 1, min(most, len(items)))
    return [items[int(place)] for place in places]


def read_validation(source: Source, model: onnx.ModelProto) -> Validation:
    """Read all validation data for a model: as for calibration, with what should come out beside the inputs.

    An array `labels` holds a class for each sample, one with the name of an output that output's target.
    Raises UsageError for data that does not fit the model, with the first thing that is wrong.
    """
    specs = input_specs(model)
    names = dict.fromkeys((LABELS, *(output.name for output in model.graph.output)))
    form = _Form(specs, "validation", tuple(name for name in names if name not in specs))
    rows, beside = [], []
    for row, more in _read(source, form):
        rows.append(row)
        beside.append(more)
    for number, more in enumerate(beside):
        for name in (n for n in names if (n in more) != (n in beside[0])):
            with_it, without = (number, 0) if name in more else (0, number)
            raise UsageError(f"validation feed {without} lacks '{name}', which feed {with_it} holds")
    known = {name: _strung([more[name] for more in beside], name) for name in beside[0]}
    labels = known.pop(LABELS, None)
    return Validation(tuple(_batched(rows, specs, BATCH)), labels, known)


def _strung(parts: Sequence[np.ndarray], name: str) -> np.ndarray:
    try:
        return np.concatenate([np.atleast_1d(part) for part in parts])
    except ValueError as error:
        raise UsageError(
            f"the validation data's '{name}' differ in shape from feed to feed: {error}"
        ) from error


def _read(source: Source, form: _Form) -> Iterator[tuple[Feeds, Feeds]]:
    """Yield the inputs of each feed, checked, and the arrays beside them."""
    feeds, number = _feeds(source, form), 0
    while True:
        try:
            feed = next(feeds)
        except StopIteration:
            break
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(
                f"the {form.word} data ends with an error after {number} feeds: "
                f"{type(error).__name__}: {error}"
            ) from error
        yield _checked(feed, form, number), {n: np.asarray(feed[n]) for n in form.beside if n in feed}
        number += 1
    if not number:
        raise UsageError(f"the {form.word} data holds no samples: give at least one")


def samples_in(feed: Feeds, specs: Mapping[str, InputSpec]) -> int:
    """Count the samples of a feed: entries along the free first axis of its inputs, else one."""
    sizes = [feed[n].shape[0] for n, s in specs.items() if _is_batched(s) and feed[n].ndim]
    return max(sizes, default=1)


def _is_batched(spec: InputSpec) -> bool:
    return bool(spec.dims) and not isinstance((spec.dims or (0,))[0], int)


def _feeds(source: Source, form: _Form) -> Iterator[Mapping[str, Any]]:
    if isinstance(source, (str, Path)):
        return _from_path(str(source), form)
    if isinstance(source, Mapping):
        return _rows({n: np.asarray(a) for n, a in source.items()}, form, f"the {form.word} data")
    if hasattr(source, "get_next"):
        return iter(source.get_next, None)
    if isinstance(source, Iterable):
        return iter(source)
    raise UsageError(
        f"{form.word} data must be a path, a dict of arrays or an iterable of feeds: "
        f"got {type(source).__name__}"
    )


def _from_path(text: str, form: _Form) -> Iterator[Mapping[str, Any]]:
    if is_script(text):
        maker = function_in(text, form.word)
        return guarded(lambda: iter(maker()), f"{form.word} script '{text}'")
    path = Path(text)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in (".npy", ".npz"))
        if not files:
            raise UsageError(f"{form.word} folder '{path}' holds no .npy or .npz file")
        return (_one_feed(file, form) for file in files)
    arrays = _loaded(path, form.word)
    if isinstance(arrays, np.ndarray):
        return _rows({next(iter(form.specs), "input"): arrays}, form, f"'{path}'")
    return _rows(arrays, form, f"'{path}'")


def _loaded(path: Path, word: str) -> np.ndarray | dict[str, np.ndarray]:
    try:
        with open_file(path) as file:
            found = np.load(file, allow_pickle=False)
            return found if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
    except FileNotFoundError:
        raise UsageError(f"{word} data '{path}' does not exist") from None
    except OSError as error:
        raise UsageError(f"{word} data '{path}' cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, BadZipFile) as error:
        raise UsageError(f"{word} data '{path}' is no .npy or .npz file: {without_object(error)}") from error


def _one_feed(path: Path, form: _Form) -> Mapping[str, Any]:
    result = _loaded(path, form.word)
    if not isinstance(result, np.ndarray):
        return result
    if len(form.specs) != 1:
        raise UsageError(
            f"'{path}' holds one array, but the model has {len(form.specs)} inputs: write an .npz"
        )
    return {next(iter(form.specs)): result}


def _rows(arrays: Mapping[str, np.ndarray], form: _Form, where: str) -> Iterator[Feeds]:
    """Cut arrays with samples along a leading axis into feeds, what stands beside the inputs alike."""
    specs = form.specs
    missing = [name for name in specs if name not in arrays]
    if missing:
        raise UsageError(
            f"{where} lacks the input '{missing[0]}': it holds {', '.join(sorted(arrays)) or 'nothing'}"
        )
    step = {}
    for name, spec in specs.items():
        rank = len(spec.dims) if spec.dims is not None else arrays[name].ndim
        if arrays[name].ndim not in (rank, rank + 1) or not arrays[name].ndim:
            raise UsageError(
                f"{where}, input '{name}': got {arrays[name].ndim} dimensions, expected {rank} "
                f"(samples along the first) or {rank + 1} (one feed a row)"
            )
        size = (spec.dims or (None,))[0]
        step[name] = 0 if arrays[name].ndim == rank + 1 else size if isinstance(size, int) else 1
    counts = {n: len(arrays[n]) // (step[n] or 1) for n in specs}
    if len(set(counts.values())) > 1:
        raise UsageError(f"{where}: the inputs hold different numbers of samples: {counts}")
    first = next(iter(specs), "")
    for name in (n for n in form.beside if first and n in arrays):
        if arrays[name].shape[:1] != arrays[first].shape[:1]:
            got = arrays[name].shape[0] if arrays[name].ndim else "a single value"
            raise UsageError(
                f"{where}, '{name}': got {got}, expected {len(arrays[first])}, one for each '{first}'"
            )
        step[name] = step[first]
    for i in range(min(counts.values(), default=0)):
        yield {n: arrays[n][i * k : (i + 1) * k] if k else arrays[n][i] for n, k in step.items()}


def _checked(feed: Mapping[str, Any], form: _Form, number: int) -> Feeds:
    specs, where = form.specs, f"{form.word} feed {number}"
    if not isinstance(feed, Mapping):
        raise UsageError(f"{where} is {type(feed).__name__}, expected a dict of arrays by input name")
    extra = [name for name in feed if name not in specs and name not in form.beside]
    missing = [name for name in specs if name not in feed]
    if missing:
        given = ", ".join(map(str, feed)) or "nothing"
        raise UsageError(f"{where} lacks the input '{missing[0]}': it holds {given}")
    if extra:
        raise UsageError(f"{where}: the model has no input '{extra[0]}'; its inputs are {', '.join(specs)}")
    result: Feeds = {}
    for name, spec in specs.items():
        array, dtype = np.asarray(feed[name]), np_dtype(spec)
        if array.dtype != dtype:
            if array.dtype.kind != dtype.kind or dtype.kind == "O":
                raise UsageError(f"{where}, input '{name}': got {array.dtype}, expected {dtype}")
            array = array.astype(dtype)
        dims = spec.dims
        if dims is not None and (
            len(dims) != array.ndim
            or any(isinstance(d, int) and d != s for d, s in zip(dims, array.shape, strict=True))
        ):
            wanted = [d if d is not None else "?" for d in dims]
            raise UsageError(f"{where}, input '{name}': got shape {list(array.shape)}, expected {wanted}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UsageError(f"{where}, input '{name}' holds NaN or Inf")
        result[name] = array
    return result


def _batched(rows: Sequence[Feeds], specs: Mapping[str, InputSpec], most: int) -> Iterator[Feeds]:
    """Join feeds of equal shapes along a leading axis that all inputs share and that is free.

    most: samples of a batch.
    """
    free = all(_is_batched(spec) for spec in specs.values())
    names = {(spec.dims or (None,))[0] for spec in specs.values()}
    if not free or len(names) > 1:
        yield from rows
        return
    each = sum(array.size for array in rows[0].values()) // max(samples_in(rows[0], specs), 1)
    size = max(min(BATCH, most, ELEMENTS // max(each, 1)), 1)
    group: list[Feeds] = []
    for row in rows:
        same = not group or all(row[n].shape[1:] == group[0][n].shape[1:] for n in row)
        if group and (not same or sum(len(next(iter(r.values()))) for r in group) >= size):
            yield _joined(group)
            group = []
        group.append(row)
    if group:
        yield _joined(group)


def _joined(group: Sequence[Feeds]) -> Feeds:
    return {name: np.concatenate([row[name] for row in group]) for name in group[0]}
