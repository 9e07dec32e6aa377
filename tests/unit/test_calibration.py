"""Calibration: what is read, what is counted, what goes, and what the repair gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import onnxprune
from onnxprune import PruneSettings
from onnxprune.analysis.analyse import analyse
from onnxprune.data.consumers import consumers
from onnxprune.data.moments import collect
from onnxprune.data.read import Calibration, read_calibration
from onnxprune.errors import UsageError
from onnxprune.model.runtime import open_session, run
from onnxprune.planning.obs import Reader, diagonal_losses, obs_losses
from onnxprune.recovery.context import activation_budget, with_values
from onnxprune.recovery.least_squares import Folds, fold
from onnxprune.recovery.regression import linears
from onnxprune.recovery.walk import Walk
from tests.laws.test_regressions import model_of

MODELS = Path(__file__).parents[2] / "models"
CALIB, EVAL = MODELS / "digits_calib.npz", MODELS / "digits_eval.npz"
NAMES = ("resnet", "mobilenet", "shuffle", "transformer")


def digits(name: str) -> onnx.ModelProto:
    return onnx.load(MODELS / f"digits_{name}.onnx")


def accuracy(model: onnx.ModelProto) -> float:
    data = np.load(EVAL)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits = np.asarray(session.run(None, {session.get_inputs()[0].name: data["input"]})[0])
    return float((logits.argmax(1) == data["labels"]).mean())


def halved(model: onnx.ModelProto, **given: Any) -> onnxprune.PruneResult:
    return onnxprune.prune(model, PruneSettings(targets={"macs": 0.5}, align=1, bench=False, **given))


# -- readers -------------------------------------------------------------------------------------------------
def rows(count: int = 7, width: int = 3) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, width)).astype(np.float32)


def pair(dims: tuple[int | str, ...] = ("B", 3)) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["y"]),
        helper.make_node("Relu", ["y"], ["z"]),
        helper.make_node("Gemm", ["z", "v", "c"], ["o"]),
    ]
    params = {"w": (3, 8), "b": (8,), "v": (8, 2), "c": (2,)}
    return model_of(nodes, {"x": dims}, {"o": [dims[0], 2]}, params)


class Reader3:
    """What onnxruntime's quantiser calls a CalibrationDataReader."""

    def __init__(self) -> None:
        self.left = 3

    def get_next(self) -> dict[str, np.ndarray] | None:
        self.left -= 1
        return {"x": rows(1)} if self.left >= 0 else None


def folder_of(path: Path) -> Path:
    for i in range(3):
        np.save(path / f"{i}.npy", rows(1))
    return path


def npz_of(path: Path) -> Path:
    np.savez(path / "data.npz", x=rows(3), labels=np.zeros(3))
    return path / "data.npz"


def script_of(path: Path) -> str:
    (path / "feeds.py").write_text(
        "import numpy as np\ndef give():\n    return [{'x': np.ones((1, 3), np.float32)}] * 3\n"
    )
    return f"{path / 'feeds.py'}:give"


@pytest.mark.parametrize(
    "source",
    [
        npz_of, folder_of, script_of, lambda _: {"x": rows(3)}, lambda _: [{"x": rows(1)}] * 3,
        lambda _: Reader3(), lambda _: ({"x": rows(1)} for _ in range(3)),
    ],
    ids=["npz", "folder", "script", "arrays", "list", "reader", "iterator"],
)  # fmt: skip
def test_every_kind_of_source_is_read(source: Callable[[Path], Any], tmp_path: Path) -> None:
    found = read_calibration(source(tmp_path), pair())
    assert found.samples == 3
    assert sum(len(batch["x"]) for batch in found.batches) == 3


def test_a_fixed_batch_is_cut_and_rows_may_be_whole_feeds() -> None:
    found = read_calibration({"x": rows(7)}, pair((2, 3)))
    assert [batch["x"].shape for batch in found.batches] == [(2, 3)] * 3
    whole = read_calibration({"x": rows(6).reshape(3, 2, 3)}, pair((2, 3)))
    assert [batch["x"].shape for batch in whole.batches] == [(2, 3)] * 3


