"""onnx-graphsurgeon as the graph IR, and back to ONNX without losing anything on the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.logger import G_LOGGER

from onnxprune.errors import ModelError
from onnxprune.model import carry_nodes, carry_values
from onnxprune.model.tensors import copy_except
from onnxprune.model.values import SharedValues, SparseShared

IR_WITHOUT_INPUT_INITIALIZERS = 4  # older files must list each initializer among the graph inputs


def to_graph(model: onnx.ModelProto) -> gs.Graph:
    """Import a model; no later change of the graph reaches the model.

    Raises ModelError where onnx-graphsurgeon cannot read the model.
    """
    with G_LOGGER.suppress(G_LOGGER.CRITICAL):
        try:
            graph = gs.import_onnx(carry_nodes.importable(model))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"the graph cannot be imported: {error!r}; run onnx.checker on it") from error
    _detach(graph)
    return graph


def to_model(graph: gs.Graph, original: onnx.ModelProto) -> onnx.ModelProto:
    """Export a graph and put back from the original all that the IR does not carry.

    Neither argument is changed. Raises ModelError where a value cannot be written as ONNX.
    """
    result = onnx.ModelProto()
    copy_except(original, result, frozenset(("graph", "functions")))
    result.graph.SetInParent()
    with G_LOGGER.suppress(G_LOGGER.CRITICAL):
        _GraphWriter(graph, original.graph, frozenset(), original.ir_version).write(result.graph)
        _write_functions(graph.functions, original, result)
    _add_domains(graph, original, result)
    return result


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


def _write_functions(functions: Iterable[Any], original: onnx.ModelProto, result: onnx.ModelProto) -> None:
    waiting: dict[tuple[str, str], list[onnx.FunctionProto]] = {}
    for proto in original.functions:
        waiting.setdefault((proto.domain, proto.name), []).append(proto)
    for function in functions:
        candidates = waiting.get(function.unique_id)
        if candidates:
            _write_function(function, candidates.pop(0), result.functions.add())
        else:
            result.functions.append(OnnxExporter.export_function(function))


def _write_function(function: Any, original: onnx.FunctionProto, result: onnx.FunctionProto) -> None:
    copy_except(original, result, frozenset(("node", "input", "output")))
    result.input.extend(t.name for t in function.inputs)
    result.output.extend(t.name for t in function.outputs)
    known = {name for node in original.node for name in node.output}
    for tensor in function.tensors().values():
        if isinstance(tensor, gs.Constant) and tensor.name not in known:
            carry_nodes.write_constant(tensor, result.node.add())
    carry_nodes.write_nodes(function.nodes, original.node, result.node, _write_subgraph_alone)


def _add_domains(graph: gs.Graph, original: onnx.ModelProto, result: onnx.ModelProto) -> None:
    """Declare the domains of inserted nodes; the original's own declarations stay as they are."""
    declared = {d.domain for d in original.opset_import}
    for domain in graph.import_domains or ():
        if domain.domain not in declared and domain.domain != "ai.onnx":
            declared.add(domain.domain)
            result.opset_import.add().CopyFrom(domain)
    before = set(carry_nodes.domains(original.graph))
    for domain_name in sorted(set(carry_nodes.domains(result.graph)) - before - declared - {"ai.onnx"}):
        result.opset_import.add(domain=domain_name, version=1)


def _write_subgraph_alone(graph: gs.Graph, original: onnx.GraphProto, result: onnx.GraphProto) -> None:
    _GraphWriter(graph, original, frozenset(), None).write(result)


