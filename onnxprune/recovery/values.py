"""Stored tensors of a model by name: their values, hashes of these, and other ones in their place."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from onnxprune.model.structure import held_tensor
from onnxprune.model.tensors import raw_bytes

FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)


def stored_tensors(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Return the initializers of a model and the tensors of its Constant nodes; they are not copies."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        held = held_tensor(node)
        if held is not None:
            stored[node.output[0]] = held
    return stored


def values_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return the values of all stored tensors of floats, by name."""
    stored = stored_tensors(model)
    return {n: numpy_helper.to_array(t) for n, t in stored.items() if t.data_type in FLOATS}


def hashes(model: onnx.ModelProto) -> dict[str, str]:
    """Return the SHA-256 of the values of all stored tensors, by name."""
    return {n: hashlib.sha256(bytes(raw_bytes(t))).hexdigest() for n, t in stored_tensors(model).items()}


def changed(before: onnx.ModelProto, after: onnx.ModelProto) -> dict[str, str]:
    """Name the tensors whose values differ between two models, with the SHA-256 of the later ones."""
    old = hashes(before)
    return {name: new for name, new in sorted(hashes(after).items()) if old.get(name) != new}


def with_values(model: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Return a copy of a model in which stored tensors have other values of the same shape."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    stored = stored_tensors(copy)
    for name in values.keys() & stored.keys():
        held = stored[name]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(held.data_type)
        own = np.asarray(values[name], order="C").astype(dtype)
        held.CopyFrom(numpy_helper.from_array(own, held.name))
    return copy
