"""Several steps: what each begins from, that the plan stays one for the original, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune import PruneSettings
from onnxprune.analysis.analyse import analyse, load
from onnxprune.errors import UsageError
from onnxprune.model.mapped import MappedModel
from onnxprune.model.runtime import open_session, run
from onnxprune.oracle.masked import masked_original
from onnxprune.pipeline.iterative_schedule import Stage, scheduled
from onnxprune.pipeline.resolve import gathered, requested, scored
from onnxprune.planning.decide import decide
from onnxprune.recovery.repair import Repairs
from tests.unit.test_calibration import CALIB, NAMES, digits

FEW = {"input": np.load(CALIB)["input"][:64]}


def stepped(name: str, **given: Any) -> onnxprune.PruneResult:
    settings = {"targets": {"macs": 0.5}, "calib": FEW, "align": 1, "bench": False, "steps": 2, **given}
    return onnxprune.prune(digits(name), PruneSettings(**settings))


@pytest.mark.parametrize(
    ("name", "method"), [*((name, "ls") for name in NAMES), ("shuffle", "refit"), ("transformer", "refit")]
)
def test_a_step_begins_where_the_one_before_ended(name: str, method: str) -> None:
    """The masked original of the weights taken over gives what the repaired model gives."""
    settings = PruneSettings(ratio=0.4, calib=FEW, align=1, recover=method)
    loaded = load(digits(name))
    analysis = analyse(loaded.model)
    evidence = gathered(analysis, settings)
    assert evidence is not None
    request = requested(analysis, settings, loaded)
    first = Stage(analysis, scored(analysis, evidence, settings), evidence)
    decision = decide(analysis.units, request, first.scores)
    removal, repairs = decision.removal, Repairs(analysis.model, method, evidence.data)
    repaired = repairs.repaired(first.pruned(removal.removed), removal, evidence)
    assert repaired is not None
    assert repaired.repaired
    second = first.after(removal, repaired.model, request)
    masked = masked_original(MappedModel(second.analysis.model), removal, second.analysis.dtypes)
    feeds = {"input": FEW["input"][:8]}
    wanted = run(open_session(repaired.model), feeds)["logits"]
    np.testing.assert_allclose(run(open_session(masked.model), feeds)["logits"], wanted, rtol=1e-4, atol=1e-4)
    again = second.pruned(removal.removed)
    np.testing.assert_allclose(run(open_session(again), feeds)["logits"], wanted, rtol=1e-4, atol=1e-4)
    assert (second.scores[removal.removed] == 0).all()
    for view, gram in second.evidence.moments.items():
        gone = removal.removed[next(r.units for r in second.evidence.readers if r.view == view)]
        assert not gram.energy[gone].any()
        assert np.array_equal(gram.energy, gram.energy.transpose(0, 2, 1))


def test_kept_shares_fall_geometrically() -> None:
    loaded = load(digits("shuffle"))
    analysis = analyse(loaded.model)
    whole = onnxprune.inspect(digits("shuffle")).quantities
    limits = requested(analysis, PruneSettings(targets={"macs": 0.25, "params": 0.5}), loaded)
    half = scheduled(limits, analysis.units, 0.5).limits
    assert half["macs"] == pytest.approx(0.5 * whole.macs)
    assert half["params"] == pytest.approx(np.sqrt(0.5) * whole.params)
    assert scheduled(limits, analysis.units, 1.0).limits == pytest.approx(dict(limits.limits))
    ratios = requested(analysis, PruneSettings(ratio=0.75), loaded)
    assert set(scheduled(ratios, analysis.units, 0.5).ratios.values()) == {0.5}
    easy = requested(analysis, PruneSettings(targets={"macs": 0.5, "params": 10_000_000}), loaded)
    assert scheduled(easy, analysis.units, 0.5).limits["params"] == pytest.approx(whole.params)


@pytest.mark.parametrize("name", ["shuffle", "transformer"])
@pytest.mark.slow
def test_the_plan_of_several_steps_is_one_for_the_original(name: str) -> None:
    result = stepped(name)
    report = result.report
    assert report.verification.status == "proved"
    assert report.after.macs <= 0.5 * report.before.macs
    assert not report.missed
    assert len(report.steps) == 1
    assert report.steps[0].macs == pytest.approx(np.sqrt(0.5) * report.before.macs, rel=0.05)
    assert report.recovery is not None
    assert report.recovery.drift_after < report.recovery.drift_before
    assert result.plan.repaired
    assert onnxprune.verify(result.model, digits(name), result.plan).matches_plan
    tampered = onnx.ModelProto.FromString(result.model.SerializeToString())
    tensor = next(t for t in tampered.graph.initializer if t.name in result.plan.repaired)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name))
    assert not onnxprune.verify(tampered, digits(name), result.plan).matches_plan


def test_steps_keep_what_was_asked_and_are_the_same_again() -> None:
    given: dict[str, Any] = {
        "targets": {},
        "ratio": 0.5,
        "exclude": ("type:Gemm",),
        "min_channels": 3,
        "steps": 3,
    }
    first, second = (stepped("mobilenet", **given, recover="ls") for _ in range(2))
    assert len(first.report.steps) == 2
    assert first.report.settings["steps"] == 3
    assert all(g.kept in (g.asked, max(g.asked, 3), g.channels) for g in first.report.groups)
    assert any(g.kept == g.asked < g.channels for g in first.report.groups)
    assert first.plan.to_json() == second.plan.to_json()
    assert first.model.SerializeToString() == second.model.SerializeToString()


def test_steps_read_the_data_once_and_need_no_repair() -> None:
    once = iter([{"input": FEW["input"][i : i + 8]} for i in range(0, 64, 8)])
    report = stepped("shuffle", calib=once, recover="none").report
    assert report.recovery is None
    assert len(report.steps) == 1
    assert report.verification.status == "proved"


def test_a_step_that_removes_nothing_is_left_out() -> None:
    report = stepped("shuffle", targets={"macs": 0.999}, steps=3, align=16, recover="ls").report
    assert len(report.steps) <= 2
    assert report.after.macs < report.before.macs


@pytest.mark.slow
def test_each_trial_of_a_search_takes_its_steps() -> None:
    report = stepped("shuffle", targets={"drift": 0.4}, recover="ls").report
    assert len(report.steps) == 1
    assert report.targets["drift"].reached <= 0.4


@pytest.mark.parametrize(
    ("given", "says"),
    [({"steps": 0, "calib": CALIB}, "at least 1: got 0"), ({"steps": 2}, "by data: give --calib DATA")],
)
def test_steps_without_data_or_sense_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as error:
        PruneSettings(ratio=0.5, **given)
    assert says in str(error.value)
