"""What a run leaves beside the weights: the plan, the stamp on the model, and the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

import onnxprune
from onnxprune.analysis.analyse import Analysis
from onnxprune.analysis.cost import macs, node_macs, parameters
from onnxprune.analysis.replay import Removal
from onnxprune.analysis.trace import Trace
from onnxprune.data.doubts import doubts
from onnxprune.data.read import Calibration
from onnxprune.evaluation.closeness import Closeness
from onnxprune.evaluation.latency import BenchResult
from onnxprune.model.files import write_file
from onnxprune.model.load import Loaded
from onnxprune.pipeline.attempt import Attempt
from onnxprune.pipeline.inspect import first_makers, frozen_params, pin_reports
from onnxprune.planning.decide import Request
from onnxprune.planning.plan import Plan, derived, group_plans
from onnxprune.planning.target import Measured, amount_of
from onnxprune.recovery.repair import Recovery
from onnxprune.reports.data import (
    CalibrationReport,
    GroupReport,
    Layer,
    PruneReport,
    Quantities,
    SensitivityReport,
    SourceFacts,
    StepReport,
    TargetReport,
)
from onnxprune.reports.quality import closeness_line, ruin_line

IR_WITH_DEFAULTS = 4  # from here on an initializer among the inputs is a default that callers may replace
MADE_UP = "calibration inputs are synthesised: real ones may drift more; give --calib DATA if you can"
UNSURE = "the result is unreliable: {}, and no data says more; remove less, or give --calib DATA"
FEWER = "layers were refitted on {:,} of {:,} calibration samples: --memory-limit holds no more; raise it"


@dataclass(frozen=True)
class PruneResult:
    """The pruned model, the plan that made it, and the report."""

    model: onnx.ModelProto
    plan: Plan
    report: PruneReport


@dataclass(frozen=True)
class Outcome:
    """What a run came to. loaded: the original as it was read, analysis: with its functions written out;
    model: what is written.
    """

    loaded: Loaded
    analysis: Analysis
    request: Request
    attempt: Attempt
    model: onnx.ModelProto


# -- the plan ------------------------------------------------------------------------------------------------
def planned(analysis: Analysis, removal: Removal, request: Request, sha256: str) -> Plan:
    """Write down a removal; sha256: of the model as it was read."""
    units = analysis.units
    asked = {g.id: asked_of(len(g.units), g.id, request) for g in units.groups}
    sizes = {name: list(shape) for name, shape in analysis.sizes.items()}
    settings = request.settings.of_plan() | {"input_shapes": sizes}
    groups = group_plans(units, removal.removed, asked)
    parts = derived(removal)
    return Plan(sha256, settings, request.step, groups, parts["slices"], parts["masks"], parts["repairs"])


def asked_of(channels: int, group: int, request: Request) -> int:
    """Return how many channels of a group were to stay."""
    if request.limits:
        return channels
    return channels - int(np.floor(request.ratios.get(group, 0.0) * channels + 1e-9))


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


# -- the report ----------------------------------------------------------------------------------------------
def reported(outcome: Outcome, timing: BenchResult | None, seconds: Mapping[str, float]) -> PruneReport:
    """Tell of a run. timing: both models side by side; seconds: by stage."""
    loaded, analysis, request = outcome.loaded, outcome.analysis, outcome.request
    sizes = outcome.attempt.decision.removal.replayed.sizes
    traced = analysis.units.traced
    before = Quantities(parameters(loaded.model), macs(traced), loaded.nbytes)
    after = Quantities(parameters(outcome.model), macs(traced, sizes), outcome.model.ByteSize())
    reached = Measured(outcome.model, after.bytes, traced, sizes)
    amounts = {k: float(amount_of(k).measure(reached)) for k in request.limits}
    targets = {k: _target_report(outcome, k, amount) for k, amount in amounts.items()}
    told = {**request.settings.of_plan(), **request.settings.of_run(), "align": request.step}
    return PruneReport(
        before=before,
        after=after,
        verification=outcome.attempt.outcome.verification,
        groups=tuple(_groups(outcome)),
        dropped=outcome.attempt.dropped,
        pinned=pin_reports(analysis.units),
        targets=targets,
        bench=timing,
        timings=seconds,
        settings=told,
        warnings=(*loaded.warnings, *_interface_warning(loaded.model, outcome.model)),
        source=_source(loaded, analysis),
        layers=tuple(_layers(traced, sizes)),
        frozen_params=frozen_params(analysis.units),
    )


def _target_report(outcome: Outcome, key: str, amount: float) -> TargetReport:
    """Tell what a target came to, how little could be left, and which step was too large."""
    limit, found = outcome.request.limits[key], outcome.attempt.decision.reached
    if found is None:
        return TargetReport(limit, amount)
    step, units = None, outcome.analysis.units
    if found.large is not None and found.large.key == key:
        large, group = found.large, units.groups[found.large.group]
        name = f"g{group.id}"
        step = StepReport(name, group.name, large.channels, large.share, large.below, found.aligned)
    floors = min(found.floor[key], amount), min(found.exact_floor[key], amount)
    return TargetReport(limit, amount, *floors, step)


def _groups(outcome: Outcome) -> Iterator[GroupReport]:
    """Tell of the groups that produce channels: those of level 0."""
    units, decision = outcome.analysis.units, outcome.attempt.decision
    granularities = {
        g: decision.granularities[b.id].name.lower()
        for b in decision.bundles
        for g in (*b.groups, *b.parents)
    }
    makers = first_makers(units)
    for group in (g for g in units.groups if g.level == 0):
        channels, kept = len(group.units), int((~decision.removal.removed[group.units]).sum())
        yield GroupReport(
            f"g{group.id}", group.name, channels, asked_of(channels, group.id, outcome.request), kept,
            granularities.get(group.id, "any"), *makers.get(group.id, ("", 0)),
        )  # fmt: skip


def _source(loaded: Loaded, analysis: Analysis) -> SourceFacts:
    name = "" if loaded.path is None else str(loaded.path)
    opset = next((o.version for o in loaded.model.opset_import if o.domain in ("", "ai.onnx")), 0)
    return SourceFacts(name, loaded.sha256, len(loaded.model.graph.node), opset, analysis.sizes)


def _layers(traced: Trace, sizes: Mapping[int, Mapping[str, int]]) -> Iterator[Layer]:
    before, after = node_macs(traced), node_macs(traced, sizes)
    for step in traced.steps:
        if before.get(step.number):
            yield Layer(step.site.name, step.node.op, step.number, before[step.number], after[step.number])


def calibration_report(data: Calibration) -> CalibrationReport:
    """Say of calibration data where it comes from, and if it is made up how it was chosen."""
    source = "synthesised" if data.synthesised else "given"
    return CalibrationReport(source, data.samples, data.synthesised or None)


def cautions(model: onnx.ModelProto, data: Calibration, repair: Recovery | None = None) -> tuple[str, ...]:
    """Warn of calibration data that is made up or looks wrong, and of a repair without room for all of it."""
    result = (MADE_UP,) if data.synthesised else doubts(data, model)
    if repair is None or repair.samples >= data.samples:
        return result
    return (*result, FEWER.format(repair.samples, data.samples))


def judged_cautions(close: Closeness | None) -> tuple[str, ...]:
    """Warn of a result that data calls ruined, and of one that is far away even on made-up inputs."""
    if close is None or not close.far:
        return ()
    return (ruin_line(close),) if close.ruined else (UNSURE.format(closeness_line(close)),)


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


def write_page(path: Path, result: PruneResult, output: str, curves: SensitivityReport | None) -> None:
    """Write the report as an HTML page.

    output: the name of the model file; curves: what `sensitivity` found.
    """
    from onnxprune.reports.facts import environment
    from onnxprune.reports.model_page import Page, model_page

    page = Page(result.report, environment(), result.plan, output, curves)
    write_file(path, model_page(page))
