"""MACs and parameters, and how a removal changes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod

import onnx

from onnxprune.analysis.trace import Trace
from onnxprune.model.graph import Network, is_alias, is_constant, opsets_of
from onnxprune.model.tensors import is_parameter, subgraphs
from onnxprune.rules.registry import REGISTRY
from onnxprune.rules.signature import Axis, Pinned, Signature


def parameters(model: onnx.ModelProto) -> int:
    """Count the parameters of a model, in subgraphs and functions too."""
    coded = frozenset(_coded(model.graph, opsets_of(model), {}))
    inner = sum(_of_nodes(function.node, coded) for function in model.functions)
    return _of_graph(model.graph, coded) + inner


def with_codes(net: Network) -> Network:
    """Mark the constants that an operator reads as codes of real numbers."""
    stored = dict(net.stored)
    for name, places in net.uses.items():
        for number, place in places:
            node = net.nodes[number]
            domain = node.domain or ""
            if place in REGISTRY.facets(domain, node.op, net.opset(domain)).coded:
                stored[name] = replace(stored[name], quantized=True)
    return replace(net, stored=stored)


def _coded(graph: onnx.GraphProto, opsets: Mapping[str, int], aliases: dict[str, str]) -> Iterator[str]:
    """List the tensors that are read as codes, through Identity aliases."""
    for node in graph.node:
        if is_alias(node.op_type, node.domain):
            aliases[node.output[0]] = aliases.get(node.input[0], node.input[0])
        for place in REGISTRY.facets_of(node, opsets).coded:
            if place < len(node.input):
                yield aliases.get(node.input[place], node.input[place])
        for inner in subgraphs(node):
            yield from _coded(inner, opsets, aliases)


def _count(name: str, data_type: int, dims: Sequence[int], coded: frozenset[str]) -> int:
    return prod(dims) if is_parameter(data_type, len(dims), name in coded) else 0


def _of_graph(graph: onnx.GraphProto, coded: frozenset[str]) -> int:
    total = sum(_count(t.name, t.data_type, t.dims, coded) for t in graph.initializer)
    for sparse in graph.sparse_initializer:
        total += _count(sparse.values.name, sparse.values.data_type, sparse.dims, coded)
    return total + _of_nodes(graph.node, coded)


def _of_nodes(nodes: Iterable[onnx.NodeProto], coded: frozenset[str]) -> int:
    return sum(_of_node(node, coded) for node in nodes)


def _of_node(node: onnx.NodeProto, coded: frozenset[str]) -> int:
    total = sum(_of_graph(graph, coded) for graph in subgraphs(node))
    for attribute in node.attribute if is_constant(node.op_type, node.domain) else ():
        if attribute.name == "value":
            total += _count(node.output[0], attribute.t.data_type, attribute.t.dims, coded)
        elif attribute.name in ("value_float", "value_floats"):
            total += max(len(attribute.floats), 1)
    return total


def node_macs(traced: Trace, sizes: Mapping[int, Mapping[str, int]] | None = None) -> dict[int, int]:
    """Count the MACs of every node at the sizes of the trace.

    sizes: subscript sizes after a removal, by node; the trace's own where a node is missing.
    """
    result: dict[int, int] = {}
    for step in traced.steps:
        verdict = step.verdict
        if isinstance(verdict, Pinned) and verdict.macs:
            result[step.number] = verdict.macs
        elif isinstance(verdict, Signature) and verdict.macs and step.met is not None:
            own = {**step.met.sizes, **(sizes or {}).get(step.number, {})}
            result[step.number] = sum(product(subscripts, own) for subscripts in verdict.products)
    return result


def product(subscripts: Axis, sizes: Mapping[str, int]) -> int:
    """Multiply the sizes of subscripts; one that has no axis is 1."""
    return prod(sizes.get(subscript, 1) for subscript in subscripts)


def macs(traced: Trace, sizes: Mapping[int, Mapping[str, int]] | None = None) -> int:
    """Count the MACs of the whole graph."""
    return sum(node_macs(traced, sizes).values())
