"""The functions of the package: they take a path, bytes or a ModelProto and never change it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from onnxprune.analysis.analyse import analyse
from onnxprune.applying import apply, verified
from onnxprune.errors import UsageError
from onnxprune.inlining import inlined
from onnxprune.inspecting import inspected
from onnxprune.model.feeds import check_given, find_feeds
from onnxprune.model.io import check_output, load, save
from onnxprune.pipeline import Model, PruneResult, prune
from onnxprune.plan import Plan
from onnxprune.report import InspectReport, VerifyReport
from onnxprune.timing import BenchResult, BenchSettings, check_provider
from onnxprune.timing import bench as timed
from onnxprune.unstructured import SparsifyResult, SparsifySettings
from onnxprune.unstructured import sparsify as thinned

Shapes = Mapping[str, "tuple[int | None, ...]"]


def inspect(
    model: Model,
    input_shapes: Shapes | None = None,
    input_values: Mapping[str, Any] | None = None,
    inline: str = "auto",
) -> InspectReport:
    """List groups, members, shares of parameters and MACs, and what is frozen by which operator.

    inline: which model-local functions are written out, as in PruneSettings. Raises ModelError for a
    model that cannot be read, UsageError where no input runs it.
    """
    loaded = load(model)
    check_given(loaded.model, input_shapes or {}, input_values or {})
    written_out = inlined(loaded.model, inline)
    warnings = (*loaded.warnings, *written_out.kept)
    report = inspected(analyse(written_out.model, input_shapes, input_values), loaded.nbytes, warnings)
    return replace(report, inlined=written_out.names)


def verify(
    pruned: Model,
    original: Model,
    plan: str | Path | bytes | Plan,
    input_values: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> VerifyReport:
    """Check that a model is what the plan makes of the original, and prove the plan.

    Raises UsageError for a plan that does not fit the original, UnprovedError where nothing runs.
    """
    return verified(load(pruned).model, load(original), plan, input_values or {}, seed)


def bench(
    models: Sequence[Model],
    settings: BenchSettings | None = None,
    input_shapes: Shapes | None = None,
    input_values: Mapping[str, Any] | None = None,
) -> BenchResult:
    """Time models against the first, interleaved, in onnxruntime.

    Raises ModelError for a model that cannot be read, UsageError for a provider that is not installed and
    where the first model's inputs do not run all of them.
    """
    chosen = settings or BenchSettings()
    check_provider(chosen.provider)
    if not models or isinstance(models, (str, bytes)):
        got = "one path" if models else "none"
        raise UsageError(f"models to time: got {got}, expected a list of one or more")
    for other in models[1:]:
        load(other)
    first = load(models[0])
    feeds = find_feeds(first.model, input_shapes, input_values, chosen.seed)
    ready = [os.fspath(m) if isinstance(m, os.PathLike) else m for m in models]
    return timed(ready, feeds, chosen)


def sparsify(
    model: Model,
    settings: SparsifySettings,
    output: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> SparsifyResult:
    """Zero weights by magnitude, or in an N:M pattern; write the model where an output is given.

    Raises UsageError for settings that make no sense, ModelError for a model that cannot be read.
    """
    if output is not None:
        check_output(output, model if isinstance(model, (str, os.PathLike)) else None, force)
    result = thinned(load(model).model, settings)
    if output is not None:
        save(result.model, output, force=force)
    return result


__all__ = ["PruneResult", "apply", "bench", "inspect", "onnx", "prune", "sparsify", "verify"]
