"""A copy in fp32: constants, descriptions, and what names an element type in an attribute."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.model.upcast import upcast_to_fp32


@pytest.mark.parametrize(
    ("op", "attribute", "domain", "kept"),
    [
        ("Cast", "to", "", False),
        ("RandomNormalLike", "dtype", "", False),
        ("Bernoulli", "dtype", "ai.onnx", False),
        ("Mystery", "dtype", "acme", True),
        ("Cast", "other", "", True),
    ],
)
def test_an_attribute_that_names_a_type(op: str, attribute: str, domain: str, kept: bool) -> None:
    node = helper.make_node(op, ["x"], ["y"], domain=domain, **{attribute: int(TensorProto.DOUBLE)})
    ends = [helper.make_tensor_value_info(n, TensorProto.DOUBLE, [2]) for n in "xy"]
    stored = [numpy_helper.from_array(np.ones(2), "w")]
    copy = upcast_to_fp32(helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], stored)))
    assert copy.graph.node[0].attribute[0].i == (TensorProto.DOUBLE if kept else TensorProto.FLOAT)
    assert copy.graph.initializer[0].data_type == TensorProto.FLOAT
    assert copy.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
