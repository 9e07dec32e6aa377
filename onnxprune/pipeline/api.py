"""The functions of the package: they take a path, bytes or a ModelProto and never change it.

`prune` and `apply` stand beside the stages that they put in order: in `prune.py` and `apply.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from msgspec.structs import replace

from onnxprune.analysis.analyse import inlined, load
from onnxprune.analysis.cost import parameters
from onnxprune.analysis.folding import analyse_folded
from onnxprune.errors import NothingToPrune, UsageError
from onnxprune.evaluation.latency import BenchResult, BenchSettings, check_provider
from onnxprune.evaluation.latency import bench as timed
from onnxprune.model.feeds import check_given, find_feeds
from onnxprune.model.files import check_file, write_file
from onnxprune.model.save import check_output, save
from onnxprune.pipeline.apply import apply, verified
from onnxprune.pipeline.inspect import inspected
from onnxprune.pipeline.prune import Model, prune
from onnxprune.pipeline.sensitivity import SensitivitySettings, measured
from onnxprune.planning.plan import Plan
from onnxprune.progress import Progress, silent
from onnxprune.reports.data import InspectReport, SensitivityReport, VerifyReport
from onnxprune.reports.sensitivity_chart import drawn
from onnxprune.rewrite.sparsify import SparsifyResult, SparsifySettings
from onnxprune.rewrite.sparsify import sparsify as thinned

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

    >>> report = inspect("models/digits_resnet.onnx")
    >>> report.quantities.macs, len(report.groups)
    (18654464, 11)
    """
    loaded = load(model)
    check_given(loaded.model, input_shapes or {}, input_values or {})
    written_out = inlined(loaded.model, inline)
    warnings = (*loaded.warnings, *written_out.kept)
    analysis = analyse_folded(written_out.model, input_shapes, input_values)
    report = inspected(analysis, loaded.nbytes, warnings)
    quantities = replace(report.quantities, params=parameters(loaded.model))
    return replace(report, quantities=quantities, inlined=written_out.names, folded=analysis.folded)


def sensitivity(
    model: Model,
    settings: SensitivitySettings,
    picture: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> SensitivityReport:
    """Measure, group by group, how far the outputs drift when shares of its channels go, without repair.

    picture: a file for the result as SVG. progress: called with a stage, the steps done, and of how
    many. Raises ModelError for a model that cannot be read, UsageError for data that does not fit it,
    NothingToPrune where it has no groups, UnprovedError where onnxruntime cannot run it.

    >>> settings = SensitivitySettings(calib="models/digits_calib.npz", shares=(0.5,), samples=32)
    >>> report = sensitivity("models/digits_resnet.onnx", settings)
    >>> [point.share for point in report.groups[0].points]
    [0.5]
    """
    begun = perf_counter()
    if picture is not None:
        given = Path(model) if isinstance(model, (str, os.PathLike)) else None
        check_file(Path(picture), (given,), force)
    loaded = load(model)
    check_given(loaded.model, settings.input_shapes, settings.input_values)
    written_out = inlined(loaded.model, settings.inline)
    analysis = analyse_folded(written_out.model, settings.input_shapes, settings.input_values)
    if not analysis.units.groups:
        raise NothingToPrune("nothing to measure: every channel is frozen; see `onnxprune inspect`")
    report = measured(analysis, loaded.nbytes, settings, progress)
    report = replace(
        report,
        seconds=round(perf_counter() - begun, 3),
        warnings=(*loaded.warnings, *report.warnings, *written_out.kept),
        inlined=written_out.names,
        folded=analysis.folded,
    )
    if picture is not None:
        write_file(Path(picture), drawn(report))
    return report


def verify(
    pruned: Model,
    original: Model,
    plan: str | Path | bytes | Plan,
    input_values: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> VerifyReport:
    """Check that a model is what the plan makes of the original, and prove the plan.

    Raises UsageError for a plan that does not fit the original, UnprovedError where nothing runs.

    >>> from onnxprune import PruneSettings
    >>> original = "models/digits_shuffle.onnx"
    >>> result = prune(original, PruneSettings(ratio=0.5, bench=False))
    >>> verify(result.model, original, result.plan).matches_plan
    True
    """
    return verified(load(pruned).model, load(original), plan, input_values or {}, seed, progress)


def bench(
    models: Sequence[Model],
    settings: BenchSettings | None = None,
    input_shapes: Shapes | None = None,
    input_values: Mapping[str, Any] | None = None,
) -> BenchResult:
    """Time models against the first, interleaved, in onnxruntime.

    Raises ModelError for a model that cannot be read, UsageError for a provider that is not installed and
    where the first model's inputs do not run all of them.

    >>> timings = bench(["models/digits_resnet.onnx"], BenchSettings(seconds=0.2)).timings
    >>> timings[0].median_ms > 0
    True
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

    >>> result = sparsify("models/digits_resnet.onnx", SparsifySettings(sparsity=0.5))
    >>> round(result.report.sparsity, 2)
    0.5
    """
    if output is not None:
        check_output(output, model if isinstance(model, (str, os.PathLike)) else None, force)
    result = thinned(load(model).model, settings)
    if output is not None:
        save(result.model, output, force=force)
    return result


__all__ = ["apply", "bench", "inspect", "prune", "sensitivity", "sparsify", "verify"]
