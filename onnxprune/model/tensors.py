"""Walking the nodes and TensorProtos of a model, and copying a model without copying its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, EncodeError, Message
from onnx import numpy_helper

BIG = 1024  # bytes; shape inference reads small tensors only (shapes, axes, scales, split sizes)
TensorCopy = Callable[[onnx.TensorProto, onnx.TensorProto], None]

_TYPED_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_GRAPHS = frozenset((onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS, onnx.AttributeProto.UNDEFINED))
_BITS: dict[int, int] = {
    onnx.TensorProto.FLOAT: 32, onnx.TensorProto.INT32: 32, onnx.TensorProto.UINT32: 32,
    onnx.TensorProto.DOUBLE: 64, onnx.TensorProto.INT64: 64, onnx.TensorProto.UINT64: 64,
    onnx.TensorProto.COMPLEX64: 64, onnx.TensorProto.COMPLEX128: 128,
    onnx.TensorProto.FLOAT16: 16, onnx.TensorProto.BFLOAT16: 16,
    onnx.TensorProto.INT16: 16, onnx.TensorProto.UINT16: 16,
}  # fmt: skip
_SUB_BYTE = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
_BITS |= {getattr(onnx.TensorProto, k): v for k, v in _SUB_BYTE.items() if hasattr(onnx.TensorProto, k)}


def volume(dims: Iterable[int]) -> int:
    """Number of elements of a shape."""
    total = 1
    for dim in dims:
        total *= dim
    return total


def bits_of(data_type: int) -> int:
    """Bits of one element of an ONNX type in raw form."""
    return _BITS.get(data_type, 8)


def raw_size(tensor: onnx.TensorProto) -> int:
    """Bytes that the tensor's elements take in raw form, from its type and dims."""
    return (volume(tensor.dims) * bits_of(tensor.data_type) + 7) // 8


def typed_count(tensor: onnx.TensorProto) -> int:
    """Number of entries in the typed data fields (float_data and its sisters)."""
    return sum(len(getattr(tensor, field)) for field in _TYPED_FIELDS)


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether the tensor's bytes live in another file."""
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Graphs held by the node's attributes: If, Loop, Scan and custom operators."""
    for attribute in node.attribute:
        if attribute.type in _GRAPHS:
            if attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Nodes of the graph, its subgraphs and the local functions."""
    yield from graph_nodes(model.graph.node)
    for function in model.functions:
        yield from graph_nodes(function.node)


def graph_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes and those of their subgraphs."""
    waiting: list[Any] = [nodes]
    while waiting:
        for node in waiting.pop(0):
            yield node
            waiting.extend(inner.node for inner in subgraphs(node))


def read_by(node: onnx.NodeProto) -> set[str]:
    """Return the tensors that a node reads, those read inside its subgraphs included."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            names |= {name for inner in graph.node for name in read_by(inner)}
            names |= {output.name for output in graph.output}
    return names


def node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    """Tensors in the attributes of the nodes, subgraphs included."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from graph_tensors(attribute.g)
            for graph in attribute.graphs:
                yield from graph_tensors(graph)
            if attribute.HasField("sparse_tensor"):
                yield attribute.sparse_tensor.values
                yield attribute.sparse_tensor.indices


def graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All tensors of a graph in a fixed order: initializers, sparse ones, then node attributes."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    yield from node_tensors(graph.node)


def all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors of a model, the main graph's initializers first, local functions last."""
    yield from graph_tensors(model.graph)
    for function in model.functions:
        yield from node_tensors(function.node)


def copy_field(source: Message, target: Message, name: str) -> None:
    """Copy one set field; a field that is not set stays unset."""
    value: Any = getattr(source, name)
    field = source.DESCRIPTOR.fields_by_name[name]
    if field.is_repeated:
        getattr(target, name).extend(value)
    elif not source.HasField(name):
        return
    elif field.message_type is not None:
        getattr(target, name).CopyFrom(value)
    elif isinstance(value, bytes) and field.type == FieldDescriptor.TYPE_STRING:
        # Text that is not UTF-8 is handed out as bytes, and cannot be assigned.
        target.MergeFromString(bytes((*_varint(field.number << 3 | 2), *_varint(len(value)))) + value)
    else:
        setattr(target, name, value)


def _varint(value: int) -> Iterator[int]:
    while value > 0x7F:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value


def copy_except(source: Message, target: Message, skip: frozenset[str]) -> None:
    """Copy all fields but those named, without ever touching the skipped ones."""
    for field in source.DESCRIPTOR.fields:
        if field.name not in skip:
            copy_field(source, target, field.name)


