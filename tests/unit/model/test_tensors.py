"""Copies of models without the bytes of their weights."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxprune.model.tensors import weightless
from tests.unit.model.samples import conv_model, dump, floats


def test_weightless_keeps_structure_and_small_tensors() -> None:
    model = conv_model()
    small = numpy_helper.from_array(np.array([1, -1], np.int64), "shape")
    large = numpy_helper.from_array(np.zeros(1000, np.int64), "large")
    matrix = floats("matrix", 2, 2)
    model.graph.initializer.extend([small, large, matrix])
    model.graph.node.append(helper.make_node("Constant", [], ["k"], value=floats("k", 64, 64)))
    before = dump(model)
    bare = weightless(model)
    assert dump(model) == before
    assert len(dump(bare)) < 1500
    kept = {t.name: t for t in bare.graph.initializer}
    assert kept["shape"] == small
    assert kept["b"] == model.graph.initializer[1]
    assert list(kept["w"].dims) == [16, 3, 3, 3]
    assert not kept["w"].HasField("raw_data")
    assert not kept["large"].HasField("raw_data")
    assert not kept["matrix"].HasField("raw_data")
    inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.graph.value_info}
    assert shapes["k"] == [64, 64]
    assert shapes["h"] == [0, 16, 6, 6]
