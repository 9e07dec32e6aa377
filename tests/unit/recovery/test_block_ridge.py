"""Layers too wide for one Gram matrix: fitted block by block, never to the worse, within a memory limit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxprune
from onnxprune import PruneSettings
from onnxprune.data.read import Calibration, read_calibration
from onnxprune.recovery import block_ridge as wide
from onnxprune.recovery import refit
from onnxprune.recovery.regression import linears, stored
from onnxprune.recovery.walk import Walk
from tests.laws.test_regressions import model_of

KINDS = ("conv", "strided", "gemm", "matmul")


def layered(kind: str) -> onnx.ModelProto:
    """One layer behind another, the second to be fitted."""
    if kind in ("gemm", "matmul"):
        second = helper.make_node("Gemm", ["z", "v", "c"], ["o"], transB=1)
        if kind == "matmul":
            second = helper.make_node("MatMul", ["z", "v"], ["o"])
        nodes = [
            helper.make_node("MatMul", ["x", "w"], ["y"]),
            helper.make_node("Relu", ["y"], ["z"]),
            second,
        ]
        params = {"w": (5, 24), "v": (3, 24) if kind == "gemm" else (24, 3)}
        params |= {"c": (3,)} if kind == "gemm" else {}
        return model_of(nodes, {"x": ["B", 5]}, {"o": ["B", 3]}, params)
    attributes = {"strides": [2, 1], "dilations": [1, 2], "pads": [1, 0, 0, 2]} if kind == "strided" else {}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"]),
        helper.make_node("Relu", ["y"], ["z"]),
        helper.make_node("Conv", ["z", "v", "c"], ["o"], **attributes),
    ]
    params = {"w": (12, 2, 1, 1), "v": (4, 12, 3, 2), "c": (4,)}
    size = [4, 8] if kind == "strided" else [6, 7]
    return model_of(nodes, {"x": ["B", 2, 8, 8]}, {"o": ["B", 4, *size]}, params)


def batches(kind: str, count: int = 10) -> Calibration:
    rng = np.random.default_rng(0)
    shape = (40, 5) if kind in ("gemm", "matmul") else (8, 2, 8, 8)
    drawn = [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]
    return Calibration(tuple(drawn), 8 * count)


def goals(model: onnx.ModelProto, data: Calibration) -> list[np.ndarray]:
    walk = Walk(model, data.batches)
    walk.until(len(walk.nodes) - 1)
    return [values["o"] for values in walk.preview(["o"])]


def disturbed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with wrong values in the second layer."""
    result = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in result.graph.initializer:
        if tensor.name in "vc":
            values = numpy_helper.to_array(tensor)
            noise = np.random.default_rng(1).standard_normal(values.shape).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values + 0.3 * noise, tensor.name))
    return result


def fitted(
    model: onnx.ModelProto, targets: Sequence[np.ndarray], data: Calibration, **given: object
) -> float:
    """Refit the second layer; return the squared error that is left, per that before."""
    walk = Walk(model, data.batches)
    layer = linears(walk)[-1]
    walk.until(layer.place)
    before = [values["o"] for values in walk.preview(["o"])]
    pairs = zip(before, targets, strict=True)
    wide.block_ridge(walk, layer, pairs, data, bool(given.get("fits", True)), 1 << 24)
    after = [values["o"] for values in walk.preview(["o"])]
    left, whole = (
        sum(float(np.square(a - b).sum()) for a, b in zip(x, targets, strict=True)) for x in (after, before)
    )
    return left / whole


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_blocks_find_the_weights_that_the_original_has(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide, "BLOCK", 5)
    monkeypatch.setattr(wide, "DAMPING", (0.1, *[1e-5] * 60))
    model, data = layered(kind), batches(kind)
    assert fitted(disturbed(model), goals(model, data), data) < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_a_bias_alone_takes_up_the_mean(kind: str) -> None:
    model, data = layered(kind), batches(kind)
    shifted = [target + 5 for target in goals(model, data)]
    assert fitted(model, shifted, data, fits=False) == (
        pytest.approx(1) if kind == "matmul" else pytest.approx(0, abs=1e-6)
    )


def test_what_does_not_help_on_what_is_held_out_is_not_done() -> None:
    model, data = layered("gemm"), batches("gemm", 5)
    rng = np.random.default_rng(2)
    targets = [t + rng.standard_normal(t.shape).astype(np.float32) for t in goals(model, data)]
    walk = Walk(model, data.batches)
    layer = linears(walk)[-1]
    walk.until(layer.place)
    before = stored(walk, layer.weight)
    made = [values["o"] for values in walk.preview(["o"])]
    held = targets[4] - made[4]
    changed = wide.block_ridge(walk, layer, zip(made, targets, strict=True), data, True, 1 << 24)
    after = targets[4] - list(walk.preview(["o"]))[4]["o"]
    assert np.square(after).sum() <= np.square(held).sum()
    assert changed or np.array_equal(before, stored(walk, layer.weight))


def test_rows_are_fewer_where_memory_is_short() -> None:
    model, data = layered("conv"), batches("conv")
    walk = Walk(model, data.batches)
    layer = linears(walk)[-1]
    walk.until(layer.place)
    made = goals(model, data)
    counts = []
    for limit in (24 * (72 + 4) * 100, 1 << 30):
        sides = wide._sides(walk, layer, zip(made, made, strict=True), data, limit)
        counts.append(sum(len(side.residual) for side in sides))
    few, many = counts
    assert few == 100
    assert many == sum(t.shape[0] * t.shape[2] * t.shape[3] for t in made)


@pytest.mark.slow
def test_a_wide_layer_of_a_pruned_model_is_repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refit, "WIDEST", 40)
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"]),
        helper.make_node("Relu", ["y"], ["z"]),
        helper.make_node("Conv", ["z", "v", "c"], ["o"]),
    ]
    model = model_of(
        nodes,
        {"x": ["B", 3, 9, 9]},
        {"o": ["B", 6, 5, 5]},
        {"w": (16, 3, 3, 3), "v": (6, 16, 3, 3), "c": (6,)},
    )
    data = read_calibration({"x": rng.standard_normal((160, 3, 9, 9)).astype(np.float32)}, model)
    settings = PruneSettings(ratio=0.25, align=1, bench=False, calib=list(data.batches))
    report = onnxprune.prune(model, settings).report
    assert report.recovery is not None
    assert report.recovery.drift_after < report.recovery.drift_before
    monkeypatch.setattr(refit, "WIDEST", 8192)
    whole = onnxprune.prune(model, settings).report.recovery
    assert whole is not None
    assert report.recovery.drift_after == pytest.approx(whole.drift_after, rel=0.05)
