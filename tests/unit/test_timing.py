"""Statistics on synthetic times, and what `bench` and `drift` report and refuse. No test asserts a speed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import ModelError, UsageError
from onnxprune.evaluation.drift import distance, drift
from onnxprune.evaluation.latency import (
    PATIENCE,
    SESSION_NOISE,
    BenchSettings,
    LatencyRatio,
    bench,
    compare,
    cpu_name,
    round_order,
)
from onnxprune.reports.plain import plain

# the package offers a function of this name, too
bench_module = sys.modules[BenchSettings.__module__]
QUICK = BenchSettings(seconds=0.02, min_runs=3, warmup=1)
FEEDS = {"x": np.ones((2, 4), np.float32)}


def linear(weight: np.ndarray, integer_output: bool = False) -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", weight.shape[1]])]
    if integer_output:
        nodes.append(helper.make_node("ArgMax", ["y"], ["top"], axis=1))
        outputs.append(helper.make_tensor_value_info("top", TensorProto.INT64, ["n", 1]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", weight.shape[0]])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


MODEL = linear(np.arange(12, dtype=np.float32).reshape(4, 3))


def noisy(level: float, count: int, seed: int) -> np.ndarray:
    return level * np.exp(np.random.default_rng(seed).normal(0, 0.05, count))


@pytest.mark.parametrize("count", [3, 5, 9, 10, 11, 200, 50_000])
def test_a_clear_difference_gets_its_verdict(count: int) -> None:
    first = noisy(10, count, 0)
    assert compare(first, noisy(4, count, 1)).verdict == "faster"
    assert compare(first, noisy(25, count, 2)).verdict == "slower"
    assert compare(first, noisy(4, count, 1)).ratio == pytest.approx(0.4, rel=0.1)


@pytest.mark.parametrize(
    ("count", "trials"), [(3, 400), (4, 400), (9, 400), (10, 400), (40, 400), (300, 100)]
)
def test_equal_models_are_rarely_called_different(count: int, trials: int) -> None:
    claims = [
        compare(noisy(10, count, 2 * i), noisy(10, count, 2 * i + 1)).verdict != "not faster"
        for i in range(trials)
    ]
    assert np.mean(claims) <= 0.08, f"{sum(claims)} of {trials} A/A comparisons claimed a difference"


def test_no_claim_inside_the_session_noise() -> None:
    first = np.full(1000, 100.0)
    assert compare(first, first * (1 - SESSION_NOISE / 2)).verdict == "not faster"
    assert compare(first, first * (1 + SESSION_NOISE / 2)).verdict == "not faster"
    assert compare(first, first * (1 - 3 * SESSION_NOISE)).verdict == "faster"


def test_what_slows_a_whole_round_cancels() -> None:
    drifting = np.linspace(1, 5, 400)
    result = compare(10 * drifting, 9 * drifting)
    assert result.ratio == pytest.approx(0.9)
    assert result.verdict == "faster"


def test_gain_of_running_after_itself_cancels() -> None:
    """Every second round runs in reverse, so the gain alternates between the models."""
    first, other = np.full(400, 10.0), np.full(400, 10.0)
    first[0::2], other[1::2] = 5, 5
    assert compare(first, other).ratio == pytest.approx(1)


def test_single_outliers_do_not_decide() -> None:
    first, other = noisy(10, 100, 0), noisy(10, 100, 1)
    other[::10] = 500
    assert compare(first, other).verdict == "not faster"


def test_interval_contains_the_ratio_and_is_deterministic() -> None:
    first, other = noisy(10, 3001, 5), noisy(9.9, 3001, 6)
    result = compare(first, other, seed=3)
    assert result.low < result.ratio < result.high
    assert result == compare(first, other, seed=3)
    assert result != compare(first, other, seed=4)


def test_bootstrap_interval_covers_the_true_ratio() -> None:
    hits = 0
    for i in range(200):
        result = compare(noisy(10, 60, 2 * i), noisy(8, 60, 2 * i + 1))
        hits += result.low <= 0.8 <= result.high
    assert hits >= 180


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.8, 0.99, "faster"),
        (0.8, 1.0, "not faster"),
        (0.9, 1.1, "not faster"),
        (1.0, 1.1, "not faster"),
        (1.01, 1.1, "slower"),
    ],
)
def test_verdict(low: float, high: float, verdict: str) -> None:
    assert LatencyRatio.of((low + high) / 2, low, high).verdict == verdict


@pytest.mark.parametrize(("first", "other"), [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([], [])])
def test_compare_refuses_unpaired_runs(first: list[float], other: list[float]) -> None:
    with pytest.raises(UsageError, match="cannot compare"):
        compare(np.array(first), np.array(other))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_rounds_are_balanced(count: int) -> None:
    orders = [round_order(count, index) for index in range(2 * count)]
    assert all(sorted(order) == list(range(count)) for order in orders)
    for place in range(count):
        assert sorted(order[place] for order in orders) == sorted(2 * list(range(count)))
    assert all(orders[i + 1] == orders[i][::-1] for i in range(0, len(orders), 2))


class FakeRunner:
    def __init__(self, nanoseconds: int) -> None:
        self.nanoseconds = nanoseconds
        self.runs = 0

    def run(self) -> int:
        self.runs += 1
        return self.nanoseconds


def measured(seconds_per_run: float, settings: BenchSettings) -> tuple[np.ndarray, int]:
    runners = [FakeRunner(int(seconds_per_run * 1e9)) for _ in range(2)]
    times = bench_module._measure(runners, settings)  # type: ignore[arg-type]
    return times, runners[0].runs


def test_a_slow_model_gets_three_runs() -> None:
    times, runs = measured(3.0, BenchSettings(seconds=2.0, min_runs=10, warmup=3))
    assert times.shape == (3, 2)
    assert runs == 4, "one warm-up run is enough where it takes the whole budget"


def test_min_runs_hold_while_they_take_little_more_than_the_budget() -> None:
    times, _ = measured(0.4, BenchSettings(seconds=2.0, min_runs=10))
    assert len(times) == 10
    times, _ = measured(1.0, BenchSettings(seconds=2.0, min_runs=10))
    assert len(times) == 2 * PATIENCE


def test_a_fast_model_uses_its_budget() -> None:
    times, _ = measured(0.01, BenchSettings(seconds=2.0, min_runs=10))
    assert len(times) == 200


def test_bench_takes_paths_bytes_and_protos(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    onnx.save(MODEL, path)
    result = bench([str(path), path, MODEL.SerializeToString(), MODEL], FEEDS, QUICK)
    assert [t.name for t in result.timings] == [str(path), str(path), "model 3", "model 4"]
    assert result.timings[0].versus_first is None
    assert all(t.versus_first is not None for t in result.timings[1:])
    assert len({t.runs for t in result.timings}) == 1
    assert result.timings[0].runs >= 3
    assert all(0 < t.min_ms <= t.median_ms <= t.p90_ms for t in result.timings)
    told = json.loads(json.dumps(plain(result)))
    assert told["input_shapes"] == {"x": [2, 4]}
    assert told["settings"]["threads"] == 1
    assert told["settings"]["provider"] == "CPUExecutionProvider"
    assert told["onnxruntime"]
    assert told["cpu"] == cpu_name()
    assert told["models"][1]["versus_first"]["verdict"] in ("faster", "not faster", "slower")


def test_bench_reads_external_data_by_path(tmp_path: Path) -> None:
    path = tmp_path / "external.onnx"
    model = linear(np.ones((4, 512), np.float32))
    onnx.save(model, path, save_as_external_data=True, location="external.data", size_threshold=0)
    assert (tmp_path / "external.data").exists()
    result = bench([str(path)], FEEDS, QUICK)
    assert result.timings[0].runs >= 3


def test_bench_feeds_overridable_initializers() -> None:
    listed = linear(np.ones((4, 3), np.float32))
    listed.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3]))
    assert bench([listed], {**FEEDS, "w": np.zeros((4, 3), np.float32)}, QUICK).timings[0].runs >= 3


@pytest.mark.parametrize("bad", [b"no model", b"", "/nowhere/missing.onnx"])
def test_bench_names_the_model_that_does_not_load(bad: bytes | str) -> None:
    with pytest.raises(ModelError) as error:
        bench([MODEL, bad], FEEDS, QUICK)
    assert str(error.value).startswith(bad if isinstance(bad, str) else "model 2")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("feeds", "says"),
    [
        ({}, "no value for input x"),
        ({"x": np.ones((2, 5), np.float32)}, "model 1: onnxruntime cannot run it"),
        ({"x": np.ones((2, 4), np.float64)}, "model 1: onnxruntime cannot run it"),
        ({**FEEDS, "z": np.ones(1, np.float32)}, "no model has an input z"),
    ],
)
def test_bench_refuses_feeds_that_do_not_fit(feeds: dict[str, np.ndarray], says: str) -> None:
    with pytest.raises(UsageError, match=says) as error:
        bench([MODEL], feeds, QUICK)
    assert "\n" not in str(error.value)


def test_bench_refuses_no_models_and_unknown_providers() -> None:
    with pytest.raises(UsageError, match="no model"):
        bench([], FEEDS, QUICK)
    with pytest.raises(UsageError, match="CPUExecutionProvider"):
        bench([MODEL], FEEDS, BenchSettings(provider="NoSuchProvider"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"threads": 0}, {"seconds": 0.0}, {"seconds": -1.0}, {"seconds": float("nan")},
        {"seconds": float("inf")}, {"min_runs": 2}, {"warmup": -1},
    ],
)  # fmt: skip
def test_settings_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        BenchSettings(**wrong)  # type: ignore[arg-type]


def test_drift_is_the_relative_distance() -> None:
    weight = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert drift(linear(weight), linear(weight), [FEEDS]) == 0
    assert drift(linear(weight), linear(weight * 1.5), [FEEDS, FEEDS]) == pytest.approx(0.5)


def test_drift_is_the_mean_over_samples() -> None:
    weight = np.eye(4, dtype=np.float32)
    bent = weight.copy()
    bent[0, 0] = 3
    first, last = np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32)
    first[0, 0], last[0, 3] = 100, 1
    assert drift(linear(weight), linear(bent), [{"x": first}, {"x": last}]) == pytest.approx(1.0)


def test_drift_skips_integer_outputs() -> None:
    weight = np.eye(4, dtype=np.float32)
    x = {"x": np.array([[4, 3, 2, 1]], np.float32)}
    changed = linear(weight[:, ::-1].copy(), integer_output=True)
    assert drift(linear(weight, integer_output=True), changed, [x]) == pytest.approx(np.sqrt(20 / 30))


def test_distance_of_odd_values() -> None:
    assert distance(np.zeros(3), np.zeros(3)) == 0
    assert distance(np.ones(3), np.zeros(3)) == np.inf
    assert distance(np.array([np.nan, np.inf, 2]), np.array([np.nan, np.inf, 1])) == 1
    assert distance(np.array([np.nan, 1]), np.array([1, 1])) == np.inf
    assert distance(np.array([np.inf, 1]), np.array([-np.inf, 1])) == np.inf
    assert distance(np.array([3e38], np.float32), np.array([-3e38], np.float32)) == pytest.approx(2)
    assert distance(np.zeros((0, 2)), np.zeros((0, 2))) == 0
    assert distance(np.array(1.5), np.array(1.0)) == pytest.approx(0.5)


def test_drift_refuses_what_it_cannot_compare() -> None:
    narrow = linear(np.ones((4, 2), np.float32))
    renamed = linear(np.ones((4, 3), np.float32))
    renamed.graph.node[0].output[0] = renamed.graph.output[0].name = "other"
    integer = linear(np.ones((4, 3), np.float32), integer_output=True)
    del integer.graph.output[0]
    cases = [
        (MODEL, narrow, [FEEDS], "shape"),
        (MODEL, renamed, [FEEDS], "no output y"),
        (MODEL, MODEL, [], "got none"),
        (integer, integer, [FEEDS], "float output"),
        (MODEL, MODEL, [{"x": np.ones((1, 5), np.float32)}], "cannot run"),
    ]
    for first, second, feeds, says in cases:
        with pytest.raises(UsageError, match=says):
            drift(first, second, feeds)
    with pytest.raises(ModelError, match="the other model"):
        drift(MODEL, onnx.ModelProto(), [FEEDS])
