"""The order of stages: load, analyse, decide, rewrite, prove, write, bench."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
import onnx

import onnxprune
from onnxprune.analysis.analyse import Analysis, analyse
from onnxprune.analysis.cost import macs, node_macs
from onnxprune.analysis.functions import inlined
from onnxprune.analysis.patterns import groups_matching
from onnxprune.analysis.trace import Trace
from onnxprune.choices import IN_PYTHON
from onnxprune.errors import GateFailed, NothingToPrune, OnnxPruneError
from onnxprune.evaluation.latency import BenchSettings, bench, check_provider
from onnxprune.evaluation.profile import Details, details
from onnxprune.evaluation.validation import Judge, Validated, judge
from onnxprune.model.count import parameters
from onnxprune.model.files import check_file, write_file
from onnxprune.model.inline import Inlined
from onnxprune.model.load import Loaded, load
from onnxprune.model.save import check_output, save
from onnxprune.oracle.cases import Cases, cases
from onnxprune.oracle.functions import require_same
from onnxprune.pipeline.attempt import Attempt, Candidate, RunContext, Stopwatch
from onnxprune.pipeline.inspect import first_makers, frozen_params, pin_reports
from onnxprune.pipeline.recover import cautions, gathered, scored
from onnxprune.pipeline.search import searched
from onnxprune.planning.decide import Decision, Request, criterion_warnings, resolved_step
from onnxprune.planning.plan import Plan
from onnxprune.planning.plan_file import derived, group_plans
from onnxprune.progress import Progress, silent
from onnxprune.quantities import amount
from onnxprune.reports.data import GroupReport, Layer, PruneReport, Quantities, SensitivityReport, SourceFacts
from onnxprune.rules.signature import NO_RULE, Pinned
from onnxprune.settings import PruneSettings

Values: TypeAlias = Mapping[str, Any]
Model: TypeAlias = str | os.PathLike[str] | bytes | onnx.ModelProto
STAMP_BYTES = 320

IR_WITH_DEFAULTS = 4  # from here on an initializer among the inputs is a default that callers may replace


@dataclass(frozen=True)
class PruneResult:
    """The pruned model, the plan that made it, and the report."""

    model: onnx.ModelProto
    plan: Plan
    report: PruneReport


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
    """A run before the choice: the model as it was read, its functions written out, and what choices need."""

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
    """
    watch, files = Stopwatch(progress), beside or SideFiles()
    check_provider(settings.provider)
    _check_files(model, (output, files.plan, files.page), force)
    settings = replace(settings, detailed=settings.detailed or files.page is not None)
    prepared = _begun(load(model), settings, watch)
    context = prepared.context
    candidate = (
        searched(context, prepared.judged) if settings.sought else context.carried_out(context.request.limits)
    )
    plan = _whole_plan(prepared, candidate)
    result = stamped(candidate.model, plan)
    watch.lap("plan")
    validated = prepared.judged(result) if prepared.judged is not None else None
    watch.lap("validate")
    passed = validated is None or validated.passed
    if files.plan is not None and passed:
        write_file(Path(files.plan), plan.to_json())
    if output is not None and passed:
        save(result, output, force=force)
        watch.lap("write")
    report = _measured(prepared, candidate, result, validated)
    finished = PruneResult(result, plan, report)
    if files.page is not None:
        _write_page(Path(files.page), finished, None if output is None else Path(output), files.curves)
    if validated is not None and not passed:
        raise GateFailed(_gate_line(validated), finished)
    return finished


def _begun(loaded: Loaded, settings: PruneSettings, watch: Stopwatch) -> Prepared:
    """Analyse and score a model, and judge it as it is."""
    watch.lap("load")
    written_out = inlined(loaded.model, settings.inline)
    analysis = analyse(written_out.model, settings.input_shapes, settings.input_values)
    watch.lap("analyse")
    request = requested(analysis, settings, loaded)
    _check_groups(analysis, request)
    found = cases(analysis, settings.input_shapes, settings.input_values, settings.seed)
    check_inlined(loaded, written_out, found)
    watch.lap("inputs")
    judged = judge(loaded.model, settings)
    watch.lap("validate")
    evidence = gathered(analysis, settings, watch.progress)
    scores = scored(analysis, evidence, settings, watch.progress)
    watch.lap("score")
    return Prepared(
        loaded, written_out, RunContext(analysis, request, found, scores, evidence, watch), judged
    )


