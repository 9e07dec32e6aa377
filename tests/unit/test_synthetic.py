"""Calibration inputs that are made up: how they are chosen, what they are worth, and that it is said."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import PruneSettings
from onnxprune.cli.app import program
from onnxprune.data.images import _reorder, mirrored, random_images
from onnxprune.data.read import Calibration
from onnxprune.data.synthetic import balanced, herded, synthesised
from onnxprune.model.feeds import find_feeds
from onnxprune.reports.data import CalibrationReport
from tests.laws.test_regressions import model_of

MODELS = Path(__file__).parents[2] / "models"
SMALL = 96


def test_random_images_take_little_more_than_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of float32; what is drawn in float64 is a part of them."""
    monkeypatch.setattr("onnxprune.data.images.PART", 1 << 14)
    tracemalloc.start()
    values = random_images(64, (3, 64, 64), np.random.default_rng(0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert values.dtype == np.float32
    assert peak < 1.5 * values.nbytes + (1 << 21)
    assert abs(float(values.mean())) < 0.5
    assert 0.5 < float(values.std()) < 2.5


def test_rows_are_reordered_in_place() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 7, 50):
        values, order = rng.standard_normal((count, 3)), rng.permutation(count)
        wanted = values[order]
        _reorder(values, order)
        np.testing.assert_array_equal(values, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("size", [640, 960])
def test_large_inputs_stay_within_the_memory_limit(size: int, tmp_path: Path) -> None:
    """Resident memory of the whole process, where the inputs are large and the network is small."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], strides=[4, 4]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["b"], strides=[4, 4]),
        helper.make_node("GlobalAveragePool", ["b"], ["o"]),
    ]
    params = {"w": (16, 3, 4, 4), "v": (8, 16, 4, 4)}
    onnx.save(model_of(nodes, {"x": [1, 3, size, size]}, {"o": [1, 8, 1, 1]}, params), tmp_path / "m.onnx")
    script = (
        "import resource, sys, onnxprune\n"
        "settings = onnxprune.PruneSettings(ratio=0.5, align=1, calib='synthetic', bench=False)\n"
        "report = onnxprune.prune(sys.argv[1], settings).report\n"
        "print(report.calibration.samples, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    words = [sys.executable, "-c", script, str(tmp_path / "m.onnx")]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=250)
    samples, peak = map(int, done.stdout.split())
    assert samples >= 5
    assert peak * (1 if sys.platform == "darwin" else 1024) < PruneSettings(ratio=0.5).memory_limit


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.data.synthetic.CANDIDATES", 8 * SMALL)


def digits(name: str) -> onnx.ModelProto:
    return onnx.load(MODELS / f"digits_{name}.onnx")


def accuracy(model: onnx.ModelProto) -> float:
    data = np.load(MODELS / "digits_eval.npz")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return float((session.run(None, {"input": data["input"]})[0].argmax(1) == data["labels"]).mean())


def made(model: onnx.ModelProto, seed: int = 0) -> Calibration:
    return synthesised(model, find_feeds(model), frozenset(), seed)


def normalised(mean: float, deviation: float) -> onnx.ModelProto:
    """A model whose BatchNormalization has seen images of this mean and deviation."""
    nodes = [
        helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"]),
        helper.make_node("Conv", ["y", "w"], ["z"]),
        helper.make_node("Relu", ["z"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["o"]),
    ]
    params = {"s": (3,), "b": (3,), "m": (3,), "v": (3,), "w": (8, 3, 3, 3)}
    model = model_of(nodes, {"x": ["B", 3, 12, 12]}, {"o": ["B", 8, 1, 1]}, params)
    for tensor in model.graph.initializer:
        if tensor.name in "mv":
            value = mean if tensor.name == "m" else deviation**2
            tensor.CopyFrom(numpy_helper.from_array(np.full(3, value, np.float32), tensor.name))
    return model


def test_herding_comes_nearer_to_the_target_than_chance() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((400, 5)) + 0.7
    chosen = herded(features, 80)
    assert len(set(chosen.tolist())) == 80
    assert np.linalg.norm(features[chosen].mean(0)) < 0.5 * np.linalg.norm(features.mean(0))


def test_balancing_takes_the_surest_of_every_class_in_turn() -> None:
    logits = np.asarray([[5.0, 0], [9, 0], [1, 0], [0, 2], [0, 3], [4, 0]])
    assert balanced(logits, 4).tolist() == [1, 4, 0, 3]
    probable = np.asarray([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    assert balanced(probable, 3).tolist() == [0, 2, 1]


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.45, 0.25), (120.0, 60.0)])
def test_images_have_the_statistics_that_the_model_has_stored(
    mean: float, deviation: float, few: None
) -> None:
    found = made(normalised(mean, deviation))
    values = np.concatenate([batch["x"] for batch in found.batches])
    assert found.synthesised == "matched to 1 BatchNormalizations"
    assert values.mean() == pytest.approx(mean, abs=0.15 * deviation)
    assert values.std() == pytest.approx(deviation, rel=0.2)


def test_a_classifier_without_statistics_gets_all_classes(few: None) -> None:
    model = digits("mobilenet")
    found = made(model)
    assert found.samples == SMALL
    assert found.synthesised == "balanced over 10 classes"
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    labels = np.concatenate([session.run(None, dict(b))[0].argmax(1) for b in found.batches])
    assert np.bincount(labels).max() < 0.5 * len(labels)


def test_ids_are_drawn_from_the_whole_table_and_given_values_stay(few: None) -> None:
    nodes = [
        helper.make_node("Gather", ["t", "ids"], ["e"]),
        helper.make_node("Mul", ["e", "gain"], ["g"]),
        helper.make_node("MatMul", ["g", "w"], ["o"]),
    ]
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["B", 6]),
        helper.make_tensor_value_info("gain", TensorProto.FLOAT, [1]),
    ]
    stored = {"t": np.ones((900, 4), np.float32), "w": np.ones((4, 5), np.float32)}
    graph = helper.make_graph(
        nodes, "ids", inputs, [helper.make_tensor_value_info("o", TensorProto.FLOAT, ["B", 6, 5])],
        [numpy_helper.from_array(values, name) for name, values in stored.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    base = find_feeds(model, given_values={"gain": [3.0]})
    found = synthesised(model, base, frozenset({"gain"}), 0)
    ids = np.concatenate([b["ids"].ravel() for b in found.batches])
    assert 0 <= ids.min() < 50
    assert 850 < ids.max() < 900
    assert found.synthesised == "not matched to anything"
    assert all((b["gain"] == 3).all() for b in found.batches)


def test_the_same_seed_gives_the_same_inputs(few: None) -> None:
    one, other, third = made(digits("resnet")), made(digits("resnet")), made(digits("resnet"), 1)
    assert all(
        np.array_equal(a["input"], b["input"]) for a, b in zip(one.batches, other.batches, strict=True)
    )
    assert not np.array_equal(one.batches[0]["input"], third.batches[0]["input"])
    assert random_images(9, (2, 5, 7), np.random.default_rng(0)).shape == (9, 2, 5, 7)


@pytest.mark.slow
def test_made_up_inputs_are_better_than_none_and_said(few: None) -> None:
    model = digits("resnet")
    plain, fitted = (
        onnxprune.prune(model, PruneSettings(targets={"macs": 0.5}, align=1, bench=False, calib=calib))
        for calib in (None, "synthetic")
    )
    assert accuracy(fitted.model) > accuracy(plain.model) + 0.3
    assert plain.report.calibration is None
    chosen = "matched to 17 BatchNormalizations"
    assert fitted.report.calibration == CalibrationReport("synthesised", SMALL, chosen)
    assert fitted.plan.settings["calibration"] == "synthesised"
    assert plain.plan.settings["calibration"] is None
    assert onnxprune.verify(fitted.model, model, fitted.plan).matches_plan


def test_the_command_marks_what_is_made_up(tmp_path: Path, few: None) -> None:
    given = ["prune", str(MODELS / "digits_transformer.onnx"), "--ratio", "0.3", "--no-bench", "--dry-run",
             "--recover", "ls", "--calib"]  # fmt: skip
    result = CliRunner().invoke(program, [*given, "synthetic"])
    assert result.exit_code == 0, result.output
    assert "synthesised: 96 random samples" in result.stdout
    assert "warning: calibration inputs are synthesised" in result.stderr
    quiet = CliRunner().invoke(program, [*given, "synthetic", "--json"])
    assert json.loads(quiet.stdout)["calibration"]["source"] == "synthesised"
    real = CliRunner().invoke(program, [*given, str(MODELS / "digits_calib.npz"), "--json"])
    assert json.loads(real.stdout)["calibration"]["source"] == "given"
    assert "synthesised" not in real.stderr


def test_images_are_mirrored() -> None:
    first = np.arange(60, dtype=np.float32).reshape(1, 3, 4, 5)
    last = np.arange(90, dtype=np.float32).reshape(1, 5, 6, 3)
    other = np.arange(4, dtype=np.float32)
    (turned,) = mirrored([{"first": first, "last": last, "other": other}])
    assert np.array_equal(turned["first"], first[..., ::-1])
    assert np.array_equal(turned["last"], last[:, :, ::-1])
    assert np.array_equal(turned["other"], other)


def test_what_is_no_image_is_not_mirrored_nor_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mirrored([{"ids": np.zeros((1, 3, 4, 4), np.int64), "rows": np.zeros((2, 3), np.float32)}]) == []
    images = [{"x": np.zeros((1, 3, 4, 4), np.float32)}] * 3
    assert len(mirrored(images)) == 3
    monkeypatch.setattr("onnxprune.data.images.FEW", 3 * 48 - 1)
    assert mirrored(images) == []