def test_a_fifth_is_held_out_and_never_fitted() -> None:
    found = Calibration(tuple({"x": np.full(1, i)} for i in range(11)), 11)
    assert [int(b["x"][0]) for b in found.held_out] == [4, 9]
    assert len(found.fit) == 9
    few = Calibration(found.batches[:3], 3)
    assert [int(b["x"][0]) for b in few.held_out] == [2]


def test_fewer_batches_are_spread_over_all_and_as_many_of_them_held_out() -> None:
    found = Calibration(tuple({"x": np.full(1, i)} for i in range(20)), 40)
    fewer = found.thinned(10)
    assert [int(b["x"][0]) for b in fewer.held_out] == [4, 19]
    assert [int(b["x"][0]) for b in fewer.fit] == [0, 2, 5, 7, 10, 12, 15, 18]
    assert fewer.samples == 20
    least = found.thinned(2)
    assert [int(b["x"][0]) for b in least.fit + least.held_out] == [0, 4]
    assert found.thinned(20) is found


def test_of_few_samples_some_are_held_out_and_large_ones_come_in_small_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert [len(b["x"]) for b in read_calibration({"x": rows(12)}, pair()).batches] == [2] * 6
    assert [len(b["x"]) for b in read_calibration({"x": rows(200)}, pair()).batches] == [32] * 6 + [8]
    monkeypatch.setattr("onnxprune.data.read.ELEMENTS", 10)
    assert [len(b["x"]) for b in read_calibration({"x": rows(200)}, pair()).batches] == [3] * 66 + [2]


def _raising() -> Iterator[dict[str, np.ndarray]]:
    yield {"x": rows(1)}
    raise RuntimeError("disk gone")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"y": rows()}, "lacks the input 'x'"),
        ([{"y": rows(1)}], "lacks the input 'x': it holds y"),
        ([{"x": rows(1), "z": rows(1)}], "no input 'z'"),
        ([{"x": rows(1, 4)}], "got shape [1, 4], expected ['B', 3]"),
        ([{"x": np.zeros((1, 3), np.int64)}], "got int64, expected float32"),
        ([{"x": np.full((1, 3), np.nan, np.float32)}], "holds NaN or Inf"),
        ([], "no samples"),
        ([3], "is int, expected a dict"),
        ("nowhere.npz", "does not exist"),
        ("nowhere.py:f", "does not exist"),
        (3, "got int"),
    ],
)
def test_what_does_not_fit_is_refused(source: Any, says: str) -> None:
    with pytest.raises(UsageError) as error:
        read_calibration(source, pair())
    assert says in str(error.value)


def test_an_iterator_that_raises_half_way_says_where() -> None:
    with pytest.raises(UsageError, match="after 1 feeds: RuntimeError: disk gone"):
        read_calibration(_raising(), pair())


def test_a_file_that_is_no_array_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_text("<html>")
    with pytest.raises(UsageError, match="is no"):
        read_calibration(tmp_path / "x.npz", pair())


# -- moments, losses, folds ----------------------------------------------------------------------------------
@pytest.mark.slow
def test_moments_are_those_of_the_activations_in_one_pass_or_several() -> None:
    model = pair()
    readers = list(consumers(analyse(model).units))
    batches = [{"x": rows(5)}, {"x": rows(9)}]
    (moments,) = collect(model, [c.view for c in readers], batches, 1 << 20)
    (consumer,) = readers
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    z = np.concatenate([np.maximum(b["x"] @ weights["w"] + weights["b"], 0) for b in batches]).astype(float)
    gram = moments[consumer.view]
    np.testing.assert_allclose(gram.energy[0], z.T @ z / len(z), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gram.covariance[0], np.cov(z.T, bias=True), rtol=1e-4, atol=1e-5)
    views = [c.view for c in consumers(analyse(digits("resnet")).units)]
    few = read_calibration(CALIB, digits("resnet")).fit[:2]
    (again,) = collect(digits("resnet"), views, few, 1)
    (once,) = collect(digits("resnet"), views, few, 1 << 30)
    assert all(np.allclose(again[v].second, once[v].second, rtol=0.2) for v in once)


