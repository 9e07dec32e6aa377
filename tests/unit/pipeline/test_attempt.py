"""An attempt: what fails is dropped, and what a run works out once is there once."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
from onnx import numpy_helper

from onnxprune import PruneSettings
from onnxprune.analysis.analyse import analyse, load
from onnxprune.errors import NothingToPrune, UnprovedError
from onnxprune.oracle.cases import cases
from onnxprune.pipeline import attempt as attempting
from onnxprune.pipeline.attempt import RunContext, attempted
from onnxprune.pipeline.resolve import gathered, requested, scored
from onnxprune.progress import Stopwatch
from tests.unit.recovery.examples import calibration, dense


def context(settings: PruneSettings) -> RunContext:
    loaded = load(dense())
    analysis = analyse(loaded.model)
    evidence = gathered(analysis, settings)
    return RunContext(
        analysis, requested(analysis, settings, loaded), cases(analysis, {}, {}, 0),
        scored(analysis, evidence, settings), evidence, Stopwatch(),
    )  # fmt: skip


def test_without_data_there_is_no_repair() -> None:
    run = context(PruneSettings(ratio=0.5, align=1))
    candidate = run.carried_out({})
    assert run.repairs is None
    assert candidate.repair is None
    assert candidate.model is candidate.attempt.model
    assert candidate.removal.removed.sum() == 12
    assert {"decide", "rewrite", "verify"} <= run.watch.seconds.keys()


def test_all_attempts_of_a_run_share_its_repairs() -> None:
    run = context(PruneSettings(ratio=0.5, align=1, calib=list(calibration().batches), recover="ls"))
    one, other = (run.carried_out({}) for _ in range(2))
    assert run.repairs is run.repairs
    assert one.repair is not None
    assert one.model is one.repair.model
    assert one.repair.repaired
    assert one.model == other.model


def test_a_group_that_cannot_be_proved_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    real = attempting.rewritten

    def wrong(*args: object) -> onnx.ModelProto:
        """Spoil what the last layer reads of the second group, where it is cut."""
        model = real(*args)  # type: ignore[arg-type]
        for tensor in model.graph.initializer:
            if tensor.name == "u" and tensor.dims[0] < 12:
                spoiled = numpy_helper.to_array(tensor) + 1
                tensor.CopyFrom(numpy_helper.from_array(spoiled, "u"))
        return model

    monkeypatch.setattr(attempting, "rewritten", wrong)
    run = context(PruneSettings(ratio=0.5, align=1))
    found = attempted(run.analysis, run.request, run.cases, run.scores, run.watch)
    shapes = {t.name: tuple(t.dims) for t in found.model.graph.initializer}
    assert shapes["w"] == (6, 6)
    assert shapes["u"] == (12, 3)
    (dropped,) = found.dropped
    assert "differs by" in dropped.reason


def test_where_every_group_fails_nothing_is_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: onnx.ModelProto, *_: object) -> onnx.ModelProto:
        copy = onnx.ModelProto.FromString(model.SerializeToString())
        for tensor in copy.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 2, tensor.name))
        return copy

    monkeypatch.setattr(attempting, "rewritten", wrong)
    run = context(PruneSettings(ratio=0.5, align=1))
    with pytest.raises(UnprovedError, match="nothing could be proved: 2 groups failed"):
        attempted(run.analysis, run.request, run.cases, run.scores, run.watch)


def test_why_nothing_goes_is_said() -> None:
    run = context(PruneSettings(ratio=0.5, align=1))
    request = replace(run.request, ratios=dict.fromkeys(run.request.ratios, 0.0))
    with pytest.raises(NothingToPrune, match="a ratio of 0 removes no channel"):
        attempted(run.analysis, request, run.cases, run.scores, run.watch)
    few = context(PruneSettings(ratio=0.5, align=1, min_channels=12))
    with pytest.raises(NothingToPrune, match="12 or more channels stay"):
        attempted(few.analysis, few.request, few.cases, few.scores, few.watch)
