"""Counting parameters in a file, whoever reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod

import onnx

_FLOATS = frozenset(
    (
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.BFLOAT16,
        onnx.TensorProto.DOUBLE,
    )
)


def float_elements(model: onnx.ModelProto) -> int:
    """Count the elements of float initializers and Constant nodes, in subgraphs and functions too."""
    inner = sum(_of_nodes(function.node) for function in model.functions)
    return _of_graph(model.graph) + inner


def _of_graph(graph: onnx.GraphProto) -> int:
    total = sum(prod(t.dims) for t in graph.initializer if t.data_type in _FLOATS)
    total += sum(prod(t.dims) for t in graph.sparse_initializer if t.values.data_type in _FLOATS)
    return total + _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> int:
    return sum(_of_attribute(node, attribute) for node in nodes for attribute in node.attribute)


def _of_attribute(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> int:
    total = sum(_of_graph(graph) for graph in _graphs(attribute))
    if node.op_type == "Constant":
        if attribute.name == "value" and attribute.t.data_type in _FLOATS:
            total += prod(attribute.t.dims)
        elif attribute.name in ("value_float", "value_floats"):
            total += max(len(attribute.floats), 1)
    return total


def _graphs(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    if attribute.type == onnx.AttributeProto.GRAPH:
        yield attribute.g
    yield from attribute.graphs