def test_the_surgeon_s_first_loss_is_that_of_a_refit() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((400, 6)) @ rng.standard_normal((6, 6))
    w = rng.standard_normal((6, 3))
    gram = x.T @ x / len(x)
    reader = Reader(gram, w @ w.T, np.arange(6), float(np.trace(w.T @ gram @ w)))
    vars(reader)["inverse"] = np.linalg.inv(gram)  # as it is, without damping
    losses = obs_losses([reader], np.arange(6))
    for gone in range(6):
        kept = [i for i in range(6) if i != gone]
        rest = x @ w - x[:, kept] @ np.linalg.lstsq(x[:, kept], x @ w, rcond=None)[0]
        alone = np.square(rest).sum(1).mean() / reader.energy
        assert losses[gone] >= alone * 0.999 or losses[gone] == pytest.approx(losses.min())
    assert losses.min() == pytest.approx(
        min(
            np.square(x @ w - x[:, k] @ np.linalg.lstsq(x[:, k], x @ w, rcond=None)[0]).sum(1).mean()
            for k in map(list, combinations(range(6), 5))
        )
        / reader.energy
    )


def test_units_of_several_places_go_at_once_and_dead_ones_are_free() -> None:
    gram = np.diag([1.0, 1.0, 2.0, 2.0, 0.0, 0.0])
    reader = Reader(gram, np.eye(6), np.asarray([7, 7, 8, 8, 9, 9]), 6.0)
    losses = obs_losses([reader], np.asarray([7, 8, 9]))
    assert losses[2] == pytest.approx(0, abs=0.01)
    assert losses[0] == pytest.approx(2 / 6, rel=0.05)
    assert losses[1] == pytest.approx(4 / 6, rel=0.05)
    assert diagonal_losses([reader], np.asarray([7, 8, 9]), weighted=True).tolist() == [2 / 6, 4 / 6, 0]


def test_a_channel_that_is_a_copy_is_folded_away_without_loss() -> None:
    model = pair()
    for tensor in model.graph.initializer:
        if tensor.name in "wb":
            values = numpy_helper.to_array(tensor).copy()
            values[..., 5] = 2 * values[..., 2]  # channel 5 says what channel 2 says
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    units = analyse(model).units
    readers = list(consumers(units))
    batches = [{"x": rows(200)}]
    (moments,) = collect(model, [c.view for c in readers], batches, 1 << 20)
    removed = np.zeros(units.count, dtype=bool)
    removed[readers[0].units[0, 5]] = True
    folds = Folds(readers, moments)
    values = folds.values(removed)
    assert folds.values(np.zeros_like(removed)) == {}
    plain, changed = (run(open_session(m), batches[0])["o"] for m in (model, with_values(model, values)))
    assert np.abs(plain - changed).max() < 0.1 * np.abs(plain).max()
    assert fold(readers[0], moments[readers[0].view], np.zeros(units.count, dtype=bool)) is None


@pytest.mark.parametrize("name", NAMES)
def test_weights_come_back_as_they_were_arranged(name: str) -> None:
    for consumer in consumers(analyse(digits(name)).units):
        assert np.array_equal(consumer.restored(consumer.weight()), consumer.slot.stored.values)


