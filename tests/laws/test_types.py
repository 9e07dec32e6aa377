"""Element types other than fp32: half, bfloat and double weights, and casts between."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import PruneSettings
from onnxprune.errors import UnprovedError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SETTINGS = PruneSettings(ratio=0.5, align=1, bench=False)
TYPES = {
    "half": (TensorProto.FLOAT16, np.float16),
    "bfloat": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
    "double": (TensorProto.DOUBLE, np.float64),
}


def retyped(model: onnx.ModelProto, kind: str) -> onnx.ModelProto:
    """The same model in another float type."""
    number, dtype = TYPES[kind]
    tensors = [*model.graph.initializer]
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "value":
                tensors.append(attribute.t)
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = number
    for tensor in tensors:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    for info in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if info.type.tensor_type.elem_type == TensorProto.FLOAT:
            info.type.tensor_type.elem_type = number
    return model


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", ["digits_resnet", "digits_transformer"])
def test_every_float_type_is_cut_and_proved(name: str, kind: str) -> None:
    path = ROOT / "models" / f"{name}.onnx"
    plain = onnxprune.prune(str(path), SETTINGS).report
    result = onnxprune.prune(retyped(onnx.load(path), kind), SETTINGS)
    assert result.report.verification.status == "proved"
    assert not result.report.dropped
    assert result.report.after.params == plain.after.params
    kinds = {t.data_type for t in result.model.graph.initializer if len(t.dims) > 1}
    assert kinds == {TYPES[kind][0]}
    if kind != "half":
        assert result.report.verification.reason == "on a copy in fp32"


@pytest.mark.parametrize("kind", TYPES)
def test_casts_between_types(kind: str) -> None:
    number, dtype = TYPES[kind]
    rng = np.random.default_rng(0)
    w, v, u = (rng.standard_normal(s).astype(np.float32) for s in ((3, 8), (8, 6), (6, 2)))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Cast", ["y"], ["h"], to=number),
        helper.make_node("MatMul", ["h", "v"], ["k"]),
        helper.make_node("Cast", ["k"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["f", "u"], ["o"]),
    ]
    sides = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s)] for n, s in (("x", [4, 3]), ("o", [4, 2]))
    ]
    weights = [numpy_helper.from_array(a, n) for a, n in ((w, "w"), (v.astype(dtype), "v"), (u, "u"))]
    graph = helper.make_graph(nodes, "mixed", *sides, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    result = onnxprune.prune(model, SETTINGS)
    assert result.report.verification.status in ("proved", "weak")
    shapes = {t.name: (list(t.dims), t.data_type) for t in result.model.graph.initializer}
    assert shapes["v"] == ([4, 3], number)


def test_scores_of_half_weights_do_not_overflow() -> None:
    # The squares of 1000 leave fp16, and all channels would count alike.
    w = np.full((3, 8), 1000, np.float16)
    w[:, 4:] = 2000
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("MatMul", ["y", "v"], ["o"])]
    sides = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT16, s)] for n, s in (("x", [4, 3]), ("o", [4, 2]))
    ]
    weights = [numpy_helper.from_array(a, n) for a, n in ((w, "w"), (np.full((8, 2), 0.01, np.float16), "v"))]
    graph = helper.make_graph(nodes, "half", *sides, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    assert list(onnxprune.prune(model, SETTINGS).plan.groups[0].keep) == [4, 5, 6, 7]


def calibrated(kind: str) -> PruneSettings:
    calib = np.load(ROOT / "models" / "digits_calib.npz")["input"][:128].astype(TYPES[kind][1])
    return PruneSettings(ratio=0.4, align=1, bench=False, calib={"input": calib})


def test_half_weights_are_repaired_as_such() -> None:
    model = retyped(onnx.load(ROOT / "models" / "digits_transformer.onnx"), "half")
    result = onnxprune.prune(model, calibrated("half"))
    repair = result.report.recovery
    assert repair is not None
    assert repair.repaired > 20
    assert repair.drift_after < 0.3 * repair.drift_before
    assert {t.data_type for t in result.model.graph.initializer if len(t.dims) > 1} == {TensorProto.FLOAT16}


def test_calibration_needs_kernels_of_the_float_type() -> None:
    model = retyped(onnx.load(ROOT / "models" / "digits_transformer.onnx"), "double")
    with pytest.raises(UnprovedError, match=r"onnxruntime refuses the model.*Conv"):
        onnxprune.prune(model, calibrated("double"))
