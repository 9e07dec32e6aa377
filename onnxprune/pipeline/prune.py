"""The order of the stages of a run."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import msgspec
import onnx

from onnxprune.analysis.analyse import analyse, inlined, load
from onnxprune.errors import GateFailed, OnnxPruneError
from onnxprune.evaluation.latency import BenchResult, BenchSettings, bench, check_provider
from onnxprune.evaluation.profile import Details, details
from onnxprune.evaluation.validation import Judge, judge
from onnxprune.model.files import check_file, write_file
from onnxprune.model.inline import Inlined
from onnxprune.model.load import Loaded
from onnxprune.model.save import check_output, save
from onnxprune.oracle.cases import Cases, cases
from onnxprune.oracle.equal import require_same
from onnxprune.pipeline.attempt import Candidate, RunContext
from onnxprune.pipeline.judgement import Judgement, judgement
from onnxprune.pipeline.report import (
    Outcome,
    PruneResult,
    calibration_report,
    cautions,
    judged_cautions,
    planned,
    reported,
    stamped,
    write_page,
)
from onnxprune.pipeline.resolve import gathered, requested, require_groups, scored
from onnxprune.pipeline.search import searched
from onnxprune.planning.decide import criterion_warnings
from onnxprune.planning.plan import Plan
from onnxprune.progress import Progress, Stopwatch, silent
from onnxprune.reports.data import PruneReport, SensitivityReport
from onnxprune.settings import PruneSettings

Model: TypeAlias = str | os.PathLike[str] | bytes | onnx.ModelProto


@dataclass(frozen=True)
class SideFiles:
    """Files beside the pruned model. plan: the plan as JSON, written before the model; page: the report as an
    HTML page, written last, also where the gate fails; curves: what `sensitivity` found, to show there.
    """

    plan: str | os.PathLike[str] | None = None
    page: str | os.PathLike[str] | None = None
    curves: SensitivityReport | None = None


@dataclass(frozen=True)
class Prepared:
    """A run before the choice: the model as it was read, its functions written out, and what choices need.

    judged: the validation data with what the original makes of it, None without any.
    """

    loaded: Loaded
    written_out: Inlined
    context: RunContext
    judged: Judge | None


def prune(
    model: Model,
    settings: PruneSettings,
    output: str | os.PathLike[str] | None = None,
    force: bool = False,
    beside: SideFiles | None = None,
    progress: Progress = silent,
) -> PruneResult:
    """Prune a model, prove the result, and write it where an output is given.

    model: a path, bytes or ModelProto; it is not changed. force: existing files may be replaced. beside:
    other files to write. progress: called with a stage, the steps done, and of how many. Raises UsageError,
    ModelError, NothingToPrune, UnprovedError, GateFailed and ResourceError; a missed target is in the report.

    >>> result = prune("models/digits_mobilenet.onnx", PruneSettings(targets={"macs": 0.5}, bench=False))
    >>> result.report.verification.status
    'proved'
    >>> result.report.after.macs <= 0.5 * result.report.before.macs
    True
    """
    watch, files = Stopwatch(progress), beside or SideFiles()
    check_provider(settings.provider)
    _check_files(model, (output, files.plan, files.page), force)
    settings = replace(settings, detailed=settings.detailed or files.page is not None)
    prepared = _prepared(load(model), settings, watch)
    candidate = _chosen(prepared)
    plan = _plan(prepared, candidate)
    result = stamped(candidate.model, plan)
    watch.lap("plan")
    judged = judgement(prepared.context, prepared.judged, candidate, result)
    watch.lap("validate")
    passed = judged.passed
    if files.plan is not None and passed:
        write_file(Path(files.plan), plan.to_json())
    if output is not None and passed:
        save(result, output, force=force)
        watch.lap("write")
    finished = PruneResult(result, plan, _report(prepared, candidate, result, judged))
    if files.page is not None:
        name = "" if output is None else Path(output).name
        write_page(Path(files.page), finished, name, files.curves)
    if not passed:
        raise GateFailed(f"gate failed: {'; '.join(judged.failures())}; nothing is written", finished)
    return finished


def _prepared(loaded: Loaded, settings: PruneSettings, watch: Stopwatch) -> Prepared:
    """Analyse a model, resolve the settings, find inputs to prove with, judge it as it is, and score it."""
    watch.lap("load")
    written_out = inlined(loaded.model, settings.inline)
    analysis = analyse(written_out.model, settings.input_shapes, settings.input_values)
    watch.lap("analyse")
    request = requested(analysis, settings, loaded)
    require_groups(analysis, request)
    found = cases(analysis, settings.input_shapes, settings.input_values, settings.seed)
    check_inlined(loaded, written_out, found)
    watch.lap("inputs")
    judged = judge(loaded.model, settings)
    watch.lap("validate")
    evidence = gathered(analysis, settings, watch.progress)
    scores = scored(analysis, evidence, settings, watch.progress)
    watch.lap("score")
    context = RunContext(analysis, request, found, scores, evidence, watch)
    return Prepared(loaded, written_out, context, judged)


def _chosen(prepared: Prepared) -> Candidate:
    """Decide, rewrite, prove and repair: once, or in a search for how much may go."""
    context = prepared.context
    if context.request.settings.sought:
        return searched(context, prepared.judged)
    return context.carried_out(context.request.limits)


def _plan(prepared: Prepared, candidate: Candidate) -> Plan:
    context, repair = prepared.context, candidate.repair
    plan = planned(context.analysis, candidate.removal, context.request, prepared.loaded.sha256)
    plan.settings["inlined"] = list(prepared.written_out.names)
    return plan if repair is None else msgspec.structs.replace(plan, repaired=dict(repair.repaired))


def _report(
    prepared: Prepared, candidate: Candidate, result: onnx.ModelProto, judged: Judgement
) -> PruneReport:
    """Time the result, unless the gate failed, and tell all that is known of it."""
    context, original = prepared.context, prepared.loaded.model
    settings, watch = context.request.settings, context.watch
    timing, trouble = _bench(original, result, context.cases, settings) if judged.passed else (None, ())
    watch.lap("bench")
    more = details(original, result, context.cases, settings) if settings.detailed else Details()
    watch.lap("details")
    outcome = Outcome(prepared.loaded, context.analysis, context.request, candidate.attempt, result)
    report = reported(outcome, timing, watch.seconds)
    data = None if context.evidence is None else context.evidence.data
    of_data = () if data is None else cautions(context.analysis.model, data, candidate.repair)
    of_result = judged_cautions(judged.closeness)
    warnings = (*of_result, *of_data, *criterion_warnings(context.analysis.units, settings))
    return msgspec.structs.replace(
        report,
        warnings=(*report.warnings, *warnings, *prepared.written_out.kept, *trouble, *more.trouble),
        inlined=prepared.written_out.names,
        recovery=judged.recovery,
        calibration=None if data is None else calibration_report(data),
        validation=judged.validated,
        closeness=judged.closeness,
        search=candidate.trials,
        steps=candidate.steps,
        targets={**report.targets, **candidate.targets(settings.sought)},
        drift=more.drift,
        profile=more.profile,
    )


def check_inlined(loaded: Loaded, written_out: Inlined, cases: Cases) -> None:
    """Require that writing functions out changed no output; the proof is about what came of it."""
    if written_out.names:
        require_same(loaded.model, written_out.model, cases.feeds)


def _bench(
    original: onnx.ModelProto, pruned: onnx.ModelProto, cases: Cases, settings: PruneSettings
) -> tuple[BenchResult | None, tuple[str, ...]]:
    """Time both; the model is written by then, so trouble here is a warning and not an error."""
    if not settings.bench or not cases.feeds:
        return None, ()
    chosen = BenchSettings(settings.provider, settings.threads, seconds=1.0, seed=settings.seed)
    try:
        return bench([original, pruned], cases.feeds[0], chosen), ()
    except OnnxPruneError as error:
        return None, (f"the result could not be timed: {error}",)


def _check_files(model: Model, outputs: tuple[str | os.PathLike[str] | None, ...], force: bool) -> None:
    """Refuse outputs that could not be written; the first is the model's."""
    given = Path(model) if isinstance(model, (str, os.PathLike)) else None
    if outputs[0] is not None:
        check_output(outputs[0], given, force)
    named = [Path(o) if o is not None else None for o in outputs]
    for i, other in enumerate(named[1:], 1):
        if other is not None:
            check_file(other, (given, *named[:i]), force)
