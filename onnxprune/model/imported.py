"""onnx-graphsurgeon reads a model; what the graph becomes never reaches the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.logger import G_LOGGER

from onnxprune.errors import ModelError
from onnxprune.model.tensors import subgraphs
from onnxprune.model.values import SharedValues, SparseShared


def to_graph(model: onnx.ModelProto) -> gs.Graph:
    """Import a model; no later change of the graph reaches the model.

    Raises ModelError where onnx-graphsurgeon cannot read the model.
    """
    with G_LOGGER.suppress(G_LOGGER.CRITICAL):
        try:
            graph = gs.import_onnx(_importable(model))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"the graph cannot be imported: {error!r}; run onnx.checker on it") from error
    _detach(graph)
    return graph


def _detach(graph: gs.Graph) -> None:
    """Cut every alias between the graph and the protos it was imported from."""
    for level in (graph, *graph.functions):
        domains = level.import_domains or ()
        copies = [onnx.OperatorSetIdProto.FromString(d.SerializeToString()) for d in domains]
        for part in (level, *level.subgraphs(recursive=True)):
            part.import_domains = copies
            for tensor in _constants(part):
                _share(tensor)


def _constants(graph: gs.Graph) -> Iterator[gs.Constant]:
    for node in graph.nodes:
        for value in (*node.attrs.values(), *node.inputs):
            if isinstance(value, gs.Constant):
                yield value
    for tensor in graph.outputs:
        if isinstance(tensor, gs.Constant):
            yield tensor


def _share(tensor: gs.Constant) -> None:
    values = tensor._values
    if type(values) is LazyValues:
        tensor._values = SharedValues(values.tensor)
    elif isinstance(values, LazyValues) and isinstance(values.tensor, onnx.SparseTensorProto):
        tensor._values = SparseShared(values.tensor)


def _importable(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model itself, or a copy without the attributes that onnx-graphsurgeon cannot read.

    It decodes every string attribute; binary ones (engine plug-ins) make it fail.
    """
    if all(_decodes(a) for nodes in _node_lists(model) for node in nodes for a in node.attribute):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for nodes in _node_lists(copy):
        for node in nodes:
            for index in reversed(range(len(node.attribute))):
                if not _decodes(node.attribute[index]):
                    del node.attribute[index]
    return copy


def _node_lists(model: onnx.ModelProto) -> Iterator[Any]:
    waiting: list[Any] = [model.graph.node, *(f.node for f in model.functions)]
    while waiting:
        nodes = waiting.pop()
        yield nodes
        waiting.extend(inner.node for node in nodes for inner in subgraphs(node))


def _decodes(attribute: AttributeProto) -> bool:
    if attribute.type not in (AttributeProto.STRING, AttributeProto.STRINGS):
        return True
    return all(_is_text(s) for s in (attribute.s, *attribute.strings))


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