# -- repair --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_a_walk_computes_what_the_model_does_and_rows_are_the_layers(name: str) -> None:
    model = digits(name)
    batch = {"input": np.load(CALIB)["input"][:4]}
    walk = Walk(model, [batch])
    rng = np.random.default_rng(0)
    layers = linears(walk)
    assert len(layers) > 5
    for layer in layers:
        walk.until(layer.place)
        made = next(walk.preview([layer.node.output[0]]))[layer.node.output[0]]
        features, outputs = layer.rows(walk.values[0][layer.node.input[0]], [made], 50, rng)
        weight = numpy_helper.to_array(walk.weights[layer.weight])
        change = np.random.default_rng(1).standard_normal(
            (len(features), features.shape[2], outputs.shape[2])
        )
        walk.store(layer.weight, layer.changed(weight, change).astype(np.float32))
        moved = next(walk.preview([layer.node.output[0]]))[layer.node.output[0]]
        again, after = layer.rows(walk.values[0][layer.node.input[0]], [moved], 50, np.random.default_rng(0))
        first, before = layer.rows(walk.values[0][layer.node.input[0]], [made], 50, np.random.default_rng(0))
        assert np.array_equal(again, first)
        np.testing.assert_allclose(after - before, first @ change, rtol=1e-2, atol=2e-2 * np.abs(after).max())
        walk.store(layer.weight, weight)
    whole = run(open_session(model), batch)
    walk.until(len(walk.nodes) - 1)
    last = next(walk.preview([model.graph.output[0].name]))[model.graph.output[0].name]
    np.testing.assert_allclose(last, whole[model.graph.output[0].name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_half_of_the_macs_go_and_the_accuracy_stays(name: str) -> None:
    model = digits(name)
    plain, fitted = halved(model), halved(model, calib=CALIB)
    assert fitted.report.verification.status == "proved"
    assert accuracy(model) - accuracy(fitted.model) <= 0.02
    assert accuracy(fitted.model) > accuracy(plain.model) + 0.2
    recovery = fitted.report.recovery
    assert recovery is not None
    assert recovery.drift_after < 0.5 * recovery.drift_before


@pytest.mark.parametrize("method", ["none", "bias", "ls", "refit", "joint"])
@pytest.mark.slow
def test_repair_is_never_worse_than_none(method: str) -> None:
    report = halved(digits("shuffle"), calib=CALIB, recover=method).report
    if method == "none":
        assert report.recovery is None
        return
    assert report.recovery is not None
    assert report.recovery.drift_after <= report.recovery.drift_before


@pytest.mark.slow
def test_a_repair_takes_as_many_samples_as_there_is_room_for_and_says_so() -> None:
    model = digits("shuffle")
    data = read_calibration(CALIB, model)
    room = activation_budget(model, data.batches, 0)
    short = halved(model, calib=CALIB, recover="joint", memory_limit=5 * room.each).report
    assert short.recovery is not None
    assert short.recovery.samples == 5 * data.each
    assert 0 < short.recovery.drift_after < short.recovery.drift_before
    assert any(f"on {5 * data.each} of {data.samples} calibration samples" in w for w in short.warnings)
    whole = halved(model, calib=CALIB, recover="refit").report
    assert whole.recovery is not None
    assert whole.recovery.samples == data.samples
    assert not any("--memory-limit" in w for w in whole.warnings)


def test_room_is_for_all_that_a_walk_keeps() -> None:
    model = digits("shuffle")
    data = read_calibration(CALIB, model)
    room = activation_budget(model, data.batches, 1 << 30)
    walk, most = Walk(model, data.batches), 0
    for layer in linears(walk):
        walk.until(layer.place)
        most = max(most, walk.size)
    assert most <= room.each * len(data.batches) / 3 <= 2 * most
    assert room.holds(3) == (3 * room.each <= 1 << 30)


@pytest.mark.slow
def test_verify_knows_the_repaired_values_and_no_others() -> None:
    model = digits("shuffle")
    result = halved(model, calib=CALIB)
    assert result.plan.repaired
    assert onnxprune.verify(result.model, model, result.plan).matches_plan
    applied = onnxprune.apply(model, result.plan)
    assert any("repaired on calibration data" in warning for warning in applied.report.warnings)
    assert not onnxprune.verify(applied.model, model, result.plan).matches_plan
    name = next(iter(result.plan.repaired))
    tampered = onnx.ModelProto.FromString(result.model.SerializeToString())
    tensor = next(t for t in tampered.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), name))
    report = onnxprune.verify(tampered, model, result.plan)
    assert not report.matches_plan
    assert name in report.differences[0]


@pytest.mark.parametrize("criterion", ["activation", "wanda", "obs"])
def test_criteria_of_data_need_data_and_prune(criterion: str) -> None:
    with pytest.raises(UsageError, match="give --calib DATA"):
        PruneSettings(ratio=0.5, criterion=criterion)
    settings = PruneSettings(
        ratio=0.5, criterion=criterion, align=1, bench=False, calib=CALIB, recover="none"
    )
    report = onnxprune.prune(digits("transformer"), settings).report
    assert report.verification.status == "proved"
    assert report.settings["criterion"] == criterion
    assert report.recovery is None


@pytest.mark.slow
def test_the_same_data_gives_the_same_bytes() -> None:
    first, second = (halved(digits("shuffle"), calib=CALIB) for _ in range(2))
    assert first.plan.to_json() == second.plan.to_json()
    assert first.model.SerializeToString() == second.model.SerializeToString()
