"""onnx-graphsurgeon reads a model; neither the graph nor the values it shares reach what is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues
from onnx_graphsurgeon.logger import G_LOGGER

from onnxprune.errors import ModelError
from onnxprune.model.constant import dense
from onnxprune.model.tensors import raw_size, subgraphs


class SharedValues(LazyValues):
    """Values of a TensorProto that belongs to somebody else.

    onnx-graphsurgeon's exporter writes names into `tensor`, so it is handed a copy.
    """

    def __init__(self, source: onnx.TensorProto) -> None:
        self.source = source
        self.shape = list(source.dims)
        self.dtype = numpy_dtype(source.data_type)
        self.nbytes = raw_size(source)

    @property
    def tensor(self) -> onnx.TensorProto:
        """A copy of the source."""
        copy = onnx.TensorProto()
        copy.CopyFrom(self.source)
        return copy

    def load(self) -> np.ndarray:
        """Read the elements into a new, writable array."""
        return np.array(numpy_helper.to_array(self.source))


class SparseShared(SparseValues):
    """Values of a SparseTensorProto that belongs to somebody else."""

    def __init__(self, source: onnx.SparseTensorProto) -> None:
        self.source = source
        self.shape = list(source.dims)
        self.dtype = numpy_dtype(source.values.data_type)
        self.nbytes = raw_size(source.values)

    @property
    def tensor(self) -> onnx.SparseTensorProto:
        """A copy of the source."""
        copy = onnx.SparseTensorProto()
        copy.CopyFrom(self.source)
        return copy

    def load(self) -> np.ndarray:
        """Read the elements into a new, dense array of the declared type."""
        return dense(self.source)


def numpy_dtype(data_type: int) -> Any:
    """numpy's type for an ONNX element type; the ONNX number itself where numpy has none."""
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(data_type))
    except KeyError:
        return data_type


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
