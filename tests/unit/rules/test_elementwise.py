"""Operands of which only the type is read."""

from __future__ import annotations

import numpy as np
from onnx import helper

from tests.unit.rules.graphs import graph, halved


def test_bounds_that_are_cast_like_the_channels_leave_these_free() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"]),
        helper.make_node("CastLike", ["low", "h"], ["l"]),
        helper.make_node("CastLike", ["high", "h"], ["u"]),
        helper.make_node("Clip", ["h", "l", "u"], ["c"]),
        helper.make_node("CastLike", ["c", "h"], ["s"]),
        helper.make_node("Conv", ["s", "v"], ["y"]),
    ]
    params = {"w": (8, 3, 1, 1), "v": (5, 8, 1, 1), "low": np.float64(-0.5), "high": np.asarray(1)}
    _, kept = halved(graph(nodes, {"x": (1, 3, 4, 4)}, params))
    assert (kept["w"].shape[0], kept["v"].shape[1]) == (4, 4)