def _whole_plan(prepared: Prepared, candidate: Candidate) -> Plan:
    context, repair = prepared.context, candidate.repair
    plan = _plan(context.analysis, candidate.attempt.decision, context.request, prepared.loaded.sha256)
    plan.settings["inlined"] = list(prepared.written_out.names)
    return plan if repair is None else msgspec.structs.replace(plan, repaired=dict(repair.repaired))


def _measured(
    prepared: Prepared, candidate: Candidate, result: onnx.ModelProto, validated: Validated | None
) -> PruneReport:
    """Time the result, unless the gate failed, and tell all that is known of it."""
    context, original = prepared.context, prepared.loaded.model
    settings, watch = context.request.settings, context.watch
    passed = validated is None or validated.passed
    timing, trouble = _bench(original, result, context.cases, settings) if passed else (None, ())
    watch.lap("bench")
    more = details(original, result, context.cases, settings) if settings.detailed else Details()
    watch.lap("details")
    report = reported(
        context.analysis, candidate.attempt, context.request, prepared.loaded, result, timing, watch
    )
    of_data = () if context.evidence is None else cautions(context.evidence.data, candidate.repair)
    warnings = (*of_data, *criterion_warnings(context.analysis.units, settings))
    return replace(
        report,
        warnings=(*report.warnings, *warnings, *prepared.written_out.kept, *trouble, *more.trouble),
        inlined=prepared.written_out.names,
        recovery=None if candidate.repair is None else candidate.repair.to_dict(),
        calibration=None if context.evidence is None else context.evidence.to_dict(),
        validation=None if validated is None else validated.to_dict(),
        search=candidate.trials,
        steps=candidate.steps,
        targets={**report.targets, **candidate.targets(settings.sought)},
        drift=more.drift,
        profile=more.profile,
    )


def _check_files(model: Model, outputs: tuple[str | os.PathLike[str] | None, ...], force: bool) -> None:
    """Refuse outputs that could not be written; the first is the model's."""
    given = Path(model) if isinstance(model, (str, os.PathLike)) else None
    if outputs[0] is not None:
        check_output(outputs[0], given, force)
    named = [Path(o) if o is not None else None for o in outputs]
    for i, other in enumerate(named[1:], 1):
        if other is not None:
            check_file(other, (given, *named[:i]), force)


def _write_page(
    path: Path, result: PruneResult, output: Path | None, curves: SensitivityReport | None
) -> None:
    from onnxprune.reports.environment import environment
    from onnxprune.reports.model_page import Page, model_page

    page = Page(result.report, environment(), result.plan, output.name if output else "", curves)
    write_file(path, model_page(page))


def _check_groups(analysis: Analysis, request: Request) -> None:
    leaves = [g.id for g in analysis.units.groups if g.level == 0]
    if leaves and request.excluded.issuperset(leaves):
        raise NothingToPrune(f"nothing to prune: --exclude names all {len(leaves)} groups; exclude less")
    if not leaves:
        raise NothingToPrune(f"nothing to prune: {_why_nothing(analysis)}")


def _gate_line(validated: Validated) -> str:
    return (
        f"gate failed: {validated} on {validated.samples} samples, worse by {validated.drop:.4g} where "
        f"--max-drop allows {validated.max_drop:.4g}; nothing is written"
    )


def check_inlined(loaded: Loaded, written_out: Inlined, cases: Cases) -> None:
    """Require that writing functions out changed no output; the proof is about what came of it."""
    if written_out.names:
        require_same(loaded.model, written_out.model, cases.feeds)