_DATA = frozenset((*_TYPED_FIELDS, "raw_data", "external_data", "data_location"))


def copy_header(source: onnx.TensorProto, target: onnx.TensorProto) -> None:
    """Copy name, type and dims of a tensor, and no element of it."""
    copy_except(source, target, _DATA)


def copy_model(model: onnx.ModelProto, copy_tensor: TensorCopy) -> onnx.ModelProto:
    """Copy a model, leaving each initializer and each big tensor to the callback (source, target)."""
    result = onnx.ModelProto()
    copy_except(model, result, frozenset(("graph", "functions")))
    _copy_graph(model.graph, result.graph, copy_tensor)
    for function in model.functions:
        target = result.functions.add()
        copy_except(function, target, frozenset(("node",)))
        _copy_nodes(function.node, target.node, copy_tensor)
    return result


def _copy_graph(source: onnx.GraphProto, target: onnx.GraphProto, copy_tensor: TensorCopy) -> None:
    copy_except(source, target, frozenset(("node", "initializer")))
    for tensor in source.initializer:
        copy_tensor(tensor, target.initializer.add())
    _copy_nodes(source.node, target.node, copy_tensor)


def _copy_nodes(source: Any, target: Any, copy_tensor: TensorCopy) -> None:
    for node in source:
        copy = target.add()
        if not _holds_weights(node):
            copy.CopyFrom(node)
            continue
        copy_except(node, copy, frozenset(("attribute",)))
        for attribute in node.attribute:
            _copy_attribute(attribute, copy.attribute.add(), copy_tensor)


def _holds_weights(node: onnx.NodeProto) -> bool:
    """Whether the node is worth the slow copy, field by field."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            return True
        if attribute.type == onnx.AttributeProto.TENSOR and is_big(attribute.t):
            return True
    return False


def _copy_attribute(
    source: onnx.AttributeProto, target: onnx.AttributeProto, copy_tensor: TensorCopy
) -> None:
    copy_except(source, target, frozenset(("t", "g")))
    if source.HasField("t"):
        target.t.SetInParent()
        copy_tensor(source.t, target.t)
    if source.HasField("g"):
        target.g.SetInParent()
        _copy_graph(source.g, target.g, copy_tensor)


def weightless(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model without the bytes of its weights, for shape inference and structure checks.

    Tensors larger than 1 kB, and float ones of rank 2 or more, keep name, type and dims only.
    """
    return copy_model(model, _copy_small)


FLOATS = frozenset((onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE,
                     onnx.TensorProto.BFLOAT16))  # fmt: skip


def is_float(tensor: onnx.TensorProto) -> bool:
    """Whether the elements are IEEE-like floats of 16 bits or more."""
    return tensor.data_type in FLOATS


def is_big(tensor: onnx.TensorProto) -> bool:
    """Whether `weightless` leaves the tensor's bytes out."""
    return raw_size(tensor) > BIG or (is_float(tensor) and len(tensor.dims) > 1)


def _copy_small(source: onnx.TensorProto, target: onnx.TensorProto) -> None:
    if is_big(source):
        copy_header(source, target)
    else:
        target.CopyFrom(source)


def raw_bytes(tensor: onnx.TensorProto) -> bytes:
    """The tensor's elements in raw form, whichever field holds them."""
    if tensor.HasField("raw_data"):
        return bytes(tensor.raw_data)
    array = numpy_helper.to_array(tensor)
    return bytes(numpy_helper.from_array(array).raw_data)


__all__ = [
    "BIG",
    "DecodeError",
    "EncodeError",
    "all_nodes",
    "all_tensors",
    "copy_except",
    "copy_header",
    "copy_model",
    "graph_nodes",
    "graph_tensors",
    "is_big",
    "is_external",
    "is_float",
    "node_tensors",
    "raw_bytes",
    "raw_size",
    "subgraphs",
    "typed_count",
    "volume",
    "weightless",
]


_NARROW_NAMES = (
    "INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2",
    "FLOAT8E5M2FNUZ", "FLOAT4E2M1",
)  # fmt: skip
NARROW = frozenset(getattr(onnx.TensorProto, n) for n in _NARROW_NAMES if hasattr(onnx.TensorProto, n))


def is_parameter(data_type: int, rank: int, coded: bool) -> bool:
    """Tell whether the elements of a constant count as parameters.

    data_type: ONNX's number of its element type; coded: an operator reads it as a quantised weight or bias.
    Floats count, scales among them, and what has two or more axes and at most 8 bits an element; zero points
    and shapes do not.
    """
    return coded or data_type in FLOATS or (rank > 1 and data_type in NARROW)
