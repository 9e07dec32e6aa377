"""Targets are met within one step, floors are what can be left, and large steps are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import onnxprune
from onnxprune import PruneSettings
from onnxprune.analysis.analyse import analyse
from onnxprune.cli.app import program
from onnxprune.planning.allocate import RemovalSequence, norm_loss
from onnxprune.planning.cost_model import CostModel
from onnxprune.planning.living import LivingUnits
from onnxprune.planning.reach import Allowance, Widths, reached
from onnxprune.planning.trial import TrialRemoval
from onnxprune.reports.data import PruneReport
from tests.unit.planning.examples import (
    baked_table,
    depth_multipliers,
    grouped_queries,
    mixed_experts,
    one_hidden_layer,
    shared_head,
)


def report_of(model: onnx.ModelProto, **given: Any) -> PruneReport:
    return onnxprune.prune(model, PruneSettings(bench=False, **given)).report


def share(report: PruneReport) -> float:
    return report.after.macs / report.before.macs


@pytest.mark.parametrize("align", [0, 1])
@pytest.mark.parametrize("asked", [0.8, 0.5, 0.3])
@pytest.mark.parametrize("build", [depth_multipliers, one_hidden_layer])
def test_a_target_is_met_within_one_step(
    build: Callable[[], onnx.ModelProto], asked: float, align: int
) -> None:
    report = report_of(build(), targets={"macs": asked}, align=align)
    assert asked - 0.021 <= share(report) <= asked
    assert not report.missed


def test_what_goes_along_is_part_of_the_price() -> None:
    """Removing parents removes all their children; the amounts of a trial are those of the closed removal."""
    units = analyse(depth_multipliers()).units
    prices, living = CostModel(units, 0), LivingUnits(units)
    (group,) = (g for g in units.groups if len(g.units) == 72)
    atoms = tuple(group.units.reshape(24, 3))
    sequence = RemovalSequence(atoms, np.ones(24), (group.id,), np.array([72]), np.full((24, 1), 3))
    trial = TrialRemoval(prices, living, [sequence], [np.arange(24)])
    whole, saved = trial.amounts(), np.zeros(len(prices.keys))
    for _ in range(5):
        found = trial.saving(0)
        assert found is not None
        saved = saved + found
        trial.take(0)
    removed = np.zeros(units.count, dtype=bool)
    removed[np.concatenate(atoms[:5])] = True
    closed = units.rows.close(removed)
    assert closed.sum() > removed.sum()
    other = CostModel(units, 0)
    other.remove(other.effect(np.flatnonzero(closed)))
    assert trial.amounts() == pytest.approx(other.amounts())
    assert whole - saved == pytest.approx(trial.amounts())
    for _ in range(5):
        trial.give_back(0)
    assert trial.amounts() == pytest.approx(whole)


def test_a_step_that_overshoots_waits_for_those_that_do_not() -> None:
    """The cheaper layer goes by 16, the dearer one by 1: a target in between is met by the dearer one."""
    units = analyse(one_hidden_layer(32)).units
    (group,) = units.groups
    first, second = np.split(group.units, 2)
    coarse = RemovalSequence((first,), np.array([0.1]), (0,), np.array([17]), np.array([[16]]))
    fine = RemovalSequence(
        tuple(second[:, None]), np.ones(16), (0,), np.array([17]), np.ones((16, 1), np.int64)
    )
    prices = CostModel(units, 0)
    whole = prices.quantities()["macs"]
    found = reached(
        prices,
        LivingUnits(units),
        [coarse, fine],
        Widths(1, 1, strict=True),
        {"macs": 0.75 * whole},
        norm_loss,
    )
    assert found.going == {(1, j) for j in range(8)}
    assert found.large is None


def test_widths_that_are_given_are_held_to_and_said() -> None:
    report = report_of(one_hidden_layer(), targets={"macs": 0.6}, align=16)
    step = report.targets["macs"].step
    assert share(report) == pytest.approx(1 / 3)
    assert step is not None
    assert step.aligned
    assert step.channels == 16
    assert step.share == pytest.approx(1 / 3)
    assert step.below == pytest.approx(0.6 - 1 / 3)


def test_one_ratio_for_all_groups_comes_as_near() -> None:
    report = report_of(depth_multipliers(), targets={"macs": 0.5}, align=1, scope="local")
    assert 0.47 <= share(report) <= 0.5


def test_the_floor_of_a_target_out_of_reach_is_what_is_left() -> None:
    report = report_of(baked_table(), targets={"params": 0.3}, align=1)
    target = report.targets["params"]
    assert report.missed == ("params",)
    assert target.floor == target.reached == 192 * 8 + 2 * 8
    assert report.after.params == target.floor


def test_the_floor_lies_below_a_target_in_reach() -> None:
    target = report_of(one_hidden_layer(), targets={"macs": 0.5}, align=1).targets["macs"]
    assert target.floor == 2 * 64


def test_what_aligned_widths_miss_narrower_ones_reach_unless_they_are_asked_for() -> None:
    assert share(report_of(one_hidden_layer(), targets={"macs": 0.1})) <= 0.1
    missed = report_of(one_hidden_layer(), targets={"macs": 0.1}, align=16)
    target = missed.targets["macs"]
    assert missed.missed == ("macs",)
    assert (target.floor, target.exact_floor) == (16 * 2 * 64, 2 * 64)


def test_a_target_below_every_floor_leaves_the_aligned_widths() -> None:
    report = report_of(baked_table(), targets={"params": 0.3})
    assert report.missed == ("params",)
    assert [g.kept for g in report.groups] == [report.settings["align"]]


def test_depth_multipliers_go_by_their_finest_rows() -> None:
    report = report_of(depth_multipliers(), ratio=0.5, align=1)
    assert {g.constraint for g in report.groups if g.channels == 72} == {"rows"}
    assert [g.kept for g in report.groups] == [36, 10]


@pytest.mark.parametrize("granularity", ["rows", "finest"])
def test_a_shared_head_goes_with_its_heads_of_q(granularity: str) -> None:
    settings = PruneSettings(ratio=0.5, granularity=granularity, align=1, bench=False)
    found = onnxprune.prune(grouped_queries(), settings)
    (node,) = (n for n in found.model.graph.node if n.op_type == "GroupQueryAttention")
    heads = {a.name: a.i for a in node.attribute if a.name.endswith("num_heads")}
    assert found.report.verification.status == "proved"
    if granularity == "rows":
        assert heads == {"num_heads": 4, "kv_num_heads": 2}
    assert found.report.after.params < found.report.before.params


def test_what_forbids_whole_rows_is_said() -> None:
    """Heads that share one head of K and V are merged with its columns, which are independent of them."""
    with_rows = report_of(shared_head(), ratio=0.5, granularity="rows", align=1)
    (said,) = (w for w in with_rows.warnings if "whole rows" in w)
    assert "Reshape 'merge' at 'heads': two independent labelled axes are merged into one" in said
    assert not any("whole rows" in w for w in report_of(shared_head(), ratio=0.5, align=1).warnings)


def test_a_target_out_of_reach_ends_with_one_and_names_its_floor(tmp_path: Path) -> None:
    given, written = tmp_path / "given.onnx", tmp_path / "out.onnx"
    onnx.save(baked_table(), given)
    words = ["prune", str(given), "-o", str(written), "--target", "params=0.3", "--align", "1", "--no-bench"]
    result = CliRunner().invoke(program, words)
    assert result.exit_code == 1
    assert "the floor is 1.55 k" in result.stderr
    assert written.exists()
    told = CliRunner().invoke(program, [*words, "--force", "--json"])
    assert json.loads(told.stdout)["targets"]["params"]["floor"] == 192 * 8 + 2 * 8


def test_a_costly_alignment_is_said_with_its_option(tmp_path: Path) -> None:
    given = tmp_path / "given.onnx"
    onnx.save(one_hidden_layer(), given)
    words = ["prune", str(given), "--dry-run", "--target", "macs=0.6", "--align", "16"]
    result = CliRunner().invoke(program, words, terminal_width=200)
    told = " ".join(result.output.split())
    assert (
        "26.7 % of the whole below: a step of g0 (w) takes 16 channels, 33.3 %; --align 1 comes nearer"
        in told
    )


def test_a_quality_out_of_reach_is_missed_with_the_best_that_was_found() -> None:
    calib = {"x": np.random.default_rng(0).normal(size=(16, 64)).astype(np.float32)}
    settings = PruneSettings(targets={"drift": 1e-6}, calib=calib, recover="none", align=1, bench=False)
    report = onnxprune.prune(one_hidden_layer(), settings).report
    target = report.targets["drift"]
    assert report.missed == ("drift",)
    assert report.after.macs < report.before.macs
    assert target.floor == target.reached == min(t["drift"] for t in report.search)


def test_planning_works_in_proportion_to_what_may_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elements of a mixed kernel have two parents each: closures are counted, not the seconds."""
    counted = {"died": 0}
    kill = LivingUnits.kill

    def counting(self: LivingUnits, indices: np.ndarray) -> tuple[np.ndarray, bool]:
        died, fits = kill(self, indices)
        counted["died"] += len(died) + 1
        return died, fits

    monkeypatch.setattr(LivingUnits, "kill", counting)
    work = []
    for size in (8, 16):
        counted["died"] = 0
        report_of(mixed_experts(size), targets={"macs": 0.6}, align=1)
        work.append(counted["died"])
    assert work[1] <= 12 * work[0]  # four times the units


def test_an_allowance_is_as_far_below_as_its_nearest_limit() -> None:
    prices = CostModel(analyse(one_hidden_layer()).units, 0)
    allowance = Allowance.of({"macs": 0.5 * 48 * 128, "params": 0.75 * 48 * 128}, prices)
    half = prices.amounts() * 0.5
    assert allowance.below(half) == pytest.approx(0.0)
    assert not allowance.missing(half).any()
    assert allowance.missing(half * 1.1).tolist() == [k == "macs" for k in prices.keys]
