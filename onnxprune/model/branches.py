"""Writing out a branch of an If in the place of its node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import onnx

from onnxprune.model.tensors import all_nodes, graph_nodes, subgraphs


@dataclass(frozen=True)
class Branch:
    """A branch that is always taken: the first output of its node, and the attribute that holds it."""

    output: str
    attribute: str

    def __str__(self) -> str:
        return f"If({self.output})::{self.attribute}"


def write_out(model: onnx.ModelProto, branches: Iterable[Branch]) -> onnx.ModelProto:
    """Put the nodes of these branches in the places of their nodes, on a copy; other nodes stay.

    What a branch makes gets the name that the node gave it; names inside that are taken get new ones.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    chosen = {branch.output: branch.attribute for branch in branches}
    taken = set(_names(result))
    nodes: list[onnx.NodeProto] = []
    for node in result.graph.node:
        attribute = chosen.get(node.output[0]) if node.output else None
        body = None if attribute is None else _body(node, attribute)
        if body is None:
            nodes.append(node)
            continue
        mapping = _mapping(node, body, taken)
        nodes += _moved(node, body, mapping)
        for tensor in body.initializer:
            result.graph.initializer.add().CopyFrom(tensor)
            result.graph.initializer[-1].name = mapping[tensor.name]
        for sparse in body.sparse_initializer:
            result.graph.sparse_initializer.add().CopyFrom(sparse)
            result.graph.sparse_initializer[-1].values.name = mapping[sparse.values.name]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del result.graph.node[:]
    result.graph.node.extend(kept)
    return result


def _body(node: onnx.NodeProto, attribute: str) -> onnx.GraphProto | None:
    return next((a.g for a in node.attribute if a.name == attribute and a.HasField("g")), None)


def _names(model: onnx.ModelProto) -> Iterator[str]:
    """All names of tensors and nodes that stand in the outer graph, or outside of it in a body."""
    graphs = [model.graph, *(g for node in all_nodes(model) for g in subgraphs(node))]
    for graph in graphs[:1]:
        yield from (info.name for info in graph.input)
        yield from (tensor.name for tensor in graph.initializer)
        yield from (sparse.values.name for sparse in graph.sparse_initializer)
        for node in graph.node:
            yield from (*node.output, node.name)


def _mapping(node: onnx.NodeProto, body: onnx.GraphProto, taken: set[str]) -> dict[str, str]:
    """Name what the body defines: its results as the node's outputs, the rest as before or anew."""
    made = [name for inner in body.node for name in inner.output if name]
    stored = [t.name for t in body.initializer] + [s.values.name for s in body.sparse_initializer]
    given = {
        info.name: name for info, name in zip(body.output, node.output, strict=True) if info.name in made
    }
    mapping: dict[str, str] = {}
    for name in (*made, *stored):
        mapping[name] = given[name] if name in given else _free(name, taken)
    return mapping


def _free(name: str, taken: set[str]) -> str:
    number, found = 1, name
    while found in taken:
        found, number = f"{name}_{number}", number + 1
    taken.add(found)
    return found


def _moved(
    node: onnx.NodeProto, body: onnx.GraphProto, mapping: Mapping[str, str]
) -> Iterator[onnx.NodeProto]:
    """The nodes of the body under their new names, and a node for each result that it only passes on."""
    for inner in body.node:
        copy = onnx.NodeProto.FromString(inner.SerializeToString())
        _rename(copy, mapping)
        yield copy
    for info, name in zip(body.output, node.output, strict=True):
        source = mapping.get(info.name, info.name)
        if name and source != name:
            yield onnx.helper.make_node(
                "Identity", [source], [name], name=f"{node.name or node.output[0]}_{name}"
            )


def _rename(node: onnx.NodeProto, mapping: Mapping[str, str]) -> None:
    """Rename what a node reads and makes, and what its own bodies read of the outside."""
    for names in (node.input, node.output):
        for place, name in enumerate(names):
            names[place] = mapping.get(name, name)
    for graph in subgraphs(node):
        for inner in graph_nodes(graph.node):
            for place, name in enumerate(inner.input):
                inner.input[place] = mapping.get(name, name)
        for nested in (graph, *(g for inner in graph_nodes(graph.node) for g in subgraphs(inner))):
            for info in nested.output:
                info.name = mapping.get(info.name, info.name)
