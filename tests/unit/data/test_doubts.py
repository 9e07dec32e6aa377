"""Doubts about calibration data: few, constant, repeated samples, and a scale that is not the training's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.data.doubts import doubts
from onnxprune.data.norms import first_of, norms_of
from onnxprune.data.read import read_calibration

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(64, 3, 8, 8)).astype(np.float32)


def network(norms: int = 2, scaled: bool = False) -> onnx.ModelProto:
    """Make Convs with BatchNormalizations that store the statistics of IMAGES; scaled: it divides by 255."""
    stored = {
        "w0": RNG.normal(size=(4, 3, 1, 1)),
        "w1": RNG.normal(size=(4, 4, 1, 1)),
        "by": np.asarray(255.0),
    }
    nodes, last, value = [], "x", IMAGES.astype(np.float64)
    if scaled:
        nodes, last = [helper.make_node("Div", ["x", "by"], ["s"])], "s"
    for i in range(2):
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], name=f"conv{i}"))
        last, value = f"c{i}", np.einsum("oc,nchw->nohw", stored[f"w{i}"][:, :, 0, 0], value)
        if i < norms:
            mean, variance = value.mean(axis=(0, 2, 3)), value.var(axis=(0, 2, 3))
            stored |= {f"m{i}": mean, f"v{i}": variance, f"g{i}": np.ones(4), f"b{i}": np.zeros(4)}
            names = [f"{k}{i}" for k in "gbmv"]
            nodes.append(helper.make_node("BatchNormalization", [last, *names], [f"n{i}"], name=f"bn{i}"))
            last = f"n{i}"
            value = (value - mean[:, None, None]) / np.sqrt(variance[:, None, None])
    info = helper.make_tensor_value_info
    ends = [info("x", TensorProto.FLOAT, ["n", 3, 8, 8])], [info(last, TensorProto.FLOAT, ["n", 4, 8, 8])]
    weights = [numpy_helper.from_array(np.asarray(a, np.float32), n) for n, a in stored.items()]
    graph = helper.make_graph(nodes, "g", *ends, initializer=weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def said(images: np.ndarray, model: onnx.ModelProto | None = None) -> tuple[str, ...]:
    model = network() if model is None else model
    return doubts(read_calibration({"x": images.astype(np.float32)}, model), model)


def test_good_data_raises_no_doubt() -> None:
    assert said(IMAGES) == ()
    assert said(IMAGES, network(0)) == ()


@pytest.mark.parametrize(
    ("factor", "remedy"), [(255, "divide the inputs by 255"), (1 / 255, "multiply the inputs by 255")]
)
def test_a_scale_that_is_off_by_255_is_told_with_what_to_do(factor: float, remedy: str) -> None:
    (text,) = said(IMAGES * factor)
    assert text.startswith(
        "the calibration data is not scaled as in the training: in front of BatchNormalization 'bn0'"
    )
    assert f"{factor:.3g} times as wide" in text
    assert "'x' runs from" in text
    assert text.endswith(remedy)


def test_other_scales_and_means_are_told() -> None:
    (wide,) = said((IMAGES - 0.45) / 0.05)
    assert "scale and normalise the inputs as they were then" in wide
    (moved,) = said(IMAGES + 5)
    assert "standard deviations off their mean of the training" in moved
    assert said(IMAGES * 1.5) == ()


def test_the_first_of_the_normalisations_are_looked_at() -> None:
    model = network()
    assert [n.node for n in norms_of(model)] == ["bn0", "bn1"]
    assert [n.node for n in first_of(model, norms_of(model))] == ["bn0"]
    alone = network(1)
    del alone.graph.node[0]
    assert said(IMAGES) == ()


def test_a_normalisation_of_the_input_itself_is_looked_at() -> None:
    model = network(0)
    held = {"g": 1.0, "b": 0.0, "m": 0.5, "v": 1 / 12}
    names = [f"i{name}" for name in held]
    for name, value in zip(names, held.values(), strict=True):
        model.graph.initializer.append(numpy_helper.from_array(np.full(3, value, np.float32), name))
    model.graph.node.insert(0, helper.make_node("BatchNormalization", ["x", *names], ["own"], name="data"))
    model.graph.node[1].input[0] = "own"
    assert said(IMAGES, model) == ()
    (text,) = said(IMAGES * 255, model)
    assert "'data'" in text


def test_images_that_look_like_stored_pixels_are_told_where_no_statistics_are() -> None:
    (whole,) = said(np.rint(IMAGES * 255), network(0))
    assert (
        "from 0 to 255, whole numbers as pixels are stored: if the model was trained on 0 to 1 divide"
        in whole
    )
    (some,) = said(IMAGES * 255, network(0))
    assert "as stored pixels do" in some
    (beyond,) = said((IMAGES - 0.5) * 999, network(0))
    assert "wider than stored pixels" in beyond
    assert said(IMAGES * 255, network(0, scaled=True)) == ()
    assert said((IMAGES - 0.5) * 255, network(0)) == ()  # a mean taken off, as Caffe's models want


def test_few_constant_and_repeated_samples_are_told() -> None:
    (few,) = said(IMAGES[:20])
    assert few.startswith("there are 20 calibration samples only")
    flat = IMAGES.copy()
    flat[:8] = RNG.uniform(size=(8, 1, 1, 1))
    (constant,) = said(flat)
    assert constant.startswith("8 of 64 calibration samples are constant")
    (again,) = said(np.concatenate([IMAGES[:50], IMAGES[:14]]))
    assert again.startswith("14 of 64 calibration samples repeat earlier ones")
    assert said(np.concatenate([IMAGES[:62], IMAGES[:2]])) == ()  # a few are chance


def test_samples_of_a_fixed_batch_are_whole_feeds() -> None:
    model = network()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    data = read_calibration({"x": np.concatenate([IMAGES, IMAGES])}, model)
    assert [t.split(" calib")[0] for t in doubts(data, model)] == ["32 of 64"]
    assert doubts(replace(data, batches=data.batches[:32], samples=32), model) == ()
