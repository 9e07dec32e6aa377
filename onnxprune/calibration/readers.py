"""Calibration data: inputs without labels, from files, a script or Python, checked against the model."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx

from onnxprune.errors import UsageError
from onnxprune.model.feeds import np_dtype
from onnxprune.model.interface import InputSpec, input_specs

Feeds: TypeAlias = dict[str, np.ndarray]
Source: TypeAlias = Any
BATCH = 32
HELD_OUT = 5  # every fifth batch is held out
MAX_SAMPLES = 1024


@dataclass(frozen=True)
class Calibration:
    """Batches of inputs that run the model; every fifth is held out from fitting.

    samples: in all batches together.
    """

    batches: tuple[Feeds, ...]
    samples: int

    @property
    def fit(self) -> list[Feeds]:
        """Return the batches to fit with."""
        return [b for i, b in enumerate(self.batches) if not self.held(i)]

    @property
    def held_out(self) -> list[Feeds]:
        """Return the batches to judge with."""
        return [b for i, b in enumerate(self.batches) if self.held(i)]

    def held(self, number: int) -> bool:
        """Tell whether a batch is held out: every fifth, and of a few batches the last."""
        few = len(self.batches) < HELD_OUT
        return number == len(self.batches) - 1 > 0 if few else number % HELD_OUT == HELD_OUT - 1


def read_calibration(source: Source, model: onnx.ModelProto, most: int = MAX_SAMPLES) -> Calibration:
    """Read calibration data for a model.

    source: an `.npz` (arrays by input name, samples along a leading axis), a folder of `.npy`/`.npz`
    (one feed a file), `script.py:function` (called; gives an iterable of feeds), a dict of arrays, an
    iterable of feeds, or onnxruntime's CalibrationDataReader. most: samples that are read.
    Raises UsageError for data that does not fit the model, with the first thing that is wrong.
    """
    specs = input_specs(model)
    feeds = _feeds(source, specs)
    rows: list[Feeds] = []
    count = 0
    while count < most:
        try:
            feed = next(feeds)
        except StopIteration:
            break
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(
                f"the calibration data ends with an error after {len(rows)} feeds: "
                f"{type(error).__name__}: {error}"
            ) from error
        rows.append(_checked(feed, specs, len(rows)))
        count += _samples(rows[-1], specs)
    if not rows:
        raise UsageError("the calibration data holds no samples: give at least one")
    return Calibration(tuple(_batched(rows, specs)), count)


def _samples(feed: Feeds, specs: Mapping[str, InputSpec]) -> int:
    sizes = [feed[n].shape[0] for n, s in specs.items() if _is_batched(s) and feed[n].ndim]
    return max(sizes, default=1)


def _is_batched(spec: InputSpec) -> bool:
    return bool(spec.dims) and not isinstance((spec.dims or (0,))[0], int)


def _feeds(source: Source, specs: Mapping[str, InputSpec]) -> Iterator[Mapping[str, Any]]:
    if isinstance(source, (str, Path)):
        return _from_path(str(source), specs)
    if isinstance(source, Mapping):
        return _rows({n: np.asarray(a) for n, a in source.items()}, specs, "the calibration data")
    if hasattr(source, "get_next"):
        return iter(source.get_next, None)
    if isinstance(source, Iterable):
        return iter(source)
    raise UsageError(
        "calibration data must be a path, a dict of arrays or an iterable of feeds: "
        f"got {type(source).__name__}"
    )


def _from_path(text: str, specs: Mapping[str, InputSpec]) -> Iterator[Mapping[str, Any]]:
    script, _, function = text.rpartition(":")
    if script.endswith(".py"):
        return iter(_called(Path(script), function))
    path = Path(text)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in (".npy", ".npz"))
        if not files:
            raise UsageError(f"calibration folder '{path}' holds no .npy or .npz file")
        return (_one_feed(file, specs) for file in files)
    arrays = _loaded(path)
    if isinstance(arrays, np.ndarray):
        return _rows({next(iter(specs), "input"): arrays}, specs, f"'{path}'")
    return _rows(arrays, specs, f"'{path}'")


def _loaded(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    try:
        found = np.load(path, allow_pickle=False)
        return found if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
    except FileNotFoundError:
        raise UsageError(f"calibration data '{path}' does not exist") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"calibration data '{path}' is no .npy or .npz file: {error}") from error


def _one_feed(path: Path, specs: Mapping[str, InputSpec]) -> Mapping[str, Any]:
    found = _loaded(path)
    if not isinstance(found, np.ndarray):
        return found
    if len(specs) != 1:
        raise UsageError(f"'{path}' holds one array, but the model has {len(specs)} inputs: write an .npz")
    return {next(iter(specs)): found}


def _called(script: Path, function: str) -> Iterable[Mapping[str, Any]]:
    spec = importlib.util.spec_from_file_location(script.stem, script)
    if spec is None or spec.loader is None or not script.is_file():
        raise UsageError(f"calibration script '{script}' does not exist")
    module = importlib.util.module_from_spec(spec)
    sys.modules[script.stem] = module
    spec.loader.exec_module(module)
    maker: Callable[[], Iterable[Mapping[str, Any]]] | None = getattr(module, function, None)
    if maker is None:
        raise UsageError(f"calibration script '{script}' has no function '{function}'")
    return maker()


def _rows(arrays: Mapping[str, np.ndarray], specs: Mapping[str, InputSpec], where: str) -> Iterator[Feeds]:
    """Cut arrays with samples along a leading axis into feeds."""
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
        first = (spec.dims or (None,))[0]
        step[name] = 0 if arrays[name].ndim == rank + 1 else first if isinstance(first, int) else 1
    counts = {n: len(arrays[n]) // (step[n] or 1) for n in specs}
    if len(set(counts.values())) > 1:
        raise UsageError(f"{where}: the inputs hold different numbers of samples: {counts}")
    for i in range(min(counts.values(), default=0)):
        yield {n: arrays[n][i * step[n] : (i + 1) * step[n]] if step[n] else arrays[n][i] for n in specs}


def _checked(feed: Mapping[str, Any], specs: Mapping[str, InputSpec], number: int) -> Feeds:
    where = f"calibration feed {number}"
    if not isinstance(feed, Mapping):
        raise UsageError(f"{where} is {type(feed).__name__}, expected a dict of arrays by input name")
    extra = [name for name in feed if name not in specs]
    missing = [name for name in specs if name not in feed]
    if missing:
        given = ", ".join(map(str, feed)) or "nothing"
        raise UsageError(f"{where} lacks the input '{missing[0]}': it holds {given}")
    if extra:
        raise UsageError(f"{where}: the model has no input '{extra[0]}'; its inputs are {', '.join(specs)}")
    found: Feeds = {}
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
        found[name] = array
    return found


def _batched(rows: Sequence[Feeds], specs: Mapping[str, InputSpec]) -> Iterator[Feeds]:
    """Join feeds of equal shapes along a leading axis that all inputs share and that is free."""
    free = all(_is_batched(spec) for spec in specs.values())
    names = {(spec.dims or (None,))[0] for spec in specs.values()}
    if not free or len(names) > 1:
        yield from rows
        return
    group: list[Feeds] = []
    for row in rows:
        same = not group or all(row[n].shape[1:] == group[0][n].shape[1:] for n in row)
        if group and (not same or sum(len(next(iter(r.values()))) for r in group) >= BATCH):
            yield _joined(group)
            group = []
        group.append(row)
    if group:
        yield _joined(group)


def _joined(group: Sequence[Feeds]) -> Feeds:
    return {name: np.concatenate([row[name] for row in group]) for name in group[0]}
