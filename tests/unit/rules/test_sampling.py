"""Channels go in front of and behind operators that read places which are computed."""

from __future__ import annotations

import numpy as np
from onnx import helper

from tests.unit.rules.graphs import graph, halved, reasons


def test_a_warped_image_loses_channels_and_its_flow_stays() -> None:
    model = graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
            helper.make_node("Conv", ["a", "f"], ["flow"], pads=[1, 1, 1, 1]),
            helper.make_node("Transpose", ["flow"], ["grid"], perm=[0, 2, 3, 1]),
            helper.make_node("GridSample", ["a", "grid"], ["s"], name="warp"),
            helper.make_node("Conv", ["s", "v"], ["y"]),
        ],
        {"x": ("n", 3, 6, 6)},
        {"w": (8, 3, 3, 3), "f": (2, 8, 3, 3), "v": (3, 8, 1, 1)},
    )
    _, kept = halved(model)
    assert [kept[name].shape[:2] for name in "wfv"] == [(4, 3), (2, 4), (3, 4)]
    assert ("GridSample", "holds the places that GridSample reads") in reasons(model)


def test_regions_keep_the_channels_of_their_image() -> None:
    model = graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"]),
            helper.make_node("RoiAlign", ["a", "rois", "which"], ["r"], output_height=2, output_width=2),
            helper.make_node("Flatten", ["r"], ["flat"]),
            helper.make_node("Gemm", ["flat", "v"], ["y"]),
        ],
        {"x": (2, 3, 6, 6)},
        {"w": (8, 3, 1, 1), "v": (32, 5), "rois": np.float32([[0, 0, 3, 4], [1, 2, 5, 5]]), "which": [1, 0]},
    )
    _, kept = halved(model)
    assert (kept["w"].shape[0], kept["v"].shape[0]) == (4, 16)


def deformed(group: int, offset_group: int) -> dict[str, np.ndarray]:
    """Offsets and masks by a Conv; both groupings cut 8 channels into equal rows."""
    taps = 9 * offset_group
    model = graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
            helper.make_node("Conv", ["a", "f"], ["offsets"], pads=[1, 1, 1, 1]),
            helper.make_node("Conv", ["a", "h"], ["gates"], pads=[1, 1, 1, 1]),
            helper.make_node("Sigmoid", ["gates"], ["mask"]),
            helper.make_node("DeformConv", ["a", "d", "offsets", "b", "mask"], ["s"], name="deform",
                             pads=[1, 1, 1, 1], group=group, offset_group=offset_group),
            helper.make_node("Conv", ["s", "v"], ["y"]),
        ],
        {"x": (1, 3, 6, 6)},
        {"w": (8, 3, 3, 3), "f": (2 * taps, 8, 3, 3), "h": (taps, 8, 3, 3), "d": (8, 8 // group, 3, 3),
         "b": (8,), "v": (3, 8, 1, 1)},
    )  # fmt: skip
    return halved(model)[1]


def test_a_deformable_conv_loses_inputs_and_outputs() -> None:
    kept = deformed(1, 1)
    assert kept["d"].shape == (4, 4, 3, 3)
    assert kept["b"].shape == (4,)
    assert kept["f"].shape[0] == 18


def test_groups_of_a_deformable_conv_lose_as_many_each() -> None:
    assert deformed(1, 2)["d"].shape == (4, 4, 3, 3)
    assert deformed(2, 1)["d"].shape == (4, 2, 3, 3)
    assert deformed(2, 2)["d"].shape == (4, 2, 3, 3)


def test_what_is_unpooled_stays() -> None:
    model = graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"]),
            helper.make_node("MaxPool", ["a"], ["p", "places"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("MaxUnpool", ["p", "places"], ["u"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Conv", ["u", "v"], ["y"]),
        ],
        {"x": (1, 3, 4, 4)},
        {"w": (8, 3, 1, 1), "v": (3, 8, 1, 1)},
    )
    assert any(op == "MaxPool" and "places in the whole tensor" in reason for op, reason in reasons(model))