class _GraphWriter:
    """Writes one graph level; subgraphs, which have no IR version, get a writer of their own."""

    def __init__(
        self, graph: gs.Graph, original: onnx.GraphProto, outer: frozenset[str], ir_version: int | None
    ) -> None:
        self.graph = graph
        self.original = original
        self.outer = outer
        self.ir_version = ir_version
        self.used = carry_values.used_tensors(graph)
        self.used_before = carry_values.used_names(original)
        self.described = carry_values.Described(original)

    def write(self, result: onnx.GraphProto) -> None:
        skip = ("node", "initializer", "sparse_initializer", "input", "output", "value_info")
        copy_except(self.original, result, frozenset((*skip, "quantization_annotation")))
        if result.name != self.graph.name:
            result.name = self.graph.name
        added = self._write_initializers(result)
        self._write_sparse(result)
        self._write_interface(result, added)
        self._write_value_info(result)
        for note in self.original.quantization_annotation:
            if not self._gone(note.tensor_name):
                result.quantization_annotation.add().CopyFrom(note)
        carry_nodes.write_nodes(self.graph.nodes, self.original.node, result.node, self._write_subgraph)

    def _write_subgraph(self, graph: gs.Graph, original: onnx.GraphProto, result: onnx.GraphProto) -> None:
        outer = self.outer.union(self.used, (t.name for t in self.graph.inputs))
        _GraphWriter(graph, original, outer, None).write(result)

    def _gone(self, name: str) -> bool:
        """Whether a tensor was used and is no longer; what was never used stays where it was."""
        return name in self.used_before and name not in self.used

    def _write_initializers(self, result: onnx.GraphProto) -> list[gs.Constant]:
        """Write the initializers and return those the original did not have."""
        listed = set()
        for proto in self.original.initializer:
            listed.add(proto.name)
            tensor = self.used.get(proto.name)
            if isinstance(tensor, gs.Constant):
                carry_values.write_tensor(tensor, proto, result.initializer.add())
            elif tensor is None and proto.name not in self.used_before:
                result.initializer.add().CopyFrom(proto)
        listed.update(s.values.name for s in self.original.sparse_initializer)
        there = listed | self.outer
        added = [t for t in carry_values.own_constants(self.graph) if t.name not in there]
        for tensor in added:
            carry_values.write_tensor(tensor, None, result.initializer.add())
        return added

    def _write_sparse(self, result: onnx.GraphProto) -> None:
        for proto in self.original.sparse_initializer:
            tensor = self.used.get(proto.values.name)
            if isinstance(tensor, gs.Constant):
                carry_values.write_sparse(tensor, proto, result.sparse_initializer.add())
            elif tensor is None and proto.values.name not in self.used_before:
                result.sparse_initializer.add().CopyFrom(proto)

    def _write_interface(self, result: onnx.GraphProto, added: list[gs.Constant]) -> None:
        constants = {p.name for p in self.original.initializer}
        constants.update(p.values.name for p in self.original.sparse_initializer)
        kept = {p.name for p in result.initializer}
        kept.update(p.values.name for p in result.sparse_initializer)
        # The interface of the model never changes; that of a subgraph follows its tensors.
        main, listed = self.ir_version is not None, (self.ir_version or 99) < IR_WITHOUT_INPUT_INITIALIZERS
        inputs = {t.name: t for t in self.graph.inputs}
        for info in self.original.input:
            if info.name in constants:
                if info.name in kept:
                    self.described.write(info, self.used.get(info.name), result.input.add())
            elif info.name in inputs:
                tensor = inputs.pop(info.name)
                self.described.write(info, None if main else tensor, result.input.add())
        outputs = {t.name: t for t in self.graph.outputs}
        for info in self.original.output:
            if info.name in outputs:
                tensor = outputs.pop(info.name)
                self.described.write(info, None if main else tensor, result.output.add())
        result.input.extend(carry_values.value_info(t) for t in inputs.values())
        for tensor in outputs.values():
            result.output.append(carry_values.value_info(tensor))
        if listed:
            result.input.extend(carry_values.value_info(t) for t in added)

    def _write_value_info(self, result: onnx.GraphProto) -> None:
        written = {info.name for info in (*result.input, *result.output)}
        for info in self.original.value_info:
            written.add(info.name)
            if not self._gone(info.name):
                self.described.write(info, self.used.get(info.name), result.value_info.add())
        for node in self.graph.nodes:
            for tensor in node.outputs:
                known = tensor.name and (tensor.dtype is not None) and tensor.shape is not None
                if known and tensor.name not in written:
                    written.add(tensor.name)
                    result.value_info.append(carry_values.value_info(tensor))
