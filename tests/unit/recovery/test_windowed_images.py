"""Windows of large images: how large they are, that they are parts of the images, and who keeps the whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxprune.analysis.analyse import analyse
from onnxprune.data.read import Calibration
from onnxprune.recovery import windowed_images
from onnxprune.recovery.repair import Repairs
from onnxprune.recovery.windowed_images import windowed
from tests.laws.test_regressions import model_of

HEIGHT, WIDTH = 128, 192


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windowed_images, "PLACES", 32 * 32)
    monkeypatch.setattr(windowed_images, "STEP", 16)
    monkeypatch.setattr(windowed_images, "ROWS", 64)


def network(last: Sequence[onnx.NodeProto] = (), rank: int = 4, last_axis: bool = False) -> onnx.ModelProto:
    """Two convolutions, one of stride 2, and what follows; images [2, 3, 128, 192], or channels last."""
    first = [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2])] if last_axis else []
    nodes = [
        *first,
        helper.make_node("Conv", ["t" if last_axis else "x", "w"], ["h"], pads=[1] * 4),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["k"], pads=[1] * 4, strides=[2, 2]),
        *last,
    ]
    params = {"w": (8, 3, 3, 3), "v": (6, 8, 3, 3), "a": (1, 1, HEIGHT // 2, WIDTH // 2)}
    sizes = [2, HEIGHT, WIDTH, 3] if last_axis else [2, 3, HEIGHT, WIDTH]
    dims = [f"d{axis}" for axis in range(rank)]
    return model_of(nodes, {"x": sizes}, {nodes[-1].output[0]: dims}, params)


def images(batches: int = 5, last_axis: bool = False) -> Calibration:
    rng = np.random.default_rng(0)
    shape = (2, HEIGHT, WIDTH, 3) if last_axis else (2, 3, HEIGHT, WIDTH)
    made = tuple({"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(batches))
    return Calibration(made, 2 * batches)


def seen(model: onnx.ModelProto, data: Calibration) -> Calibration:
    return windowed(model, analyse(model).units.traced.tensors, data)


def sides(data: Calibration) -> set[tuple[int, ...]]:
    return {batch["x"].shape for batch in data.batches}


@pytest.mark.parametrize("last", [False, True])
def test_a_window_is_a_part_of_its_image(last: bool) -> None:
    data = images(last_axis=last)
    found = seen(network(last_axis=last), data)
    assert sides(found) == {(2, 32, 48, 3) if last else (2, 3, 32, 48)}
    assert found.samples == data.samples
    assert len(found.fit) == len(data.fit)
    places = set()
    for cut, whole in zip(found.batches, data.batches, strict=True):
        one, other = (np.moveaxis(b["x"], -1, 1) if last else b["x"] for b in (cut, whole))
        ((top, left),) = np.argwhere(other[0, 0] == one[0, 0, 0, 0])
        assert np.array_equal(other[:, :, top : top + 32, left : left + 48], one)
        places.add((int(top), int(left)))
    assert len(places) > 1


def test_windows_are_the_same_each_time() -> None:
    first, second = (seen(network(), images()) for _ in range(2))
    for one, other in zip(first.batches, second.batches, strict=True):
        assert np.array_equal(one["x"], other["x"])


@pytest.mark.parametrize(("rows", "expected"), [(3_072, (32, 48)), (6_000, (48, 80)), (40_000, None)])
def test_the_layer_with_the_fewest_places_has_enough(
    monkeypatch: pytest.MonkeyPatch, rows: int, expected: tuple[int, int] | None
) -> None:
    monkeypatch.setattr(windowed_images, "ROWS", rows)
    data = images()
    found = seen(network(), data)
    if expected is None:
        assert found is data
        return
    assert sides(found) == {(2, 3, *expected)}
    assert len(found.fit) * 2 * (expected[0] // 2) * (expected[1] // 2) >= rows


def test_small_images_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windowed_images, "PLACES", HEIGHT * WIDTH)
    data = images()
    assert seen(network(), data) is data


@pytest.mark.parametrize(
    ("last", "rank"),
    [(helper.make_node("Add", ["k", "a"], ["y"]), 4), (helper.make_node("Flatten", ["k"], ["y"]), 2)],
    ids=["a table of all places", "channels and places on one axis"],
)
def test_a_model_of_one_size_sees_whole_images(last: onnx.NodeProto, rank: int) -> None:
    data = images()
    assert seen(network([last], rank), data) is data


def test_a_repair_sees_windows_and_is_judged_on_whole_images() -> None:
    model, data = network(), images()
    repairs = Repairs(model, "refit", data, labelled=analyse(model).units.traced.tensors)
    assert sides(repairs.used) == {(2, 3, 32, 48)}
    assert [b["x"].shape for b in repairs.reference.batches] == [(2, 3, HEIGHT, WIDTH)]
    whole = Repairs(model, "ls", data)
    assert whole.used is data
