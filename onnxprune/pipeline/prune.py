"""The order of the stages of a run."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import msgspec
import onnx

from onnxprune.analysis.analyse import Analysis, inlined, load
from onnxprune.analysis.folding import analyse_folded
from onnxprune.errors import GateFailed, OnnxPruneError
from onnxprune.evaluation.latency import BenchResult, BenchSettings, bench, check_provider
from onnxprune.evaluation.profile import Details, details
from onnxprune.evaluation.validation import Judge, judge
from onnxprune.model.files import check_file, staged_file
from onnxprune.model.inline import Inlined
from onnxprune.model.load import Loaded
from onnxprune.model.save import check_output, staged
from onnxprune.model.temporary import Temporary, place_all
from onnxprune.model.upcast import upcast_to_fp32
from onnxprune.oracle.cases import Cases, cases
from onnxprune.oracle.equal import BRANCHES, CONSTANTS, FUNCTIONS, require_same
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
from onnxprune.planning.decide import criterion_warnings, row_warnings
from onnxprune.planning.plan import Plan
from onnxprune.progress import Progress, Stopwatch, silent
from onnxprune.reports.data import PruneReport, SensitivityReport
from onnxprune.settings import PruneSettings

Model: TypeAlias = str | os.PathLike[str] | bytes | onnx.ModelProto


@dataclass(frozen=True)
class SideFiles:
    """Files beside the pruned model. plan: the plan as JSON, written with the model; page: the report as an
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
    result = stamped(lowered(prepared.written_out, candidate.model, prepared.context.cases), plan)
    watch.lap("plan")
    judged = judgement(prepared.context, prepared.judged, candidate, result)
    watch.lap("validate")
    passed = judged.passed
    if passed:
        _write(result, plan, (output, files.plan), force)
    if passed and output is not None:
        watch.lap("write")
    finished = PruneResult(result, plan, _report(prepared, candidate, result, judged))
    if files.page is not None:
        name = "" if output is None else Path(output).name
        write_page(Path(files.page), finished, name, files.curves)
    if not passed:
        raise GateFailed(f"gate failed: {'; '.join(judged.failures())}; nothing is written", finished)
    return finished


def _write(
    result: onnx.ModelProto, plan: Plan, places: tuple[str | os.PathLike[str] | None, ...], force: bool
) -> None:
    """Write the model and its plan, where a place is given: both or neither."""
    output, beside = places
    with ExitStack() as stack:
        files: list[Temporary] = []
        if beside is not None:
            files.append(stack.enter_context(staged_file(Path(beside), plan.to_json(), force)))
        if output is not None:
            files[:0] = stack.enter_context(staged(result, output, force=force)).files
        place_all(files)


def _prepared(loaded: Loaded, settings: PruneSettings, watch: Stopwatch) -> Prepared:
    """Analyse a model, resolve the settings, find inputs to prove with, judge it as it is, and score it."""
    watch.lap("load")
    written_out = inlined(loaded.model, settings.inline)
    analysis = analyse_folded(written_out.model, settings.input_shapes, settings.input_values)
    watch.lap("analyse")
    request = requested(analysis, settings, loaded)
    require_groups(analysis, request)
    found = cases(analysis, settings.input_shapes, settings.input_values, settings.seed)
    check_written_out(loaded, written_out, analysis, found)
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
    if prepared.written_out.lifted:
        plan.settings["lifted"] = [one.node.output[0] for one in prepared.written_out.lifted]
    folded = context.analysis.folded
    if folded:
        plan.settings["folded"] = msgspec.json.decode(msgspec.json.encode(folded))
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
    units = context.analysis.units
    rows = row_warnings(units, candidate.attempt.decision, settings)
    warnings = (*of_result, *of_data, *criterion_warnings(units, settings), *rows)
    return msgspec.structs.replace(
        report,
        warnings=(*report.warnings, *warnings, *prepared.written_out.kept, *trouble, *more.trouble),
        inlined=prepared.written_out.names,
        folded=context.analysis.folded,
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


def lowered(written_out: Inlined, pruned: onnx.ModelProto, cases: Cases) -> onnx.ModelProto:
    """Put the branches of what was proved back into their nodes, and require the same outputs.

    Raises UnprovedError where one differs.
    """
    result = written_out.lowered(pruned)
    if written_out.lifted:
        before, after = (upcast_to_fp32(m) if cases.wide else m for m in (pruned, result))
        require_same(before, after, cases.feeds, BRANCHES)
    return result


def check_written_out(loaded: Loaded, written_out: Inlined, analysis: Analysis, cases: Cases) -> None:
    """Require that what was written out, laid out and folded changes no output: so the proof holds.

    Raises UnprovedError where one differs.
    """
    if written_out.changed:
        require_same(loaded.model, written_out.model, cases.feeds, FUNCTIONS)
    if analysis.folded:
        models = written_out.model, analysis.model
        before, after = (upcast_to_fp32(m) for m in models) if cases.wide else models
        require_same(before, after, cases.feeds, CONSTANTS)


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
