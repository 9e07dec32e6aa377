"""Fitting a layer to what its readers hear: bounds of readers, and the regression towards them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxprune.analysis.analyse import analyse
from onnxprune.analysis.replay import Removal
from onnxprune.data.moments import Evidence
from onnxprune.data.read import read_calibration
from onnxprune.recovery.active_range import ActiveRange, active_range
from onnxprune.recovery.context import RecoveryContext, changed
from onnxprune.recovery.refit import refitted
from onnxprune.recovery.ridge import RegressionRows, Ridge
from onnxprune.recovery.walk import Walk
from tests.laws.test_regressions import model_of

RNG = np.random.default_rng(0)
EVERYTHING = (-np.inf, np.inf)


def bounds(
    nodes: list[onnx.NodeProto], stored: dict[str, np.ndarray], outputs: tuple[str, ...]
) -> ActiveRange:
    """Find what readers hear of the tensor `y` with two channels."""
    tensors = {"w": np.ones((2, 2, 1, 1), np.float32), **stored}
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"]), *nodes], "g",
        [helper.make_tensor_value_info("x", 1, [1, 2, 3, 3])],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(v, n) for n, v in tensors.items()],
    )  # fmt: skip
    return active_range(
        Walk(helper.make_model(graph), [{"x": np.zeros((1, 2, 3, 3), np.float32)}]), "y", 1, 2
    )


@pytest.mark.parametrize(
    ("op", "attrs", "expected"),
    [
        ("Relu", {}, (0.0, np.inf)),
        ("HardSwish", {}, (-3.0, np.inf)),
        ("HardSigmoid", {"alpha": 0.25, "beta": 0.5}, (-2.0, 2.0)),
        ("Sigmoid", {}, EVERYTHING),
        ("LeakyRelu", {}, EVERYTHING),
    ],
)
def test_what_an_activation_hears(op: str, attrs: dict[str, float], expected: tuple[float, float]) -> None:
    found = bounds([helper.make_node(op, ["y"], ["z"], **attrs)], {}, ("z",))
    assert (found.low == expected[0]).all()
    assert (found.high == expected[1]).all()


def test_the_limits_of_a_clip() -> None:
    stored = {"low": np.float32(-1), "high": np.float32(6)}
    found = bounds([helper.make_node("Clip", ["y", "low", "high"], ["z"])], stored, ("z",))
    assert (found.low == -1).all()
    assert (found.high == 6).all()
    computed = helper.make_node("ReduceMax", ["x"], ["high"], keepdims=0)
    found = bounds(
        [computed, helper.make_node("Clip", ["y", "low", "high"], ["z"])], {"low": stored["low"]}, ("z",)
    )
    assert (found.low == -1).all()
    assert np.isposinf(found.high).all()


def test_bounds_pass_a_norm_channel_by_channel() -> None:
    stored = {
        "scale": np.asarray([2.0, -4.0], np.float32), "shift": np.asarray([1.0, 2.0], np.float32),
        "mean": np.asarray([0.5, 0.0], np.float32), "variance": np.ones(2, np.float32),
    }  # fmt: skip
    norm = helper.make_node("BatchNormalization", ["y", *stored], ["n"], epsilon=0.0)
    found = bounds([norm, helper.make_node("Relu", ["n"], ["z"])], stored, ("z",))
    np.testing.assert_allclose(found.low.ravel(), [0.0, -np.inf])
    np.testing.assert_allclose(found.high.ravel(), [np.inf, 0.5])


def test_bounds_pass_a_pool_but_not_one_that_tells_places() -> None:
    pooled, relu = ["y"], helper.make_node("Relu", ["p"], ["z"])
    found = bounds([helper.make_node("MaxPool", pooled, ["p"], kernel_shape=[2, 2]), relu], {}, ("z",))
    assert (found.low == 0).all()
    telling = helper.make_node("MaxPool", pooled, ["p", "i"], kernel_shape=[2, 2])
    assert bounds([telling, relu], {}, ("z", "i")).everything


def test_all_readers_count() -> None:
    relu = helper.make_node("Relu", ["y"], ["z"])
    assert bounds([relu, helper.make_node("Neg", ["y"], ["n"])], {}, ("z", "n")).everything
    assert bounds([relu], {}, ("z", "y")).everything
    assert bounds([helper.make_node("Sub", ["x", "y"], ["z"])], {}, ("z",)).everything


def _rows(count: int, change: np.ndarray) -> RegressionRows:
    """Make rows whose outputs are wrong by a linear map of the features."""
    rows = RegressionRows()
    features = RNG.normal(size=(1, count, len(change))).astype(np.float32)
    made = RNG.normal(size=(1, count, change.shape[1])).astype(np.float32)
    rows.add(features, made, made + features @ change + 0.5)
    return rows


def test_the_regression_finds_a_linear_error() -> None:
    change = RNG.normal(size=(6, 3)).astype(np.float32)
    fit, judge = _rows(500, change), _rows(200, change)
    everything = ActiveRange(np.full((1, 1, 3), -np.inf), np.full((1, 1, 3), np.inf))
    mean = fit.mean()
    for rows in (fit, judge):
        rows.centre(mean)
    found = Ridge(fit, judge, everything, True).best((1e-6, 1e-2))
    assert found is not None
    np.testing.assert_allclose(found.weight[0], change, atol=0.05)
    np.testing.assert_allclose(found.shift - mean @ found.weight, 0.5 * np.ones((1, 1, 3)), atol=0.05)


def test_what_is_not_heard_is_left_free() -> None:
    # Targets below zero are spoiled by noise that no weight explains; a Relu does not hear it.
    weight = RNG.normal(size=(6, 3)).astype(np.float32)
    relu = ActiveRange(np.zeros((1, 1, 3)), np.full((1, 1, 3), np.inf))
    everything = ActiveRange(np.full((1, 1, 3), -np.inf), np.full((1, 1, 3), np.inf))
    sides = []
    for count in (2000, 500):
        features = RNG.normal(size=(1, count, 6)).astype(np.float32)
        target = features @ weight
        target[target < 0] *= RNG.uniform(0, 30, size=int((target < 0).sum()))
        rows = RegressionRows()
        rows.add(features, np.zeros_like(target), target)
        sides.append(rows)
    fit, judge = sides
    plain, aware = (Ridge(fit, judge, h, False).best((1e-4,)) for h in (everything, relu))
    assert plain is not None
    assert aware is not None
    errors = [judge.error(judge.after(change), relu) for change in (plain, aware)]
    assert errors[1] < 0.2 * errors[0]


def test_nothing_changes_where_it_does_not_help() -> None:
    fit, judge = _rows(20, np.zeros((6, 3), np.float32)), RegressionRows()
    for features, made in zip(fit.features, fit.made, strict=True):
        judge.add(features, made, made)
    everything = ActiveRange(np.full((1, 1, 3), -np.inf), np.full((1, 1, 3), np.inf))
    assert Ridge(fit, judge, everything, True).best((1e-3,)) is None


@pytest.mark.parametrize(("samples", "touched"), [(8, False), (80, True)])
def test_a_layer_of_fewer_rows_than_features_is_left_alone(samples: int, touched: bool) -> None:
    weight = RNG.normal(size=(16, 3)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = model_of(nodes, {"x": [1, 16]}, {"y": [1, 3]}, {"w": (16, 3)})
    models = []
    for factor in (1.0, 0.5):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        copy.graph.initializer[0].CopyFrom(numpy_helper.from_array(factor * weight, "w"))
        models.append(copy)
    data = read_calibration(
        [{"x": RNG.normal(size=(1, 16)).astype(np.float32)} for _ in range(samples)], model
    )
    units = analyse(model).units
    whole = Removal.of(units, np.zeros(units.count, dtype=bool))
    context = RecoveryContext(models[0], whole, data, Evidence(data, (), ({},)))
    assert bool(changed(models[1], refitted(context, models[1]))) is touched
