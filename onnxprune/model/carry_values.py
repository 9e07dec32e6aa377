"""Tensors and value descriptions of one graph level, written with the original at hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues

from onnxprune.errors import ModelError
from onnxprune.model.constant import dense, sparse
from onnxprune.model.tensors import subgraphs
from onnxprune.model.values import SharedValues, SparseShared


def used_tensors(graph: gs.Graph) -> dict[str, gs.Tensor]:
    """Every named tensor that the graph or its subgraphs touch; this level wins over inner ones."""
    result: dict[str, gs.Tensor] = {}
    for tensor in _tensors(graph):
        result.setdefault(tensor.name, tensor)
    for inner in graph.subgraphs(recursive=True):
        for tensor in _tensors(inner):
            result.setdefault(tensor.name, tensor)
    result.pop("", None)
    return result


def _tensors(graph: gs.Graph) -> Iterator[gs.Tensor]:
    yield from graph.inputs
    yield from graph.outputs
    for node in graph.nodes:
        yield from node.inputs
        yield from node.outputs


def used_names(graph: onnx.GraphProto) -> set[str]:
    """Names that `used_tensors` finds in the graph imported from this one."""
    constants = {t.name for t in graph.initializer}
    names = {info.name for info in graph.input if info.name not in constants}
    names.update(info.name for info in graph.output)
    for node in graph.node:
        names.update(node.input)
        names.update(node.output)
        for inner in subgraphs(node):
            names |= used_names(inner)
    names.discard("")
    return names


def own_constants(graph: gs.Graph) -> list[gs.Constant]:
    """Constants read at this level, in graph order, each name once."""
    found: dict[str, gs.Constant] = {}
    for node in graph.nodes:
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant):
                found.setdefault(tensor.name, tensor)
    for tensor in graph.outputs:
        if isinstance(tensor, gs.Constant):
            found.setdefault(tensor.name, tensor)
    return list(found.values())


def elem_type(dtype: Any) -> int:
    """ONNX element type of a numpy type or of an ONNX number.

    Raises ModelError for a type that ONNX does not have.
    """
    if isinstance(dtype, int):
        return dtype
    try:
        return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(f"type '{dtype}' has no ONNX counterpart; convert the array first") from error


def value_info(tensor: gs.Tensor) -> onnx.ValueInfoProto:
    """Describe a tensor that the original did not describe.

    Raises ModelError for a type that ONNX does not have.
    """
    if tensor.dtype is None:
        return onnx.ValueInfoProto(name=tensor.name)
    shape = None if tensor.shape is None else list(tensor.shape)
    return onnx.helper.make_tensor_value_info(tensor.name, elem_type(tensor.dtype), shape)


def write_tensor(tensor: gs.Constant, original: onnx.TensorProto | None, result: onnx.TensorProto) -> None:
    """Write a constant: byte for byte the original where its elements are the same."""
    values = tensor._values
    if isinstance(values, SharedValues):
        result.CopyFrom(values.source)
    elif isinstance(values, LazyValues):
        result.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values.load()), tensor.name))
    elif original is not None and _same_array(values, original):
        result.CopyFrom(original)
    else:
        _write_array(values, original, result)
    if result.name != tensor.name:
        result.name = tensor.name


def _write_array(values: np.ndarray, original: onnx.TensorProto | None, result: onnx.TensorProto) -> None:
    array = np.asarray(values)
    result.CopyFrom(numpy_helper.from_array(array if array.ndim == 0 else np.ascontiguousarray(array)))
    if original is None:
        return
    if original.HasField("doc_string"):
        result.doc_string = original.doc_string
    result.metadata_props.extend(original.metadata_props)


def _same_array(values: np.ndarray, original: onnx.TensorProto) -> bool:
    if values.shape != tuple(original.dims) or elem_type(values.dtype) != original.data_type:
        return False
    before = numpy_helper.to_array(original)
    if values.dtype == object:
        return bool(np.array_equal(values, before))
    return np.ascontiguousarray(values).tobytes() == before.tobytes()


def write_sparse(
    tensor: gs.Constant, original: onnx.SparseTensorProto, result: onnx.SparseTensorProto
) -> None:
    """Write a constant that was sparse: the original where unchanged, else sparse again."""
    values = tensor._values
    if isinstance(values, SparseShared) or np.array_equal(np.asarray(values), dense(original)):
        result.CopyFrom(original)
    else:
        result.CopyFrom(sparse(np.asarray(values), original))


class Described:
    """The value descriptions of one original graph, as the import sees them."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._imported: dict[str, tuple[int | None, list[Any] | None]] = {}
        for tensor in graph.initializer:
            self._imported.setdefault(tensor.name, (tensor.data_type, list(tensor.dims)))
        for sparse_tensor in graph.sparse_initializer:
            values = sparse_tensor.values
            self._imported.setdefault(values.name, (values.data_type, list(sparse_tensor.dims)))
        self._constants = frozenset(self._imported)
        for info in graph.value_info:
            self._imported[info.name] = self._merged(info)
        for info in (*graph.input, *graph.output):
            self._imported.setdefault(info.name, described(info))

    def _merged(self, info: onnx.ValueInfoProto) -> tuple[int | None, list[Any] | None]:
        known = self._imported.get(info.name, (None, None))
        if info.name in self._constants:
            return known
        fresh = described(info)
        return (known[0] or fresh[0], known[1] or fresh[1])

    def write(self, info: onnx.ValueInfoProto, tensor: gs.Tensor | None, result: onnx.ValueInfoProto) -> None:
        """Write a description: the original, with type and dims of the tensor where they changed."""
        result.CopyFrom(info)
        known = self._imported.get(info.name)
        if tensor is None or known is None or not info.type.HasField("tensor_type"):
            return
        if tensor.dtype is not None and known[0] is not None and elem_type(tensor.dtype) != known[0]:
            result.type.tensor_type.elem_type = elem_type(tensor.dtype)
        shape = None if tensor.shape is None else list(tensor.shape)
        if shape != known[1]:
            _write_shape(result.type.tensor_type, shape)


def described(info: onnx.ValueInfoProto) -> tuple[int | None, list[Any] | None]:
    """Element type and dims of a description; None for what it leaves open."""
    kind = info.type.tensor_type
    if not info.type.HasField("tensor_type"):
        return None, None
    shape = [dimension(d) for d in kind.shape.dim] if kind.HasField("shape") else None
    return kind.elem_type or None, shape


def dimension(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    """Size or symbol of a dimension; None where it has neither."""
    if dim.HasField("dim_param"):
        return cast(str, dim.dim_param)
    return int(dim.dim_value) if dim.HasField("dim_value") else None


def _write_shape(kind: onnx.TypeProto.Tensor, shape: list[Any] | None) -> None:
    if shape is None:
        kind.ClearField("shape")
        return
    before = [onnx.TensorShapeProto.Dimension.FromString(d.SerializeToString()) for d in kind.shape.dim]
    kind.ClearField("shape")
    kind.shape.SetInParent()
    for index, size in enumerate(shape):
        dim = kind.shape.dim.add()
        if index < len(before):
            dim.CopyFrom(before[index])
            if dimension(dim) == size:
                continue
            dim.ClearField("value")
        if isinstance(size, str):
            dim.dim_param = size
        elif size is not None:
            dim.dim_value = int(size)
