"""Rebalancing: losses that are wrong between groups are found out where the plan stands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxprune
from onnxprune import PruneSettings
from onnxprune.analysis.analyse import analyse
from onnxprune.analysis.units import Units
from onnxprune.planner import Request, decide
from onnxprune.probing import Probe
from onnxprune.rebalancing import ROUNDS, rebalanced
from tests.test_regressions import model_of

MODELS = Path(__file__).parents[1] / "models"
WIDTH = 16


class Told(Probe):
    """A probe that knows what each unit costs, and runs nothing."""

    def __init__(self, found: Units, costs: np.ndarray) -> None:
        self.found, self.costs, self.asked = found, costs, 0

    def drift(self, dead: np.ndarray) -> float | None:
        self.asked += 1
        return float(np.sqrt(self.costs[dead].sum()))


def three_layers() -> onnx.ModelProto:
    """x [n, 8] -> 16 -> 16 -> [n, 2]: two groups."""
    shapes = {"u": (8, WIDTH), "v": (WIDTH, WIDTH), "w": (WIDTH, 2)}
    nodes = [
        helper.make_node("MatMul", ["x", "u"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "v"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    return model_of(nodes, {"x": ("n", 8)}, {"y": ("n", 2)}, shapes)


def asked_for(share: float) -> tuple[Units, Request]:
    model = three_layers()
    settings = PruneSettings(targets={"params": share}, align=1, calib="a file")
    whole = 8 * WIDTH + WIDTH * WIDTH + WIDTH * 2
    found = analyse(model, {}, {}).units
    return found, Request({}, {"params": share * whole}, frozenset(), 1, 0, settings)


def test_groups_that_cost_more_than_was_told_keep_more() -> None:
    found, request = asked_for(0.5)
    first, second = (group.units for group in found.groups)
    told = np.ones(found.count)
    told[first] = told[second] = np.linspace(1.0, 2.0, WIDTH)
    costs = told.copy()
    costs[first] *= 30.0
    probe, judge = Told(found, costs), Told(found, costs)
    better = rebalanced(request, decide(found, request, told), probe, judge)
    assert better is not None
    before, after = (decide(found, request, scores).dead for scores in (told, better))
    assert after[first].sum() < before[first].sum()
    assert costs[after].sum() < costs[before].sum()
    assert judge.asked == ROUNDS + 1, "the plan of every round is judged, and the first"
    for group in (first, second):
        assert np.array_equal(np.argsort(told[group]), np.argsort(better[group])), "within a group none moves"


def test_what_is_right_stays() -> None:
    found, request = asked_for(0.5)
    costs = np.linspace(1.0, 2.0, found.count)
    assert rebalanced(request, decide(found, request, costs), Told(found, costs), Told(found, costs)) is None


def test_the_inputs_held_out_decide() -> None:
    found, request = asked_for(0.5)
    told = np.linspace(1.0, 2.0, found.count)
    costs = told.copy()
    costs[found.groups[0].units] *= 30.0
    assert rebalanced(request, decide(found, request, told), Told(found, costs), Told(found, told)) is None


def test_a_few_inputs_do_not_choose_between_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("onnxprune.recovering.rebalanced", lambda *given: asked.append(given))
    for count in (32, 64):  # of batches of up to 32
        calib = {"input": np.load(MODELS / "digits_calib.npz")["input"][:count]}
        settings = PruneSettings(targets={"macs": 0.6}, align=4, bench=False, calib=calib, recover="ls")
        onnxprune.prune(MODELS / "digits_transformer.onnx", settings)
    assert len(asked) == 1


@pytest.mark.parametrize("name", ["mobilenet", "transformer"])
def test_a_second_plan_is_taken_only_where_it_drifts_less(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.load(MODELS / f"digits_{name}.onnx")
    calib = {"input": np.load(MODELS / "digits_calib.npz")["input"][:160]}
    settings = PruneSettings(targets={"macs": 0.4}, align=1, bench=False, calib=calib, recover="ls")
    with_it = onnxprune.prune(model, settings).report
    monkeypatch.setattr("onnxprune.attempting.reallocated", lambda *_: None)
    without = onnxprune.prune(model, settings).report
    assert with_it.recovery is not None
    assert without.recovery is not None
    assert with_it.recovery["drift_after"] <= without.recovery["drift_after"]
    assert with_it.after.macs <= 0.4 * with_it.before.macs
    assert with_it.verification["status"] == "proved"
