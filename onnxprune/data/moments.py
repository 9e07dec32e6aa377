"""Second moments of activations: one Gram matrix for each tensor that consumers read, streamed.

The sums of two parts of the data are the sums of the whole, so that nothing is run over twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TypeAlias

import numpy as np
import onnx

from onnxprune.analysis.units import Units
from onnxprune.data.consumers import ActivationView, Consumer, consumers
from onnxprune.data.read import Calibration, Feeds
from onnxprune.errors import ModelError, UsageError
from onnxprune.model.runtime import one_line, open_session, run, runtime_errors, with_outputs
from onnxprune.model.shapes import ShapeReader
from onnxprune.progress import Steps, unseen

ROWS = 8192  # of one batch and tensor, drawn at random; a Conv's places are many and alike


@dataclass
class Gram:
    """Moments of the rows of an activation: first [groups, places], second [groups, places, places]."""

    count: int
    first: np.ndarray
    second: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Return the mean of each place [groups, places]."""
        return self.first / max(self.count, 1)

    @property
    def energy(self) -> np.ndarray:
        """Return the mean product of each two places [groups, places, places]."""
        return self.second / max(self.count, 1)

    @property
    def covariance(self) -> np.ndarray:
        """Return the covariance [groups, places, places]."""
        return self.energy - self.mean[:, :, None] * self.mean[:, None, :]

    def __add__(self, other: Gram) -> Gram:
        return Gram(self.count + other.count, self.first + other.first, self.second + other.second)


Moments: TypeAlias = Mapping[ActivationView, Gram]


@dataclass(frozen=True)
class Evidence:
    """What calibration data says of a model: its consumers, and the moments of what they read.

    parts: of every so many batches to fit with, each part from another batch on.
    """

    data: Calibration
    readers: tuple[Consumer, ...]
    parts: tuple[Moments, ...]

    @cached_property
    def moments(self) -> Moments:
        """Return the moments of all batches to fit with."""
        first, *others = self.parts
        return {view: sum((part[view] for part in others), gram) for view, gram in first.items()}


def observed(
    model: onnx.ModelProto,
    units: Units,
    data: Calibration,
    limit: int,
    parts: int = 1,
    progress: Steps = unseen,
) -> Evidence:
    """Run a model on calibration data, and sum up what its consumers read, in so many parts at most.

    units: of the model. limit: bytes of one pass, as for `collect`. Raises UsageError where it does not run.
    """
    readers = tuple(consumers(units))
    views = [view for reader in readers for view in reader.views]
    return Evidence(data, readers, collect(model, views, data.fit, limit, parts, progress))


def gram_bytes(view: ActivationView) -> int:
    """Return the memory of a view's Gram matrix in bytes."""
    sizes = dict(view.sizes)
    groups = int(np.prod([sizes[x] for x in view.groups], dtype=np.int64))
    places = int(np.prod([sizes[x] for x in view.summed], dtype=np.int64))
    return 8 * groups * places * (places + 1)


def collect(
    model: onnx.ModelProto,
    views: Iterable[ActivationView],
    batches: Sequence[Feeds],
    limit: int,
    parts: int = 1,
    progress: Steps = unseen,
) -> tuple[Moments, ...]:
    """Run a model over the batches and sum up moments; in several passes where they exceed the limit.

    limit: bytes for the Gram matrices of one pass and the activations that come out of it for one batch.
    parts: how many sums there are, the batches going to them in turn. Raises UsageError where the model does
    not run.
    """
    found: list[dict[ActivationView, Gram]] = [{} for _ in range(min(parts, len(batches)))]
    distinct = sorted(dict.fromkeys(views), key=gram_bytes)
    passes = _passes(distinct, limit, _activation_bytes(model, batches))
    for number, chosen in enumerate(passes):
        session = open_session(with_outputs(model, sorted({v.tensor for v in chosen})), optimised=True)
        accepted = {i.name for i in session.get_inputs()}
        rng = np.random.default_rng(0)
        for place, batch in enumerate(batches):
            try:
                values = run(session, {n: a for n, a in batch.items() if n in accepted})
            except runtime_errors() as error:
                raise UsageError(
                    f"the model does not run on calibration batch {place}: {one_line(error)}"
                ) from error
            for view in chosen:
                _add(found[place % len(found)], view, np.asarray(values[view.tensor]), rng)
            progress(number * len(batches) + place + 1, len(passes) * len(batches))
    return tuple(found)


def _activation_bytes(model: onnx.ModelProto, batches: Sequence[Feeds]) -> dict[str, int]:
    """Return the bytes of a model's tensors on the largest batch, as far as shapes can be inferred."""
    largest = max(batches, key=lambda batch: sum(values.nbytes for values in batch.values()))
    try:
        known = ShapeReader(model).infer({name: tuple(values.shape) for name, values in largest.items()})
    except ModelError:  # nothing is known then; whether the model runs shows when it is run
        return {}
    return {name: 4 * prod(value.shape) for name, value in known.items() if value.shape is not None}


def _passes(
    views: Sequence[ActivationView], limit: int, activations: Mapping[str, int]
) -> list[list[ActivationView]]:
    """Deal views to passes that each stay within a limit in bytes, or hold one view.

    activations: bytes by tensor; one that several views of a pass read counts once.
    """
    passes: list[list[ActivationView]] = []
    room, held = 0, set[str]()
    for view in views:
        bytes_of_view = gram_bytes(view) + (0 if view.tensor in held else activations.get(view.tensor, 0))
        if not passes or bytes_of_view > room:
            passes.append([])
            room, held = limit, set()
            bytes_of_view = gram_bytes(view) + activations.get(view.tensor, 0)
        passes[-1].append(view)
        held.add(view.tensor)
        room -= bytes_of_view
    return passes


def _squared(rows: np.ndarray, name: str) -> np.ndarray:
    """Return the Gram matrices [groups, places, places] of rows [groups, rows, places].

    Squares of a mask of -1e30 exceed float32. Raises UsageError for what exceeds float64, too.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        for dtype in dict.fromkeys((rows.dtype, np.dtype(np.float64))):
            wide = rows.astype(dtype, copy=False)
            second = np.matmul(wide.transpose(0, 2, 1), wide).astype(np.float64)
            if np.isfinite(second).all():
                return second
    raise UsageError(
        f"tensor '{name}' holds NaN or Inf on the calibration data, so nothing can be fitted by it: "
        "give other data, or leave --calib out"
    )


def _add(
    found: dict[ActivationView, Gram], view: ActivationView, values: np.ndarray, rng: np.random.Generator
) -> None:
    rows = view.rows(values)
    if rows.shape[1] > ROWS:
        rows = rows[:, np.sort(rng.choice(rows.shape[1], ROWS, replace=False))]
    rows = rows.astype(np.float64 if rows.dtype == np.float64 else np.float32)
    second = _squared(rows, view.tensor)
    first = rows.sum(axis=1, dtype=np.float64)
    if view not in found:
        found[view] = Gram(0, np.zeros_like(first), np.zeros_like(second))
    gram = found[view]
    gram.count += rows.shape[1]
    gram.first += first
    gram.second += second
