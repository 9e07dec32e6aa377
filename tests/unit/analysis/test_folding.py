"""Weights computed from constants: folded where they hold channels, in the plan, proved, ranked, repaired."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import NodeProto, TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import PruneSettings
from onnxprune.analysis.folding import analyse_folded
from onnxprune.cli.app import program
from onnxprune.errors import NothingToPrune, UsageError

SETTINGS = PruneSettings(ratio=0.5, align=1, bench=False)
node = helper.make_node
WIDTH = 12


def built(nodes: list[NodeProto], stored: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A graph of x [N, 3, 6, 6]."""
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v.astype(np.float32) if v.dtype.kind == "f" else v, n)
         for n, v in stored.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def weight_norm(scale: np.ndarray, folded: bool = False) -> onnx.ModelProto:
    """x -> Conv of g v / |v| with so many outputs -> Relu -> Conv -> y; folded: the weight is stored."""
    rng = np.random.default_rng(0)
    v, g = rng.standard_normal((WIDTH, 3, 3, 3)), scale.reshape(WIDTH, 1, 1, 1)
    v *= rng.uniform(0.1, 5, (WIDTH, 1, 1, 1))  # what the raw weight says of importance is noise
    norm = [
        node("ReduceL2", ["v"], ["n"], "norm", axes=[1, 2, 3]),
        node("Div", ["g", "n"], ["r"], "ratio"),
        node("Mul", ["v", "r"], ["w"], "scaled"),
    ]
    net = [
        node("Conv", ["x", "w"], ["h"], "first", pads=[1, 1, 1, 1]),
        node("Relu", ["h"], ["a"]),
        node("Conv", ["a", "u"], ["y"], "second"),
    ]
    last = np.ones((4, WIDTH, 1, 1)) + 0.1 * rng.standard_normal((4, WIDTH, 1, 1))
    if folded:
        w = v * (g / np.sqrt((v * v).sum((1, 2, 3), keepdims=True)))
        return built(net, {"w": w, "u": last})
    return built([*norm, *net], {"v": v, "g": g, "u": last})


SCALE = np.random.default_rng(3).permutation(np.arange(1.0, WIDTH + 1))


def test_the_channels_of_a_weight_norm_are_those_of_the_folded_weight() -> None:
    result = onnxprune.prune(weight_norm(SCALE), SETTINGS)
    other = onnxprune.prune(weight_norm(SCALE, folded=True), SETTINGS)
    assert result.report.verification.status == "proved"
    assert [g.keep for g in result.plan.groups] == [g.keep for g in other.plan.groups]
    assert {n.op_type for n in result.model.graph.node} == {"Conv", "Relu"}
    assert result.report.after == replace_bytes(other.report.after, result.report.after.bytes)


def replace_bytes(quantities: onnxprune.reports.data.Quantities, nbytes: int) -> object:
    return type(quantities)(quantities.params, quantities.macs, nbytes)


def test_dead_channels_of_a_weight_norm_go() -> None:
    scale = np.where(np.arange(WIDTH) % 2, SCALE, 0.0)
    (group,) = onnxprune.prune(weight_norm(scale), SETTINGS).plan.groups
    assert group.keep == list(range(1, WIDTH, 2))


def test_the_plan_says_what_is_folded_and_is_carried_out_again() -> None:
    model = weight_norm(SCALE)
    result = onnxprune.prune(model, SETTINGS)
    assert result.plan.settings["folded"] == [
        {"tensor": "w", "nodes": ["norm", "ratio", "scaled"], "constants": ["v", "g"]}
    ]
    assert result.report.folded[0].tensor == "w"
    again = onnxprune.apply(model, result.plan.to_json())
    assert again.model == result.model
    assert again.report.folded == result.report.folded
    assert onnxprune.verify(result.model, model, result.plan).matches_plan


def test_a_plan_that_folds_something_else_is_refused() -> None:
    model = weight_norm(SCALE)
    plan = onnxprune.prune(model, SETTINGS).plan
    plan.settings["folded"] = [{"tensor": "u", "nodes": [], "constants": []}]
    with pytest.raises(UsageError, match="folds tensor 'u'"):
        onnxprune.apply(model, plan)
    plan.settings["folded"] = ["w"]
    with pytest.raises(UsageError, match=r"settings\.folded"):
        onnxprune.apply(model, plan)


