"""Writing out a branch of an If in the place of its node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnxprune.model.tensors import graph_nodes, subgraphs


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
    result, names = copied(model)
    chosen = {branch.output: branch.attribute for branch in branches}
    nodes: list[onnx.NodeProto] = []
    for node in result.graph.node:
        attribute = chosen.get(node.output[0]) if node.output else None
        body = None if attribute is None else body_of(node, attribute)
        if body is None:
            nodes.append(node)
        else:
            nodes += placed(body, node.output, names, result.graph).nodes
    replace_nodes(result.graph, nodes)
    return result


@dataclass(frozen=True)
class Placed:
    """A body outside of its node: its nodes under their new names, and the names of its stored tensors."""

    nodes: list[onnx.NodeProto]
    stored: frozenset[str]


@dataclass(frozen=True)
class Taken:
    """Names that others may not get: of tensors, and of nodes."""

    tensors: set[str]
    nodes: set[str]


def copied(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Taken]:
    """Return a copy, and the names that are taken in its outer graph.

    So are those that the bodies of several nodes define: what stays inside may not be defined outside.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    inside = Counter(name for node in result.graph.node for name in _defined_inside(node))
    tensors = {*_names(result.graph), *(name for name, count in inside.items() if count > 1)}
    return result, Taken(tensors, {node.name for node in result.graph.node})


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Give a graph other nodes, which may be some of its own."""
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def body_of(node: onnx.NodeProto, attribute: str) -> onnx.GraphProto | None:
    """Return the graph that an attribute of a node holds."""
    return next((a.g for a in node.attribute if a.name == attribute and a.HasField("g")), None)


def placed(body: onnx.GraphProto, results: Sequence[str], taken: Taken, outer: onnx.GraphProto) -> Placed:
    """Move a body out of its node: its stored tensors go to the outer graph, its nodes are returned.

    results: names that its outputs get; taken: names that others may not get, to which its own are added.
    """
    mapping = _mapping(body, results, taken.tensors)
    for tensor in body.initializer:
        outer.initializer.add().CopyFrom(tensor)
        outer.initializer[-1].name = mapping[tensor.name]
    for sparse in body.sparse_initializer:
        outer.sparse_initializer.add().CopyFrom(sparse)
        outer.sparse_initializer[-1].values.name = mapping[sparse.values.name]
    stored = {t.name for t in body.initializer} | {s.values.name for s in body.sparse_initializer}
    nodes = list(_moved(body, results, mapping))
    for node in nodes:
        node.name = node.name and free(node.name, taken.nodes)
    return Placed(nodes, frozenset(mapping[name] for name in stored))


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (info.name for info in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    yield from (sparse.values.name for sparse in graph.sparse_initializer)
    for node in graph.node:
        yield from node.output


def _defined_inside(node: onnx.NodeProto) -> set[str]:
    return {name for body in _bodies(node) for name in _names(body)}


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for body in subgraphs(node):
        yield body
        for inner in body.node:
            yield from _bodies(inner)


def _mapping(body: onnx.GraphProto, results: Sequence[str], taken: set[str]) -> dict[str, str]:
    """Name what the body defines: its outputs as they are wanted, the rest as before or anew."""
    made = [name for inner in body.node for name in inner.output if name]
    stored = [t.name for t in body.initializer] + [s.values.name for s in body.sparse_initializer]
    given = {info.name: name for info, name in zip(body.output, results, strict=True) if info.name in made}
    return {name: given[name] if name in given else free(name, taken) for name in (*made, *stored)}


def free(name: str, taken: set[str]) -> str:
    """Return the name, or one like it where it is taken; it is taken then."""
    number, found = 1, name
    while found in taken:
        found, number = f"{name}_{number}", number + 1
    taken.add(found)
    return found


def _moved(
    body: onnx.GraphProto, results: Sequence[str], mapping: Mapping[str, str]
) -> Iterator[onnx.NodeProto]:
    """The nodes of the body under their new names, and a node for each result that it only passes on."""
    for inner in body.node:
        copy = onnx.NodeProto.FromString(inner.SerializeToString())
        _rename(copy, mapping)
        yield copy
    for info, name in zip(body.output, results, strict=True):
        source = mapping.get(info.name, info.name)
        if name and source != name:
            yield onnx.helper.make_node("Identity", [source], [name], name=f"{name}_passed_on")


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
