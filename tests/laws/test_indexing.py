"""Channels that pass through tables of places, and the tables that shrink with them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

import onnxprune
from onnxprune import PruneSettings
from tests.laws.test_regressions import model_of

HALF = PruneSettings(ratio=0.5, align=1, bench=False)


def grid(*axes: list[int]) -> np.ndarray:
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def overwriting() -> onnx.ModelProto:
    """x[:, :, 1:3] = y of eight channels, then every other channel by GatherND."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], kernel_shape=[1]),
        helper.make_node("Conv", ["x2", "v"], ["u"], kernel_shape=[1]),
        helper.make_node("ScatterND", ["h", "places", "u"], ["s"], name="scatter"),
        helper.make_node("GatherND", ["s", "odd"], ["t"], name="gather"),
        helper.make_node("Conv", ["t", "last"], ["y"], kernel_shape=[1]),
    ]
    places = grid([0], list(range(8)), [1, 2])
    odd = grid([0], [1, 3, 5, 7], list(range(5)))
    params = {"w": (8, 3, 1), "v": (8, 3, 1), "places": places, "odd": odd, "last": (2, 4, 1)}
    return model_of(nodes, {"x": [1, 3, 5], "x2": [1, 3, 2]}, {"y": [1, 2, 5]}, params)


def test_index_tables_shrink_with_the_channels_that_pass() -> None:
    model = overwriting()
    result = onnxprune.prune(model, HALF)
    assert result.report.verification.status == "proved"
    stored = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    kept = stored["w"].shape[0]
    assert stored["v"].shape[0] == kept == 4
    assert np.array_equal(stored["places"], grid([0], list(range(kept)), [1, 2]))
    picked = stored["odd"].shape[1]
    assert stored["last"].shape[1] == picked == 2
    assert stored["odd"].shape == (1, picked, 5, 3)
    assert stored["odd"][..., 1].max() < kept
    again = onnxprune.apply(model, result.plan.to_json())
    assert again.model.SerializeToString() == result.model.SerializeToString()


def shifted() -> onnx.ModelProto:
    """The temporal shift of x [N, 5, 8]: y[:, :-1, :3] = x[:, 1:, :3], and so back, the rest as it is."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Slice", ["h", "one", "end", "both_from", "unit"], ["later"]),
        helper.make_node("Slice", ["later", "zero", "three", "channels", "unit"], ["left"]),
        helper.make_node("ScatterND", ["empty", "first", "left"], ["a"], name="first"),
        helper.make_node("Slice", ["h", "zero", "back", "both_from", "unit"], ["earlier"]),
        helper.make_node("Slice", ["earlier", "three", "six", "channels", "unit"], ["right"]),
        helper.make_node("ScatterND", ["a", "second", "right"], ["b"], name="second"),
        helper.make_node("Slice", ["h", "six", "end", "channels", "unit"], ["rest"]),
        helper.make_node("ScatterND", ["b", "third", "rest"], ["c"], name="third"),
        helper.make_node("MatMul", ["c", "v"], ["y"]),
    ]
    numbers = {
        "zero": 0, "one": 1, "three": 3, "six": 6, "end": 99, "back": -1, "both_from": 1, "channels": 2,
        "unit": 1,
    }  # fmt: skip
    params = {
        "w": (4, 8), "v": (8, 3), "empty": np.zeros((2, 5, 8), np.float32),
        "first": grid([0, 1], list(range(4)), [0, 1, 2]), "second": grid([0, 1], [1, 2, 3, 4], [3, 4, 5]),
        "third": grid([0, 1], list(range(5)), [6, 7]), **{name: [value] for name, value in numbers.items()},
    }  # fmt: skip
    return model_of(nodes, {"x": [2, 5, 4]}, {"y": [2, 5, 3]}, params)


def test_slices_that_are_written_back_in_place_lose_channels() -> None:
    result = onnxprune.prune(shifted(), HALF)
    assert result.report.verification.status == "proved"
    stored = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    (kept,) = {stored[name].shape[axis] for name, axis in (("w", 1), ("empty", 2), ("v", 0))}
    assert kept in (4, 5)  # each part keeps a channel
    parts = [np.unique(stored[name][..., 2]) for name in ("first", "second", "third")]
    assert np.array_equal(np.concatenate(parts), np.arange(kept))


def test_an_index_that_counts_a_shape_passes_the_channels() -> None:
    """x[:, 1:3] = y as PyTorch writes it: an index made of Range(Shape(x)[2])."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("MatMul", ["x2", "u"], ["new"]),
        helper.make_node("Shape", ["h"], ["sizes"], start=2),
        helper.make_node("Squeeze", ["sizes"], ["size"]),
        helper.make_node("Range", ["zero", "size", "one"], ["columns"]),
        helper.make_node("Reshape", ["columns", "across"], ["row"]),
        helper.make_node("Add", ["row", "nothing"], ["c2"]),
        helper.make_node("Unsqueeze", ["c2", "last"], ["c"]),
        helper.make_node("Shape", ["c"], ["full"]),
        helper.make_node("Expand", ["a", "full"], ["a2"]),
        helper.make_node("Expand", ["b", "full"], ["b2"]),
        helper.make_node("Concat", ["a2", "b2", "c"], ["index"], axis=-1),
        helper.make_node("ScatterND", ["h", "index", "new"], ["s"]),
        helper.make_node("MatMul", ["s", "v"], ["y"]),
    ]
    params = {
        "w": (4, 8), "u": (4, 8), "v": (8, 3), "zero": np.asarray(0), "one": np.asarray(1),
        "across": [1, 1, -1], "nothing": np.zeros((2, 2, 1), np.int64), "last": [-1],
        "a": np.arange(2).reshape(2, 1, 1, 1), "b": np.asarray([1, 3]).reshape(1, 2, 1, 1),
    }  # fmt: skip
    model = model_of(nodes, {"x": [2, 5, 4], "x2": [2, 2, 4]}, {"y": [2, 5, 3]}, params)
    result = onnxprune.prune(model, HALF)
    assert result.report.verification.status == "proved"
    stored = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    assert [stored[name].shape for name in "wuv"] == [(4, 4), (4, 4), (4, 3)]
