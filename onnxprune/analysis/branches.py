"""Branches that are always taken: the condition follows from ranks, and from sizes that do not change."""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx

from onnxprune.analysis.trace import trace
from onnxprune.analysis.varying import varying_of
from onnxprune.errors import ModelError
from onnxprune.model.branches import Branch, write_out
from onnxprune.model.graph import network, opsets_of
from onnxprune.model.imported import to_graph
from onnxprune.model.shapes import ShapeReader
from onnxprune.model.sizes import default_sizes
from onnxprune.model.tensors import subgraphs
from onnxprune.rules.registry import REGISTRY

ROUNDS = 16  # a branch that is written out may hold others, and decide the next
_SHOWN = re.compile(r"If\((.+)\)::(\w+)")


def with_decided_branches(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Write out the branches whose condition is the same for all inputs; return their names, too.

    A condition is decided where it is computed from stored values, ranks, and dims that do not follow the
    sizes of the model's inputs.
    """
    names: list[str] = []
    for _ in range(ROUNDS):
        if not any(list(subgraphs(node)) for node in model.graph.node):
            break
        found = list(_decided(model))
        if not found:
            break
        model = write_out(model, found)
        names += map(str, found)
    return model, tuple(names)


def with_branches(model: onnx.ModelProto, names: list[str]) -> tuple[onnx.ModelProto, list[str]]:
    """Write out the branches of these names, and those inside of them; return the names that are left."""
    left = [name for name in names if is_branch(name)]
    while left:
        outputs = {node.output[0] for node in model.graph.node if node.output and list(subgraphs(node))}
        here: list[Branch] = []
        while left and _branch(left[0]).output in outputs:  # one inside of another may make the same tensor
            here.append(_branch(left.pop(0)))
            outputs.remove(here[-1].output)
        if not here:
            break
        model = write_out(model, here)
    return model, left


def is_branch(name: str) -> bool:
    """Tell whether a name in a plan is that of a branch, and not that of a function."""
    return _SHOWN.fullmatch(name) is not None


def _branch(name: str) -> Branch:
    match = _SHOWN.fullmatch(name)
    assert match is not None
    return Branch(match[1], match[2])


def _decided(model: onnx.ModelProto) -> Iterator[Branch]:
    sizes, reader = default_sizes(model)[0], ShapeReader(model)
    try:
        shapes = {name: value.shape for name, value in reader.infer(sizes).items()}
    except ModelError:  # the analysis says what is wrong with it
        return
    opsets = opsets_of(model)
    traced = trace(network(to_graph(model), opsets), shapes, varying=varying_of(reader, shapes, sizes))
    for step in traced.steps:
        chosen = REGISTRY.facets(step.site.domain, step.node.op, step.site.opset).branches
        condition = step.site.value(0)
        if chosen is None or condition is None or condition.size != 1 or step.site.dynamic(0).any():
            continue
        yield Branch(step.node.outputs[0].name, chosen[0] if bool(condition.ravel()[0]) else chosen[1])
