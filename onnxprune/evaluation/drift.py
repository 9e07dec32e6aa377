"""Drift: how far a model's outputs are from the original's on the same inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx

from onnxprune.errors import ModelError, UnprovedError, UsageError

GENERATED = 8  # samples, where there is no data


def drift(
    original: onnx.ModelProto, other: onnx.ModelProto, feeds: Iterable[Mapping[str, np.ndarray]]
) -> float:
    """Largest drift over the original's float outputs; 0 where nothing moved.

    The drift of an output is |y - y0|_2 / |y0|_2, mean over samples (docs/design, "Accuracy without
    labels"); one entry of `feeds` is one sample. Run on the CPU, at onnxruntime's default optimisation.
    Raises ModelError for a model that onnxruntime cannot load, UsageError without samples or float
    outputs, where an output's name or shape differs, and where a model does not run on the samples.
    """
    first, second = opened(original, "the original"), opened(other, "the other model")
    names = [o.name for o in first.get_outputs()]
    missing = set(names) - {o.name for o in second.get_outputs()}
    if missing:
        raise UsageError(
            f"the other model has no output {', '.join(sorted(missing))}; drift compares by name"
        )
    distances: dict[str, list[float]] = {}
    samples = 0
    for sample in feeds:
        samples += 1
        before_all, after_all = ran(first, sample), ran(second, sample)
        for name in names:
            before, after = before_all[name], after_all[name]
            if isinstance(before, np.ndarray) and np.issubdtype(before.dtype, np.floating):
                if np.shape(before) != np.shape(after):
                    raise UsageError(
                        f"output {name}: got shape {np.shape(after)}, the original's is {before.shape}"
                    )
                distances.setdefault(name, []).append(distance(after, before))
    if not samples:
        raise UsageError("drift needs inputs: got none, expected one or more")
    if not distances:
        raise UsageError(f"drift needs a float output: the outputs are {', '.join(names)}")
    return max(float(np.mean(values)) for values in distances.values())


def generated_drift(
    original: onnx.ModelProto,
    other: onnx.ModelProto,
    first: Mapping[str, np.ndarray],
    values: Mapping[str, Any],
    samples: int = GENERATED,
) -> float:
    """Measure drift on random inputs of the sizes of the first.

    values: inputs whose values are given. Raises as `drift` does.
    """
    from onnxprune.model.feeds import feeds_for

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


def opened(model: onnx.ModelProto, name: str) -> Any:
    from onnxprune.model.runtime import one_line, open_session

    try:
        return open_session(model, optimised=True)
    except UnprovedError as error:
        raise ModelError(
            f"{name}: onnxruntime cannot load it: {one_line(Exception(error.__cause__))}"
        ) from error


def ran(session: Any, sample: Mapping[str, np.ndarray]) -> dict[str, Any]:
    from onnxprune.model.runtime import one_line, run, runtime_errors

    try:
        return run(session, sample)
    except runtime_errors() as error:
        raise UsageError(f"onnxruntime cannot run the model on a sample: {one_line(error)}") from error
