"""Counting parameters in a file, whoever reads them.

Parameters are the elements of float constants and of quantised weights and biases: what an operator
reads as codes of real numbers, and what has two or more axes and at most 8 bits an element. Scales are
floats and count, zero points and shapes do not. Weights packed several to a byte count as bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod

import onnx

from onnxprune.model.quantized import NARROW, coded_inputs
from onnxprune.model.tensors import is_float


def parameters(model: onnx.ModelProto) -> int:
    """Count the parameters of a model, in subgraphs and functions too."""
    quantized = frozenset(_coded(model.graph, {}))
    inner = sum(_of_nodes(function.node, quantized) for function in model.functions)
    return _of_graph(model.graph, quantized) + inner


def _coded(graph: onnx.GraphProto, aliases: dict[str, str]) -> Iterator[str]:
    """List the tensors that are read as codes, through Identity aliases."""
    for node in graph.node:
        if node.op_type == "Identity" and node.domain in ("", "ai.onnx"):
            aliases[node.output[0]] = aliases.get(node.input[0], node.input[0])
        for place in coded_inputs(node.domain, node.op_type):
            if place < len(node.input):
                yield aliases.get(node.input[place], node.input[place])
        for attribute in node.attribute:
            for inner in _graphs(attribute):
                yield from _coded(inner, aliases)


def _counts(name: str, tensor: onnx.TensorProto, quantized: frozenset[str]) -> bool:
    narrow = tensor.data_type in NARROW and len(tensor.dims) > 1
    return is_float(tensor) or narrow or name in quantized


def _of_graph(graph: onnx.GraphProto, quantized: frozenset[str]) -> int:
    total = sum(prod(t.dims) for t in graph.initializer if _counts(t.name, t, quantized))
    total += sum(prod(t.dims) for t in graph.sparse_initializer if is_float(t.values))
    return total + _of_nodes(graph.node, quantized)


def _of_nodes(nodes: Iterable[onnx.NodeProto], quantized: frozenset[str]) -> int:
    return sum(_of_attribute(node, attribute, quantized) for node in nodes for attribute in node.attribute)


def _of_attribute(node: onnx.NodeProto, attribute: onnx.AttributeProto, quantized: frozenset[str]) -> int:
    total = sum(_of_graph(graph, quantized) for graph in _graphs(attribute))
    if node.op_type == "Constant":
        if attribute.name == "value" and _counts(node.output[0], attribute.t, quantized):
            total += prod(attribute.t.dims)
        elif attribute.name in ("value_float", "value_floats"):
            total += max(len(attribute.floats), 1)
    return total


def _graphs(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    if attribute.type == onnx.AttributeProto.GRAPH:
        yield attribute.g
    yield from attribute.graphs
