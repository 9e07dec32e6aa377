"""A model run piece by piece over batches: every node once, values kept while somebody needs them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxprune.errors import UsageError
from onnxprune.model.graph import held_tensor, is_alias, opsets_of
from onnxprune.model.runtime import one_line, open_session, run, runtime_errors
from onnxprune.model.tensors import read_by
from onnxprune.rules.registry import facets_of
from onnxprune.rules.signature import Facets

PIECE_IR = 8  # initializers need not be inputs


class Walk:
    """Runs the nodes of a graph in order, up to a place at a time.

    weights: stored tensors by name, through Constant nodes and Identity aliases; they may be replaced
    before their node runs. made, last: the node that makes a tensor, and the last that reads it; readers:
    all of them; the number of nodes stands for the outside.
    """

    def __init__(self, model: onnx.ModelProto, batches: Sequence[Mapping[str, np.ndarray]]) -> None:
        self.model = model
        self.opsets = opsets_of(model)
        self.weights: dict[str, onnx.TensorProto] = {t.name: t for t in model.graph.initializer}
        self.nodes = self._without_constants()
        self.values: list[dict[str, np.ndarray]] = [dict(batch) for batch in batches]
        self.made = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.last = {name: i for i, node in enumerate(self.nodes) for name in read_by(node)}
        self.readers: dict[str, list[int]] = {}
        for place, node in enumerate(self.nodes):
            for name in read_by(node):
                self.readers.setdefault(name, []).append(place)
        for output in model.graph.output:
            self.readers.setdefault(output.name, []).append(len(self.nodes))
            self.last[output.name] = len(self.nodes)
        self.at = 0

    def _without_constants(self) -> list[onnx.NodeProto]:
        aliases: dict[str, str] = {}
        kept = []
        for node in self.model.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            for i, name in enumerate(copy.input):
                copy.input[i] = aliases.get(name, name)
            stored = held_tensor(node)
            if stored is not None:
                self.weights[node.output[0]] = stored
            elif is_alias(node.op_type, node.domain) and copy.input[0] in self.weights:
                aliases[node.output[0]] = copy.input[0]
            else:
                kept.append(copy)
        for alias, root in aliases.items():
            self.weights[alias] = self.weights[root]
        return kept

    def facets(self, node: onnx.NodeProto) -> Facets:
        """Return what the rules know of a node besides its axes."""
        return facets_of(node, self.opsets)

    @property
    def size(self) -> int:
        """Return the bytes that are kept at the moment."""
        return sum(v.nbytes for values in self.values for v in values.values() if isinstance(v, np.ndarray))

    def until(self, place: int) -> None:
        """Run the nodes in front of a place."""
        if place <= self.at:
            return
        piece = self.nodes[self.at : place]
        wanted = [n for node in piece for n in node.output if self.last.get(n, -1) >= place]
        if wanted:
            for values, outputs in zip(self.values, self._run(piece, wanted), strict=True):
                values.update(outputs)
        self.at = place
        for values in self.values:
            for name in [n for n in values if self.last.get(n, -1) < place]:
                del values[name]

    def preview(self, outputs: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        """Run the next node, batch by batch, and yield its outputs, without going on."""
        return self._run([self.nodes[self.at]], outputs)

    def onward(self, place: int, outputs: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        """Run the nodes in front of a place, batch by batch, and yield outputs, without going on."""
        return self._run(self.nodes[self.at : place], outputs)

    def ahead(
        self, place: int, outputs: Sequence[str], numbers: Sequence[int]
    ) -> list[dict[str, np.ndarray]]:
        """Run the nodes in front of a place over some batches and return outputs, without going on."""
        return list(self._run(self.nodes[self.at : place], outputs, numbers))

    def inputs_of(self, piece: Sequence[onnx.NodeProto]) -> list[str]:
        """List the tensors that nodes still to run read and that are there already."""
        inner = {n for node in piece for n in node.output}
        read = {n for node in piece for n in read_by(node)} - inner
        return sorted(n for n in read if n in self.values[0] and n not in self.weights)

    def _run(
        self, piece: Sequence[onnx.NodeProto], wanted: Sequence[str], numbers: Sequence[int] | None = None
    ) -> Iterator[dict[str, np.ndarray]]:
        model = self.piece(piece, wanted)
        inputs = [info.name for info in model.graph.input]
        chosen = self.values if numbers is None else [self.values[i] for i in numbers]
        try:
            session = open_session(model, optimised=True)
            for values in chosen:
                yield run(session, {n: values[n] for n in inputs})
        except runtime_errors() as error:
            raise UsageError(f"the model does not run on the calibration data: {one_line(error)}") from error

    def piece(
        self, nodes: Sequence[onnx.NodeProto], wanted: Sequence[str], fed: Sequence[str] = ()
    ) -> onnx.ModelProto:
        """Make a model of nodes still to run; fed: the stored tensors that become inputs of it."""
        read = {n for node in nodes for n in read_by(node)}
        types: dict[str, int] = {
            n: helper.np_dtype_to_tensor_dtype(self.values[0][n].dtype) for n in self.inputs_of(nodes)
        }
        types.update((n, self.weights[n].data_type) for n in fed)
        inputs = [helper.make_tensor_value_info(n, kind, None) for n, kind in types.items()]
        outputs = [onnx.ValueInfoProto(name=n) for n in wanted]
        graph = helper.make_graph(list(nodes), "piece", inputs, outputs)
        for name in sorted(n for n in read if n in self.weights and n not in fed):
            entry = graph.initializer.add()
            entry.CopyFrom(self.weights[name])
            entry.name = name
        model = helper.make_model(graph, opset_imports=list(self.model.opset_import))
        model.functions.extend(self.model.functions)
        model.ir_version = max(self.model.ir_version, PIECE_IR)
        return model

    def store(self, name: str, values: np.ndarray) -> None:
        """Replace a stored tensor."""
        self.weights[name] = numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name)
