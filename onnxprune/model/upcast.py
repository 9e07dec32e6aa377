"""A copy of a model in fp32: onnxruntime lacks most kernels for bf16, and Conv's for fp64, on the CPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnxprune.errors import UnprovedError
from onnxprune.model.graph import STANDARD
from onnxprune.model.runtime import open_session
from onnxprune.model.tensors import all_tensors, subgraphs

WIDENED = (TensorProto.BFLOAT16, TensorProto.DOUBLE)
_TYPES = ("to", "dtype", "output_dtype")  # attributes of ONNX operators that hold an element type


def upcast_to_fp32(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which bf16 and fp64 are fp32: constants, casts and descriptions."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in all_tensors(copy):
        if tensor.data_type in WIDENED:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    _retype(copy.graph)
    for function in copy.functions:
        _recast(function.node)
    return copy


def runnable(model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
    """Return a model that onnxruntime opens, and whether it is a copy in fp32.

    Raises UnprovedError where it opens neither.
    """
    if not any(t.data_type in WIDENED for t in all_tensors(model)):
        return model, False
    try:
        open_session(model)
    except UnprovedError:
        copy = upcast_to_fp32(model)
        open_session(copy)
        return copy, True
    return model, False


def wide_dtypes(dtypes: Mapping[str, int]) -> dict[str, int]:
    """Return element types in which bf16 and fp64 are fp32."""
    return {name: int(TensorProto.FLOAT) if kind in WIDENED else kind for name, kind in dtypes.items()}


def _retype(graph: onnx.GraphProto) -> None:
    for info in (*graph.input, *graph.output, *graph.value_info):
        if info.type.tensor_type.elem_type in WIDENED:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
    _recast(graph.node)


def _recast(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        for attribute in node.attribute:
            typed = attribute.name in _TYPES and node.domain in STANDARD
            if typed and attribute.i in WIDENED:
                attribute.i = TensorProto.FLOAT
        for inner in subgraphs(node):
            _retype(inner)