def requested(analysis: Analysis, settings: PruneSettings, loaded: Loaded) -> Request:
    """Resolve settings against a model: ratios by group, limits, exclusions, alignment."""
    units = analysis.units
    places = range(len(units.groups))
    ratios = dict.fromkeys(places, settings.ratio or 0.0)
    for pattern, ratio in settings.ratios:
        ratios |= dict.fromkeys(groups_matching(units, [pattern], produced=True), ratio)
    stored = units.traced.network.everything()
    weights = sum(int(np.prod(s.shape, dtype=np.int64)) * s.itemsize for s in stored)
    overhead = max(loaded.nbytes - int(weights), 0) + STAMP_BYTES
    whole = {"macs": macs(units.traced), "params": parameters(loaded.model), "size": loaded.nbytes}
    asked = {k: v for k, v in settings.targets.items() if k not in settings.sought}
    limits = {k: v * whole[k] if v <= 1 else v for k, v in asked.items()}
    if limits and all(whole[k] <= limit for k, limit in limits.items()):
        met = ", ".join(f"{k} {amount(k, whole[k])} of {amount(k, v)} allowed" for k, v in limits.items())
        raise NothingToPrune(f"nothing to prune: the model meets the target as it is ({met}); set it lower")
    excluded = groups_matching(units, settings.exclude)
    return Request(ratios, limits, excluded, resolved_step(settings), overhead, settings)


def _why_nothing(analysis: Analysis) -> str:
    steps = analysis.units.traced.steps
    ruleless = sorted(
        {s.node.op for s in steps if isinstance(s.verdict, Pinned) and s.verdict.reason == NO_RULE}
    )
    pins = [f"{p.op} '{p.node or p.tensor}' ({p.reason})" for p in pin_reports(analysis.units)[:2]]
    reasons = ([f"no rule for {', '.join(ruleless)}"] if ruleless else []) + pins
    return "every channel is frozen: " + "; ".join(reasons or ["no operator produces channels"])


def _plan(analysis: Analysis, decision: Decision, request: Request, sha256: str) -> Plan:
    units = analysis.units
    asked = {g.id: _asked(len(g.units), request.ratios.get(g.id, 0.0), request) for g in units.groups}
    parts = derived(units, decision.replayed, decision.removed)
    settings = public_settings(request.settings) | {
        "input_shapes": {n: list(s) for n, s in analysis.sizes.items()}
    }
    groups = group_plans(units, decision.removed, asked)
    return Plan(sha256, settings, request.step, groups, parts["slices"], parts["masks"], parts["repairs"])


def _asked(channels: int, ratio: float, request: Request) -> int:
    if request.limits:
        return channels
    return channels - int(np.floor(ratio * channels + 1e-9))


def public_settings(settings: PruneSettings) -> dict[str, object]:
    """Return the settings that shape a plan, as plain data."""
    keys = (
        "ratio",
        "ratios",
        "targets",
        "criterion",
        "scope",
        "granularity",
        "min_channels",
        "exclude",
        "seed",
        "steps",
    )
    result: dict[str, object] = {key: getattr(settings, key) for key in keys}
    result["scope"] = settings.resolved_scope
    result["criterion"] = settings.resolved_criterion
    result["recover"] = settings.resolved_recover
    result["ratios"] = [list(pair) for pair in settings.ratios]
    result["exclude"] = list(settings.exclude)
    result["targets"] = dict(settings.targets)
    result["calibration"] = None
    if settings.calib is not None:
        result["calibration"] = "synthesised" if settings.synthetic else "given"
    return result


