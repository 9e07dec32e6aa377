"""Drift: how far a model's outputs are from the original's on the same inputs.

The distance of an output is |y - y0|_2 / |y0|_2 over the elements of a sample. Drift is its mean over
samples, of the outputs the largest; probes take the root mean square over both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx

from onnxprune.errors import ModelError, UnprovedError, UsageError
from onnxprune.model.feeds import feeds_for
from onnxprune.model.mapped import MappedModel
from onnxprune.model.runtime import one_line, open_session, run, runtime_errors

GENERATED = 8  # samples, where there is no data
KEPT = 1 << 28  # bytes of the original's outputs that are kept, at most
Feeds: TypeAlias = Mapping[str, np.ndarray]
Outputs: TypeAlias = dict[str, Any]


class Distances:
    """Distances of outputs from the original's, by output, gathered sample by sample."""

    def __init__(self) -> None:
        self._found: dict[str, list[float]] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, name: str, value: np.ndarray, reference: np.ndarray) -> None:
        """Add one sample of an output; shapes are equal."""
        self._found.setdefault(name, []).append(distance(value, reference))

    @property
    def worst(self) -> float:
        """Return the mean over samples, of the outputs the largest."""
        return max(float(np.mean(values)) for values in self._found.values())

    @property
    def root_mean_square(self) -> float:
        """Return the root mean square over samples and outputs."""
        return float(np.sqrt(np.mean([value**2 for values in self._found.values() for value in values])))


def distances(pairs: Iterable[tuple[Outputs, Outputs]]) -> Distances:
    """Compare the float outputs of the original with another model's, sample by sample.

    Raises UsageError where an output is missing or has another shape, where no output is float, and
    without samples.
    """
    found = Distances()
    names: list[str] | None = None
    for before, after in pairs:
        names = names or list(before)
        missing = sorted(before.keys() - after.keys())
        if missing:
            raise UsageError(f"the other model has no output {', '.join(missing)}; drift compares by name")
        for name, value in before.items():
            if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                if np.shape(after[name]) != value.shape:
                    got = np.shape(after[name])
                    raise UsageError(f"output {name}: got shape {got}, the original's is {value.shape}")
                found.add(name, after[name], value)
    if names is None:
        raise UsageError("drift needs inputs: got none, expected one or more")
    if not found:
        raise UsageError(f"drift needs a float output: the outputs are {', '.join(names)}")
    return found


class Reference:
    """What the original makes of some inputs, worked out once, and how far other models are from it.

    limit: bytes of outputs that are kept; what does not fit is worked out again each time.
    """

    def __init__(self, original: onnx.ModelProto, batches: Sequence[Feeds], limit: int = KEPT) -> None:
        self.original, self.batches = original, batches
        self._kept: list[Outputs] = []
        self._room = limit
        self._session: Any = None

    def outputs(self) -> Iterator[Outputs]:
        """Yield the original's outputs by name, batch by batch.

        Raises ModelError where onnxruntime cannot load it, UsageError where it does not run.
        """
        for number, batch in enumerate(self.batches):
            yield self._kept[number] if number < len(self._kept) else self._ran(number, batch)

    def _ran(self, number: int, batch: Feeds) -> Outputs:
        if self._session is None:
            self._session = opened(self.original, "the original")
        found = ran(self._session, batch)
        self._room -= sum(a.nbytes for a in found.values() if isinstance(a, np.ndarray))
        if self._room >= 0 and number == len(self._kept):
            self._kept.append(found)
        if len(self._kept) == len(self.batches):
            self._session = None
        return found

    def distances(self, other: onnx.ModelProto) -> Distances:
        """Compare another model. Raises as `drift` does."""
        session = opened(other, "the other model")
        after = (ran(session, batch) for batch in self.batches)
        return distances(zip(self.outputs(), after, strict=True))


def drift(original: onnx.ModelProto, other: onnx.ModelProto, feeds: Iterable[Feeds]) -> float:
    """Return the largest drift over the original's float outputs; 0 where nothing moved.

    feeds: one entry is one sample. Run on the CPU, at onnxruntime's default optimisation. Raises
    ModelError for a model that onnxruntime cannot load, UsageError without samples or float outputs,
    where an output's name or shape differs, and where a model does not run on the samples.
    """
    first, second = opened(original, "the original"), opened(other, "the other model")
    return distances((ran(first, sample), ran(second, sample)) for sample in feeds).worst


def generated_drift(
    original: onnx.ModelProto,
    other: onnx.ModelProto,
    first: Feeds,
    values: Mapping[str, Any],
    samples: int = GENERATED,
) -> float:
    """Measure drift on random inputs of the sizes of the first.

    values: inputs whose values are given. Raises as `drift` does.
    """
    sizes = {name: array.shape for name, array in first.items()}
    more = (feeds_for(original, sizes, values, seed, like=first) for seed in range(1, samples))
    return drift(original, other, [first, *more])


def distance(value: np.ndarray, reference: np.ndarray) -> float:
    """|value - reference|_2 / |reference|_2 over all elements; shapes are equal.

    Where both are the same infinity or both NaN the elements agree; any other element that is not finite,
    and any difference from an all-zero reference, is infinitely far.
    """
    new, old = np.asarray(value, np.float64), np.asarray(reference, np.float64)
    odd = ~(np.isfinite(new) & np.isfinite(old))
    if odd.any():
        if not np.array_equal(new[odd], old[odd], equal_nan=True):
            return float("inf")
        new, old = new[~odd], old[~odd]
    apart = float(np.linalg.norm(new - old))
    return apart / float(np.linalg.norm(old)) if apart and old.any() else (float("inf") if apart else 0.0)


def opened(model: onnx.ModelProto | MappedModel, name: str) -> Any:
    """Open a session on the CPU at onnxruntime's default optimisation.

    name: what messages call the model. Raises ModelError where onnxruntime cannot load it.
    """
    try:
        return open_session(model, optimised=True)
    except UnprovedError as error:
        raise ModelError(
            f"{name}: onnxruntime cannot load it: {one_line(Exception(error.__cause__))}"
        ) from error


def ran(session: Any, sample: Feeds) -> Outputs:
    """Run a session on a sample and return all outputs. Raises UsageError where it does not run."""
    try:
        return run(session, sample)
    except runtime_errors() as error:
        raise UsageError(f"onnxruntime cannot run the model on a sample: {one_line(error)}") from error
