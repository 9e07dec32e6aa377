"""Data flow of a graph: every tensor made once, before it is read, by somebody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence

import onnx

from onnxprune.errors import ModelError
from onnxprune.model.tensors import graph_nodes, subgraphs

FunctionId = tuple[str, str, str]  # domain, name, overload
MOST_NODES = 1_000_000  # of all functions written out
_MAX_CYCLE = 6


def node_name(node: onnx.NodeProto) -> str:
    """A node as messages call it: by its name, else by its first output."""
    output = next((name for name in node.output if name), "")
    return f"node '{node.name}' ({node.op_type})" if node.name else f"node making '{output}' ({node.op_type})"


def check_flow(model: onnx.ModelProto) -> None:
    """Check that tensors are made once and before they are read.

    Raises ModelError naming the node and tensor otherwise.
    """
    _check_graph(model.graph, frozenset())
    _check_hidden(model.graph, frozenset())
    _check_calls(model)
    for function in model.functions:
        made = _check_nodes(function.node, set(function.input), frozenset())
        _check_outputs(function.output, made)


def _check_calls(model: onnx.ModelProto) -> None:
    """Refuse functions that call themselves, and those that double with every level.

    onnx's own passes fail on the former in ways of their own; runtimes write all calls out.
    """
    bodies = {(f.domain, f.name, f.overload): list(graph_nodes(f.node)) for f in model.functions}
    calls = {key: Counter(_called(nodes, bodies)) for key, nodes in bodies.items()}
    callers: dict[FunctionId, list[FunctionId]] = {key: [] for key in calls}
    for key, called in calls.items():
        for inner in called:
            callers[inner].append(key)
    waiting = {key: len(called) for key, called in calls.items()}
    ready = [key for key, count in waiting.items() if not count]
    sizes: dict[FunctionId, int] = {}
    while ready:
        key = ready.pop()
        sizes[key] = len(bodies[key]) + sum(n * sizes[inner] for inner, n in calls[key].items())
        for caller in callers[key]:
            waiting[caller] -= 1
            if not waiting[caller]:
                ready.append(caller)
    if len(sizes) < len(calls):
        domain, name, _ = next(key for key in calls if key not in sizes)
        raise ModelError(
            f"function {domain}::{name} calls itself, directly or through others; export the model again"
        )
    most = Counter(_called(graph_nodes(model.graph.node), bodies))
    total = sum(count * sizes[key] for key, count in most.items())
    if total > MOST_NODES:
        domain, name, _ = max(most, key=lambda key: most[key] * sizes[key])
        raise ModelError(
            f"function {domain}::{name} calls others that call others: {total:.3g} nodes written out, "
            f"{MOST_NODES:,} are possible; export the model without functions"
        )


def _called(nodes: Iterable[onnx.NodeProto], functions: Container[FunctionId]) -> Iterator[FunctionId]:
    for node in nodes:
        key = (node.domain, node.op_type, node.overload)
        if key in functions:
            yield key


def _check_graph(graph: onnx.GraphProto, outer: frozenset[str]) -> None:
    names = [t.name for t in graph.initializer]
    names += [s.values.name for s in graph.sparse_initializer]
    constants = set(names)
    names += [i.name for i in graph.input if i.name not in constants]
    _check_once(names, "initializer or input")
    _check_once([i.name for i in graph.input], "input")
    _check_once([i.name for i in graph.output], "output")
    made = _check_nodes(graph.node, set(names), outer)
    _check_outputs([i.name for i in graph.output], made | outer)


def _check_hidden(graph: onnx.GraphProto, outer: frozenset[str]) -> None:
    """Refuse an initializer of a subgraph that hides an outer tensor: the graph IR reads the outer one."""
    own = {t.name for t in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
    hidden = sorted(own & outer)
    if hidden:
        where = f"subgraph '{graph.name}': its initializer '{hidden[0]}'"
        raise ModelError(f"{where} has the name of a tensor outside of it; rename one")
    infos = {info.name for info in (*graph.input, *graph.output, *graph.value_info)}
    names = outer | own | infos | {name for node in graph.node for name in node.output if name}
    for node in graph.node:
        for inner in subgraphs(node) if node.attribute else ():
            _check_hidden(inner, names)


def _check_once(names: Iterable[str], kind: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ModelError(f"tensor '{name}' is twice {kind}, expected once; export the model again")
        _check_text(name, "a tensor's name")
        seen.add(name)


def _check_text(name: str | bytes, what: str) -> None:
    """Refuse a name that protobuf hands out as bytes, because it is not UTF-8."""
    if isinstance(name, bytes):
        raise ModelError(f"{what} is no UTF-8 text: got {name!r}; the model is damaged or must be renamed")


def _check_outputs(names: Iterable[str], made: frozenset[str] | set[str]) -> None:
    for name in names:
        if name not in made:
            raise ModelError(
                f"output '{name}' is made by no node; the model is truncated or damaged, fetch it again"
            )


def _check_nodes(nodes: Sequence[onnx.NodeProto], given: set[str], outer: frozenset[str]) -> frozenset[str]:
    made = set(given)
    for node in nodes:
        for text in (node.op_type, node.name, node.domain):
            _check_text(text, "a node's name, type or domain")
        for name in node.input:
            if name and name not in made and name not in outer:
                _explain_missing(node, name, nodes)
        if node.attribute:
            for inner in subgraphs(node):
                _check_graph(inner, outer | made)
        for name in node.output:
            if not name:
                continue
            if name in made:
                raise ModelError(
                    f"{node_name(node)}: its output '{name}' is made twice, expected once; rename one"
                )
            _check_text(name, "a tensor's name")
            made.add(name)
    return frozenset(made)


def _explain_missing(node: onnx.NodeProto, name: str, nodes: Sequence[onnx.NodeProto]) -> None:
    """Raise the ModelError that says why a tensor is not there when a node reads it."""
    makers = {output: other for other in nodes for output in other.output if output}
    if name not in makers:
        raise ModelError(f"{node_name(node)}: its input '{name}' is made by no node; export the model again")
    cycle = _cycle(node, name, makers)
    if cycle:
        shown = " -> ".join(node_name(n) for n in cycle[:_MAX_CYCLE])
        raise ModelError(f"the graph has a cycle: {shown} -> ...; export the model again")
    maker = node_name(makers[name])
    fix = "sort the nodes (onnx-graphsurgeon: toposort)"
    raise ModelError(f"{node_name(node)} reads '{name}' before {maker} makes it; {fix}")


def _cycle(node: onnx.NodeProto, name: str, makers: dict[str, onnx.NodeProto]) -> list[onnx.NodeProto] | None:
    """Nodes of a cycle through the node that reads the tensor, in the direction of the data."""
    own = {output for output in node.output if output}
    waiting = [name]
    came_from: dict[str, str] = {name: ""}
    while waiting:
        current = waiting.pop()
        if current in own:
            return _path(current, came_from, makers)
        maker = makers.get(current)
        for earlier in maker.input if maker is not None else ():
            if earlier and earlier not in came_from:
                came_from[earlier] = current
                waiting.append(earlier)
    return None


def _path(start: str, came_from: dict[str, str], makers: dict[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
    path, current = [], start
    while current:
        path.append(makers[current])
        current = came_from[current]
    return path
