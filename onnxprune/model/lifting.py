"""Both branches of an If beside each other in the outer graph, and back in their node.

While a network is labelled, pruned and proved, both branches are run, and a Where with the condition of the
If chooses between their results. What comes of it is written with the If again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnxprune.model.branches import body_of, copied, free, placed, replace_nodes
from onnxprune.model.tensors import read_by


@dataclass(frozen=True)
class Lifted:
    """An If whose branches lie in the outer graph.

    node: the If, its bodies empty but for the types of their outputs; attributes: those with the bodies, that
    for a true condition first. outer: names of what other nodes make. made, stored: by branch, the names of
    what its nodes make and of its initializers.
    """

    node: onnx.NodeProto
    attributes: tuple[str, str]
    outer: frozenset[str]
    made: tuple[frozenset[str], ...]
    stored: tuple[frozenset[str], ...]


def lift(
    model: onnx.ModelProto, output: str, attributes: tuple[str, str], chooser: str
) -> tuple[onnx.ModelProto, Lifted]:
    """Lay the branches of one node beside each other, on a copy.

    output: its first output; attributes: as `Lifted` has them; chooser: the operator that chooses.
    """
    result, taken = copied(model)
    before = list(result.graph.node)
    place = next(i for i, node in enumerate(before) if node.output and node.output[0] == output)
    node = before.pop(place)
    parts, results = [], []
    for attribute in attributes:
        body = body_of(node, attribute)
        assert body is not None, f"'{output}' has no {attribute}"
        results.append([free(f"{name}_{attribute}", taken.tensors) for name in node.output])
        parts.append(placed(body, results[-1], taken, result.graph))
    names = [free(f"{name}_chosen", taken.nodes) for name in node.output]
    choices = [
        onnx.helper.make_node(chooser, [node.input[0], *pair], [output], name=name)
        for name, output, *pair in zip(names, node.output, *results, strict=True)
    ]
    lifted = Lifted(
        _emptied(node), attributes, frozenset(name for other in before for name in other.output),
        tuple(frozenset(name for inner in part.nodes for name in inner.output) for part in parts),
        tuple(part.stored for part in parts),
    )  # fmt: skip
    inside = [inner for part in parts for inner in part.nodes]
    replace_nodes(result.graph, [*before[:place], *inside, *choices, *before[place:]])
    return result, lifted


def _emptied(node: onnx.NodeProto) -> onnx.NodeProto:
    result = onnx.NodeProto.FromString(node.SerializeToString())
    for attribute in result.attribute:
        if attribute.HasField("g"):
            body = onnx.GraphProto(name=attribute.g.name)
            for info in attribute.g.output:  # without the sizes: they may change
                bare = body.output.add()
                if info.type.tensor_type.elem_type:
                    bare.type.tensor_type.elem_type = info.type.tensor_type.elem_type
            attribute.g.CopyFrom(body)
    return result


def lower(model: onnx.ModelProto, lifted: Sequence[Lifted]) -> onnx.ModelProto:
    """Put branches back into their nodes, on a copy.

    lifted: in the order in which they were laid out. A node that was added meanwhile goes with the branch
    that alone reads what it makes.
    """
    if not lifted:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for one in reversed(lifted):
        _lower(result.graph, one)
    return result


def _lower(graph: onnx.GraphProto, lifted: Lifted) -> None:
    whole = onnx.NodeProto.FromString(lifted.node.SerializeToString())
    choices = {n.output[0]: n for n in graph.node if n.output and n.output[0] in whole.output}
    whole.input[0] = choices[whole.output[0]].input[0]
    bodies = [body for name in lifted.attributes if (body := body_of(whole, name)) is not None]
    for branch, body in enumerate(bodies):
        for info, name in zip(body.output, whole.output, strict=True):
            info.name = choices[name].input[1 + branch]
    nodes: list[onnx.NodeProto] = []
    for node, place in zip(graph.node, _branches(graph, lifted, choices), strict=True):
        name = node.output[0] if node.output else ""
        if place is not None:
            bodies[place].node.add().CopyFrom(node)
        elif name == whole.output[0]:
            nodes.append(whole)
        elif name not in choices:
            nodes.append(node)
    read = {name for node in nodes if node is not whole for name in read_by(node)}
    for body, names in zip(bodies, lifted.stored, strict=True):
        _return_tensors(graph, body, names, read)
    replace_nodes(graph, nodes)


def _branches(
    graph: onnx.GraphProto, lifted: Lifted, choices: Mapping[str, onnx.NodeProto]
) -> list[int | None]:
    """Say for each node in which branch it belongs, None for the outer graph."""
    readers: dict[str, set[int | None]] = {info.name: {None} for info in graph.output}
    found: list[int | None] = []
    for node in reversed(graph.node):
        names = [name for name in node.output if name]
        own: set[int | None] = {b for b, made in enumerate(lifted.made) if made.intersection(names)}
        if not own and not lifted.outer.intersection(names) and not choices.keys() & set(names):
            own = set().union(*(readers.get(name, set()) for name in names))
        branch = next(iter(own)) if len(own) == 1 else None
        found.append(branch)
        chosen = names and choices.get(names[0]) is node
        for place, name in enumerate(node.input):
            readers.setdefault(name, set()).add(place - 1 if chosen and place else branch)
        for name in read_by(node) - set(node.input):
            readers.setdefault(name, set()).add(branch)
    return found[::-1]


def _return_tensors(
    graph: onnx.GraphProto, body: onnx.GraphProto, names: Iterable[str], read: set[str]
) -> None:
    """Move initializers of a branch that no node outside reads back into it."""
    here = set(names) - read
    for outer, inner, name_of in (
        (graph.initializer, body.initializer, lambda t: t.name),
        (graph.sparse_initializer, body.sparse_initializer, lambda t: t.values.name),
    ):
        inner.extend(tensor for tensor in outer if name_of(tensor) in here)
        kept = [tensor for tensor in outer if name_of(tensor) not in here]
        if len(kept) < len(outer):
            copies = [type(tensor).FromString(tensor.SerializeToString()) for tensor in kept]
            del outer[:]
            outer.extend(copies)
