"""A constant in place: values come back, forms are exchanged and restored."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.model.constant import Constant, dense, sparse

VALUES = np.array([[0, 2, 0], [0, 0, -3]], np.float32)


@pytest.mark.parametrize("pairs", [False, True])
def test_sparse_forms_keep_their_layout(pairs: bool) -> None:
    indices = np.zeros((0, 2) if pairs else 0, np.int64)
    like = onnx.SparseTensorProto(indices=numpy_helper.from_array(indices))
    like.values.name = "w"
    form = sparse(VALUES, like)
    assert (len(form.indices.dims) == 2) == pairs
    assert form.values.name == "w"
    np.testing.assert_array_equal(dense(form), VALUES)


@pytest.mark.parametrize("in_node", [False, True])
def test_exchange_and_restore(in_node: bool) -> None:
    tensor = numpy_helper.from_array(VALUES, "w")
    node = helper.make_node("Constant", [], ["w"], value=tensor)
    graph = helper.make_graph([node] if in_node else [], "g", [], [], [] if in_node else [tensor, tensor])
    home = graph.node[0].attribute[0] if in_node else graph
    constant = Constant("w", home, home.t if in_node else graph.initializer[0])
    before = graph.SerializeToString()
    held = onnx.TensorProto()
    held.CopyFrom(constant.proto)
    constant = Constant("w", home, held)
    place = constant.exchange(constant.as_sparse())
    assert graph.SerializeToString() != before
    constant.restore(place)
    assert graph.SerializeToString() == before


def test_stored_values_keep_name_and_type() -> None:
    tensor = helper.make_tensor("w", onnx.TensorProto.FLOAT, VALUES.shape, VALUES.ravel().tolist())
    constant = Constant("w", onnx.GraphProto(), tensor)
    constant.store(VALUES * 2)
    np.testing.assert_array_equal(constant.load(), VALUES * 2)
    assert (tensor.name, tensor.data_type, list(tensor.float_data)) == ("w", onnx.TensorProto.FLOAT, [])


def test_values_in_another_file_are_refused() -> None:
    tensor = onnx.TensorProto(name="w", dims=[2], data_type=1, data_location=onnx.TensorProto.EXTERNAL)
    with pytest.raises(ModelError, match="tensor w: its external data is not loaded"):
        Constant("w", onnx.GraphProto(), tensor).load()