def stamped(model: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """Note version and hashes in the metadata of a model, which is changed."""
    marks = {
        "onnxprune.version": onnxprune.__version__,
        "onnxprune.input_sha256": plan.model_sha256,
        "onnxprune.plan_sha256": plan.sha256,
    }
    kept = [(p.key, p.value) for p in model.metadata_props if p.key not in marks]
    del model.metadata_props[:]
    for key, value in [*kept, *marks.items()]:
        model.metadata_props.add(key=key, value=value)
    return model


def _bench(
    original: onnx.ModelProto, pruned: onnx.ModelProto, cases: Cases, settings: PruneSettings
) -> tuple[Mapping[str, object] | None, tuple[str, ...]]:
    """Time both; the model is written by then, so trouble here is a warning and not an error."""
    if not settings.bench or not cases.feeds:
        return None, ()
    candidate = BenchSettings(settings.provider, settings.threads, seconds=1.0, seed=settings.seed)
    try:
        return bench([original, pruned], cases.feeds[0], candidate).to_dict(), ()
    except OnnxPruneError as error:
        return None, (f"the result could not be timed: {error}",)


def reported(
    analysis: Analysis, attempt: Attempt, request: Request, loaded: Loaded, result: onnx.ModelProto,
    timing: Mapping[str, object] | None, watch: Stopwatch,
) -> PruneReport:  # fmt: skip
    units, decision = analysis.units, attempt.decision
    traced = units.traced
    before = Quantities(parameters(loaded.model), macs(traced), loaded.nbytes)
    after = Quantities(parameters(result), macs(traced, decision.replayed.sizes), result.ByteSize())
    granularities = {
        g: decision.granularities[b.id].name.lower()
        for b in decision.bundles
        for g in (*b.groups, *b.parents)
    }
    makers = first_makers(units)
    groups = tuple(
        GroupReport(
            f"g{g.id}", g.name, len(g.units), _asked(len(g.units), request.ratios.get(g.id, 0.0), request),
            int((~decision.removed[g.units]).sum()),
            granularities.get(g.id, "any"), *makers.get(g.id, ("", 0)),
        )
        for g in units.groups if g.level == 0
    )  # fmt: skip
    reached = {"macs": after.macs, "params": after.params, "size": after.bytes}
    targets = {k: {"limit": v, "reached": float(reached[k])} for k, v in request.limits.items()}
    return PruneReport(
        before=before,
        after=after,
        verification=attempt.outcome.to_dict(),
        groups=groups,
        dropped=attempt.dropped,
        pinned=pin_reports(units),
        targets=targets,
        bench=timing,
        timings=watch.seconds,
        settings={
            **public_settings(request.settings),
            **_run_settings(request.settings),
            "align": request.step,
        },
        warnings=(*loaded.warnings, *_interface_warning(loaded.model, result)),
        source=_source(loaded, analysis),
        layers=tuple(_layers(traced, decision.replayed.sizes)),
        frozen_params=frozen_params(units),
    )


def _source(loaded: Loaded, analysis: Analysis) -> SourceFacts:
    name = "" if loaded.path is None else str(loaded.path)
    opset = next((o.version for o in loaded.model.opset_import if o.domain in ("", "ai.onnx")), 0)
    return SourceFacts(name, loaded.sha256, len(loaded.model.graph.node), opset, analysis.sizes)


def _layers(traced: Trace, sizes: Mapping[int, Mapping[str, int]]) -> Iterator[Layer]:
    before, after = node_macs(traced), node_macs(traced, sizes)
    for step in traced.steps:
        if before.get(step.number):
            yield Layer(step.site.name, step.node.op, step.number, before[step.number], after[step.number])


def _run_settings(settings: PruneSettings) -> dict[str, object]:
    """Return the settings that shape a run and not the plan, as plain data; what is no text is only named."""
    keys = ("max_drop", "inline", "threads", "provider", "allow_unproved", "memory_limit")
    result: dict[str, object] = {key: getattr(settings, key) for key in keys}
    for key in ("calib", "validate", "metric"):
        value = getattr(settings, key)
        named = value is None or isinstance(value, (str, os.PathLike))
        result[key] = value and os.fspath(value) if named else IN_PYTHON
    result["input_shapes"] = {name: list(shape) for name, shape in settings.input_shapes.items()}
    result["input_values"] = sorted(settings.input_values)
    return result


def _interface_warning(before: onnx.ModelProto, after: onnx.ModelProto) -> Iterator[str]:
    """Say that initializers which callers may feed from IR version 4 on have other shapes now."""
    stored = {t.name: list(t.dims) for t in after.graph.initializer}
    listed = {info.name for info in after.graph.input} & stored.keys()
    if before.ir_version < IR_WITH_DEFAULTS or not listed:
        return
    cut = [t.name for t in before.graph.initializer if t.name in listed and list(t.dims) != stored[t.name]]
    if cut:
        yield (
            f"{len(cut)} weights that are listed among the inputs have new shapes, the first '{cut[0]}': "
            "who feeds them must cut them too"
        )
