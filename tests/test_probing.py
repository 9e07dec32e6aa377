"""Probing: what each group costs is measured on inputs that nothing was fitted to, where there are enough."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxprune import PruneSettings
from onnxprune.analysis.analyse import analyse
from onnxprune.calibration.readers import HELD_OUT
from onnxprune.recovering import gathered, scored
from tests.test_regressions import model_of

WIDTH, FEEDS = 16, 20


def two_branches() -> onnx.ModelProto:
    """p [n, 4] -> 16 and q [n, 4] -> 16, summed up to [n, 2]: two groups."""
    nodes = [
        helper.make_node("MatMul", ["p", "u"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "v"], ["c"]),
        helper.make_node("MatMul", ["q", "w"], ["d"]),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("MatMul", ["e", "z"], ["f"]),
        helper.make_node("Add", ["c", "f"], ["y"]),
    ]
    shapes = {"u": (4, WIDTH), "v": (WIDTH, 2), "w": (4, WIDTH), "z": (WIDTH, 2)}
    return model_of(nodes, {"p": ("n", 4), "q": ("n", 4)}, {"y": ("n", 2)}, shapes)


def feeds(samples: int) -> list[dict[str, np.ndarray]]:
    """Make batches in which p varies only where it is held out: elsewhere one channel tells all others."""
    rng = np.random.default_rng(0)
    way = rng.standard_normal((1, 4))
    found = []
    for number in range(FEEDS):
        held = number % HELD_OUT == HELD_OUT - 1
        p = rng.standard_normal((samples, 4)) if held else rng.uniform(0.5, 1.5, (samples, 1)) * way
        found.append({"p": p.astype(np.float32), "q": rng.standard_normal((samples, 4)).astype(np.float32)})
    return found


@pytest.mark.parametrize(("samples", "seen"), [(4, True), (1, False)], ids=["enough", "too few"])
def test_a_group_that_the_fitted_inputs_hardly_use_is_dear(samples: int, seen: bool) -> None:
    analysis = analyse(two_branches(), {}, {})
    settings = PruneSettings(targets={"macs": 0.5}, align=1, calib=feeds(samples))
    scores = scored(analysis, gathered(analysis, settings), settings)
    first, second = (float(np.sort(scores[group.units])[:6].sum()) for group in analysis.units.groups)
    assert first > 0.5 * second if seen else first < 0.01 * second
