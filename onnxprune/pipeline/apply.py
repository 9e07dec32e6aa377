"""Carrying out a plan, and checking a model against one."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import onnx
from msgspec.structs import replace

from onnxprune.analysis.analyse import Analysis, analyse, inlined_again, load
from onnxprune.analysis.folding import folded_again
from onnxprune.errors import UnprovedError, UsageError
from onnxprune.model.fold import FoldedTensor
from onnxprune.model.graph import input_specs
from onnxprune.model.inline import Inlined
from onnxprune.model.load import Loaded
from onnxprune.model.save import check_output, save
from onnxprune.oracle.cases import cases, proof
from onnxprune.oracle.equal import model_differences
from onnxprune.oracle.prove import FAILED, UNPROVED
from onnxprune.pipeline.attempt import Attempt
from onnxprune.pipeline.prune import Model, check_written_out, lowered
from onnxprune.pipeline.report import Outcome, PruneResult, reported, stamped
from onnxprune.planning.decide import Decision, Request
from onnxprune.planning.plan import Plan, planned_removal, read_plan
from onnxprune.progress import Progress, Stopwatch, silent
from onnxprune.recovery.context import hashes
from onnxprune.reports.data import VerifyReport
from onnxprune.rewrite.apply import apply as rewritten
from onnxprune.settings import PruneSettings

Values: TypeAlias = Mapping[str, Any]
MAX_ELEMENTS = 1 << 30


def apply(
    model: Model,
    plan: str | Path | bytes | Plan,
    output: str | os.PathLike[str] | None = None,
    force: bool = False,
    input_values: Values | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> PruneResult:
    """Carry out a plan, prove the result, and write it where an output is given.

    input_values: inputs to run the model with, where those generated do not do. progress: as `prune` calls
    it. Raises UsageError for a plan that does not fit the model or does not replay, and as `prune` does.

    >>> from onnxprune import PruneSettings, prune
    >>> first = prune("models/digits_resnet.onnx", PruneSettings(ratio=0.5, bench=False))
    >>> apply("models/digits_resnet.onnx", first.plan).report.after == first.report.after
    True
    """
    watch = Stopwatch(progress)
    if output is not None:
        check_output(output, model if isinstance(model, (str, os.PathLike)) else None, force)
    if (
        output is not None
        and isinstance(plan, (str, Path))
        and Path(plan).resolve() == Path(output).resolve()
    ):
        raise UsageError(f"output '{output}' is the plan; choose another name")
    read, loaded = read_plan(plan), load(model)
    watch.lap("load")
    written_out = inlined_again(loaded.model, _names(read, "inlined"), _names(read, "lifted"))
    outcome = _applied(read, (loaded, written_out), input_values or {}, seed, watch)
    proved = outcome.attempt.outcome
    if proved.status == FAILED:
        raise UnprovedError(
            f"the plan's result differs from the masked original at '{proved.failures[0].tensor}'"
        )
    result = stamped(outcome.model, read)
    if output is not None:
        save(result, output, force=force)
        watch.lap("write")
    report = reported(outcome, None, watch.seconds)
    asked = {g.id: g.asked for g in read.groups}
    groups = tuple(replace(g, asked=asked.get(g.id, g.channels)) for g in report.groups)
    settings = {**read.settings, "align": read.align}
    said = replace(
        report,
        groups=groups,
        settings=settings,
        inlined=written_out.names,
        folded=outcome.analysis.folded,
        warnings=(*report.warnings, *_unrepaired(read)),
    )
    return PruneResult(result, read, said)


def _unrepaired(plan: Plan) -> Iterator[str]:
    """Say that values which calibration data gave are not in the plan."""
    if plan.repaired:
        yield (
            f"{len(plan.repaired)} tensors were repaired on calibration data when the plan was made; this "
            "model has the values of the original: prune again with --calib for the others"
        )


def _applied(
    plan: Plan, given: tuple[Loaded, Inlined], values: Values, seed: int, watch: Stopwatch
) -> Outcome:
    """Carry out a plan and prove it; given: the original as it was read, and its functions written out."""
    loaded, written_out = given
    shapes = _planned_shapes(plan, loaded)
    analysis = _analysed(plan, written_out, shapes, values)
    watch.lap("analyse")
    removal = planned_removal(analysis.units, plan, loaded.sha256)
    pruned = rewritten(analysis.model, removal)
    watch.lap("rewrite")
    found = cases(analysis, {}, values, seed)
    check_written_out(loaded, written_out, analysis, found)
    outcome = proof(analysis, pruned, removal, found, partial(watch.progress, "proof"))
    watch.lap("verify")
    if outcome.status == UNPROVED:
        raise UnprovedError(f"the result cannot be proved: {outcome.reason}")
    attempt = Attempt(Decision(removal, {}, ()), pruned, outcome, ())
    request = Request({}, {}, frozenset(), plan.align, 0, PruneSettings(ratio=0.0))
    result = pruned if outcome.status == FAILED else lowered(written_out, pruned, found)
    return Outcome(loaded, analysis, request, attempt, result)


def _planned_shapes(plan: Plan, loaded: Loaded) -> dict[str, tuple[int | None, ...]]:
    """Read the input sizes that a plan was made at; groups are numbered as they were then.

    Raises UsageError where they are not sizes of this model's inputs.
    """
    given = plan.settings.get("input_shapes", {})
    specs = input_specs(loaded.model)
    good = isinstance(given, dict) and all(
        name in specs and isinstance(sizes, list) and _sensible(sizes) for name, sizes in given.items()
    )
    if not good:
        raise UsageError(
            "the plan's settings.input_shapes are not sizes of this model's inputs: make a new plan"
        )
    return {name: tuple(sizes) for name, sizes in given.items()}


def _names(plan: Plan, setting: str) -> list[str]:
    """Read which functions and branches were written out or laid out before the plan was made.

    Raises UsageError where these are no names.
    """
    names = plan.settings.get(setting, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"the plan's settings.{setting} are no names: make a new plan")
    return names


def _analysed(
    plan: Plan, written_out: Inlined, shapes: Mapping[str, tuple[int | None, ...]], values: Values
) -> Analysis:
    """Label the model with the tensors folded that were so when the plan was made."""
    folded = folded_again(written_out.model, _planned_tensors(plan))
    return dataclasses.replace(analyse(folded.model, shapes, values), folded=folded.tensors)


def _planned_tensors(plan: Plan) -> list[str]:
    """Read which tensors were folded before the plan was made.

    Raises UsageError where these are no tensors and nodes.
    """
    given = plan.settings.get("folded", [])
    try:
        return [folded.tensor for folded in msgspec.convert(given, list[FoldedTensor])]
    except msgspec.ValidationError as error:
        text = "the plan's settings.folded are no list of tensors and nodes"
        raise UsageError(f"{text}: {error}; make a new plan") from error


def _sensible(sizes: list[object]) -> bool:
    """Tell whether these are sizes of a tensor that can be made."""
    counts = [n for n in sizes if type(n) is int and 0 < n <= MAX_ELEMENTS]
    return len(counts) == len(sizes) and prod(counts) <= MAX_ELEMENTS


def verified(
    pruned: onnx.ModelProto, original: Loaded, plan: str | Path | bytes | Plan, values: Values, seed: int,
    progress: Progress = silent,
) -> VerifyReport:  # fmt: skip
    """Prove the plan on the original, and compare what it makes with the model given."""
    read = read_plan(plan)
    written_out = inlined_again(original.model, _names(read, "inlined"), _names(read, "lifted"))
    outcome = _applied(read, (original, written_out), values, seed, Stopwatch(progress))
    differences = (
        *model_differences(outcome.model, pruned, frozenset(read.repaired)),
        *_other_repairs(pruned, read.repaired),
    )
    return VerifyReport(outcome.attempt.outcome.verification, not differences, differences)


def _other_repairs(pruned: onnx.ModelProto, repaired: Mapping[str, str]) -> Iterator[str]:
    """Compare repaired values with the hashes in the plan: only the plan can vouch for them."""
    stored = hashes(pruned) if repaired else {}
    for name, wanted in repaired.items():
        if name not in stored:
            yield f"tensor '{name}', which the plan calls repaired, is missing"
        elif stored[name] != wanted:
            yield f"the values of tensor '{name}' are not the repaired ones of the plan"
