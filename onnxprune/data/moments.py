"""Second moments of activations: one Gram matrix for each tensor that consumers read, streamed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxprune.data.consumers import ActivationView
from onnxprune.errors import UsageError
from onnxprune.model.runtime import one_line, open_session, run, runtime_errors, with_outputs
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


def gram_bytes(view: ActivationView) -> int:
    """Return the memory of a view's Gram matrix in bytes."""
    sizes = dict(view.sizes)
    groups = int(np.prod([sizes[x] for x in view.groups], dtype=np.int64))
    places = int(np.prod([sizes[x] for x in view.summed], dtype=np.int64))
    return 8 * groups * places * (places + 1)


def collect(
    model: onnx.ModelProto,
    views: Iterable[ActivationView],
    batches: Sequence[dict[str, np.ndarray]],
    limit: int,
    progress: Steps = unseen,
) -> dict[ActivationView, Gram]:
    """Run a model over the batches and sum up moments; in several passes where they exceed the limit.

    limit: bytes for the Gram matrices of one pass. Raises UsageError where the model does not run.
    """
    result: dict[ActivationView, Gram] = {}
    passes = _passes(sorted(dict.fromkeys(views), key=gram_bytes), limit)
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
                _add(result, view, np.asarray(values[view.tensor]), rng)
            progress(number * len(batches) + place + 1, len(passes) * len(batches))
    return result


def _passes(views: Sequence[ActivationView], limit: int) -> list[list[ActivationView]]:
    passes: list[list[ActivationView]] = []
    room = 0
    for view in views:
        if not passes or gram_bytes(view) > room:
            passes.append([])
            room = limit
        passes[-1].append(view)
        room -= gram_bytes(view)
    return passes


def _add(
    found: dict[ActivationView, Gram], view: ActivationView, values: np.ndarray, rng: np.random.Generator
) -> None:
    rows = view.rows(values)
    if rows.shape[1] > ROWS:
        rows = rows[:, np.sort(rng.choice(rows.shape[1], ROWS, replace=False))]
    rows = rows.astype(np.float64 if rows.dtype == np.float64 else np.float32)
    second = np.matmul(rows.transpose(0, 2, 1), rows).astype(np.float64)
    first = rows.sum(axis=1, dtype=np.float64)
    if view not in found:
        found[view] = Gram(0, np.zeros_like(first), np.zeros_like(second))
    gram = found[view]
    gram.count += rows.shape[1]
    gram.first += first
    gram.second += second