@pytest.mark.parametrize("name", ["v", "scaled", "w", "first"])
def test_a_folded_weight_goes_by_the_names_of_what_it_was_computed_from(name: str) -> None:
    with pytest.raises(NothingToPrune, match="--exclude"):
        onnxprune.prune(weight_norm(SCALE), replace(SETTINGS, exclude=(name,)))
    report = onnxprune.prune(weight_norm(SCALE), replace(SETTINGS, ratio=0.0, ratios=((name, 0.5),))).report
    assert report.groups[0].kept == WIDTH // 2


def test_the_command_line_says_what_was_folded(tmp_path: Path) -> None:
    onnx.save(weight_norm(SCALE), tmp_path / "m.onnx")
    for command in ("inspect", "prune"):
        more = ["--dry-run", "--ratio", "0.5", "--no-bench"] if command == "prune" else []
        result = CliRunner().invoke(program, [command, str(tmp_path / "m.onnx"), *more])
        assert result.exit_code == 0, result.output
        assert "1 tensor computed from constants: w" in result.stdout


def test_a_model_without_such_weights_has_nothing_folded_in_its_plan() -> None:
    assert "folded" not in onnxprune.prune(weight_norm(SCALE, folded=True), SETTINGS).plan.settings


def test_a_folded_weight_is_repaired() -> None:
    model = weight_norm(SCALE)
    model.graph.node.extend(
        [node("Relu", ["y"], ["b"]), node("Mul", ["p", "q"], ["z"]), node("Conv", ["b", "z"], ["out"])]
    )
    model.graph.output[0].name = "out"
    rng = np.random.default_rng(1)
    for name, shape in (("p", (5, 4, 1, 1)), ("q", (5, 1, 1, 1))):
        array = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    calib = {"x": rng.standard_normal((32, 3, 6, 6)).astype(np.float32)}
    result = onnxprune.prune(model, replace(SETTINGS, calib=calib, recover="refit"))
    assert result.report.recovery is not None
    assert {"w", "z"} & set(result.plan.repaired)
    assert result.report.recovery.drift_after < result.report.recovery.drift_before
    assert onnxprune.verify(result.model, model, result.plan).matches_plan


def test_only_what_holds_channels_that_may_go_is_folded() -> None:
    model = weight_norm(SCALE)
    model.graph.node.extend([node("Mul", ["p", "q"], ["z"], "beside"), node("Mul", ["y", "z"], ["out"])])
    model.graph.output[0].name = "out"
    array = np.ones((1, 4, 1, 1), np.float32)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name in "pq")
    analysis = analyse_folded(model)
    assert [f.tensor for f in analysis.folded] == ["w"]
    assert "beside" in {n.name for n in analysis.model.graph.node}


def test_batch_normalisation_in_training_mode_makes_a_weight() -> None:
    rng = np.random.default_rng(0)
    nodes = [
        node("Reshape", ["v", "flat"], ["f"]),
        node("BatchNormalization", ["f", "g", "zero", "zero", "one"], ["s", "m", "d"], training_mode=1),
        node("Reshape", ["s", "shape"], ["w"]),
        node("Conv", ["x", "w"], ["h"], pads=[1, 1, 1, 1]),
        node("Relu", ["h"], ["a"]),
        node("Conv", ["a", "u"], ["y"]),
    ]
    stored = {
        "v": rng.standard_normal((WIDTH, 3, 3, 3)), "u": np.ones((4, WIDTH, 1, 1)),
        "g": np.where(np.arange(WIDTH) % 3, SCALE, 0.0), "zero": np.zeros(WIDTH), "one": np.ones(WIDTH),
        "flat": np.array([1, WIDTH, 27]), "shape": np.array([WIDTH, 3, 3, 3]),
    }  # fmt: skip
    result = onnxprune.prune(built(nodes, stored), replace(SETTINGS, ratio=1 / 3))
    assert result.report.verification.status == "proved"
    assert [g.keep for g in result.plan.groups] == [[k for k in range(WIDTH) if k % 3]]


def test_inspect_lists_the_weight_that_is_read() -> None:
    report = onnxprune.inspect(weight_norm(SCALE))
    assert [f.tensor for f in report.folded] == ["w"]
    assert [g.name for g in report.groups] == ["w"]
    assert report.quantities.params == WIDTH * (27 + 1 + 4), "of the file: v, g and u"
