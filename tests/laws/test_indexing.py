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
