"""A patch: changes of a model, collected, and carried out on a copy that is else the same byte for byte."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.model.constant import dense, sparse
from onnxprune.model.graph import declared_dims
from onnxprune.model.tensors import copy_except, subgraphs

IR_WITHOUT_INPUT_INITIALIZERS = 4  # older files must list each initializer among the graph inputs
Dims = Sequence["int | str | None"]


class Patch:
    """Changes of the main graph of a model, which itself stays as it is.

    Nodes are told by their place in the model, tensors by name. What no change concerns is written as it
    was; an initializer or a description whose last reader goes, goes as well.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.added: dict[str, np.ndarray] = {}
        self._changed: dict[int, NodeProto] = {}
        self._before: dict[int, list[NodeProto]] = defaultdict(list)
        self._after: dict[int, list[NodeProto]] = defaultdict(list)
        self._removed: set[int] = set()
        self._values: dict[str, np.ndarray] = {}
        self._dims: dict[str, tuple[int | str | None, ...]] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._taken: set[str] = set()
        self._counts: dict[str, int] = defaultdict(int)

    # --- reading

    def node(self, place: int) -> NodeProto:
        """Return a node as it is after the changes so far; it is not to be written to."""
        return self._changed.get(place, self.model.graph.node[place])

    def nodes(self) -> Iterator[NodeProto]:
        """Return all nodes in the order in which they are written."""
        for place, node in enumerate(self.model.graph.node):
            yield from self._before.get(place, ())
            if place not in self._removed:
                yield self._changed.get(place, node)
            yield from self._after.get(place, ())

    def fresh(self, base: str) -> str:
        """Return a name that no tensor and no node has: the base, or the base with a number."""
        if not self._taken:
            self._taken = set(_names(self.model.graph))
        name, count = base, self._counts[base]
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._counts[base] = count
        self._taken.add(name)
        return name

    def dims(self, name: str) -> tuple[int | str | None, ...] | None:
        """Return the described dims of a tensor inside the graph, None where it has no description."""
        info = self._descriptions.get(name)
        return self._dims.get(name, None if info is None else declared_dims(info))

    @cached_property
    def _descriptions(self) -> dict[str, onnx.ValueInfoProto]:
        return {info.name: info for info in self.model.graph.value_info}

    # --- changing nodes

    def change(self, place: int) -> NodeProto:
        """Return a node to write to: its inputs, outputs and attributes."""
        if place not in self._changed:
            copy = NodeProto()
            copy.CopyFrom(self.model.graph.node[place])
            self._changed[place] = copy
        return self._changed[place]

    def set_attribute(self, place: int, name: str, value: Any) -> None:
        """Set an attribute of a node; None removes it."""
        node = self.change(place)
        at = next((i for i, a in enumerate(node.attribute) if a.name == name), None)
        if at is None:
            if value is not None:
                node.attribute.append(_attribute(name, value, None))
        elif value is None:
            del node.attribute[at]
        else:
            node.attribute[at].CopyFrom(_attribute(name, value, node.attribute[at]))

    def set_input(self, place: int, number: int, name: str) -> None:
        """Let a node read a tensor as the input of that number; inputs up to there are left out."""
        node = self.change(place)
        node.input.extend("" for _ in range(number + 1 - len(node.input)))
        node.input[number] = name

    def insert(self, place: int, before: Iterable[NodeProto] = (), after: Iterable[NodeProto] = ()) -> None:
        """Put nodes next to a node, behind those that were put there already."""
        self._before[place].extend(before)
        self._after[place].extend(after)

    def remove(self, place: int) -> None:
        """Leave a node out; what was put next to it stays."""
        self._removed.add(place)

    def remove_unread(self, candidates: set[str]) -> None:
        """Leave out nodes that make only these tensors and have no reader, and what only they read."""
        graph, candidates = self.model.graph, set(candidates)
        readers = Counter(info.name for info in graph.output)
        readers.update(name for node in self.nodes() for name in _reads(node))
        makers = {name: place for place in range(len(graph.node)) for name in self.node(place).output}
        waiting = [name for name in candidates if not readers[name]]
        while waiting:
            place = makers.get(waiting.pop())
            if place is None or place in self._removed:
                continue
            node = self.node(place)
            if all(name in candidates and not readers[name] for name in node.output):
                self._removed.add(place)
                read = [name for name in _reads(node) if name]
                candidates.update(read)
                readers.subtract(read)
                waiting += [name for name in read if not readers[name]]

    # --- changing tensors

    def set_values(self, name: str, values: np.ndarray) -> None:
        """Give an initializer, dense or sparse, other values of the same element type."""
        self._values[name] = values

    def set_constant(self, place: int, values: np.ndarray) -> None:
        """Let a Constant node make other values."""
        node = self.model.graph.node[place]
        copy = NodeProto()
        copy_except(node, copy, frozenset(("attribute",)))
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.HasField("t"):
                made = copy.attribute.add()
                copy_except(attribute, made, frozenset(("t",)))
                made.t.CopyFrom(_tensor(values, attribute.t))
            elif attribute.name not in _LITERALS:
                copy.attribute.append(attribute)
        if not any(a.name == "value" for a in copy.attribute):
            name = self.fresh(f"{node.output[0]}_value")
            copy.attribute.append(helper.make_attribute("value", numpy_helper.from_array(values, name)))
        self._changed[place] = copy

    def initializer(self, name: str, values: np.ndarray) -> str:
        """Add an initializer and return its name; it is written where a node reads it."""
        self.added[name] = values
        return name

    def add_input(self, info: onnx.ValueInfoProto) -> None:
        """Add an input of the graph."""
        self._inputs.append(info)

    def set_dims(self, name: str, dims: Dims) -> None:
        """Change the dims in the description of a tensor, where it has one."""
        self._dims[name] = tuple(dims)

    # --- writing

    def written(self) -> onnx.ModelProto:
        """Carry the changes out on a copy. Raises ModelError where values cannot be written as ONNX."""
        source, result = self.model.graph, onnx.ModelProto()
        copy_except(self.model, result, frozenset(("graph",)))
        result.graph.SetInParent()
        copy_except(source, result.graph, _REWRITTEN)
        nodes = list(self.nodes())
        result.graph.node.extend(nodes)
        gone = self._gone(nodes)
        dims = self._new_dims() | self._dims
        added = [n for n in dict.fromkeys(name for node in nodes for name in node.input) if n in self.added]
        self._write_initializers(result.graph, gone, added)
        constants = {t.name for t in source.initializer} | {t.values.name for t in source.sparse_initializer}
        inputs = [info for info in source.input if info.name not in gone]
        result.graph.input.extend(_described(info, dims if info.name in constants else {}) for info in inputs)
        if self.model.ir_version < IR_WITHOUT_INPUT_INITIALIZERS:
            result.graph.input.extend(_listed(name, self.added[name]) for name in added)
        result.graph.input.extend(self._inputs)
        result.graph.value_info.extend(
            _described(info, dims) for info in source.value_info if info.name not in gone
        )
        notes = (note for note in source.quantization_annotation if note.tensor_name not in gone)
        result.graph.quantization_annotation.extend(notes)
        self._declare(result)
        return result

    def _gone(self, nodes: list[NodeProto]) -> set[str]:
        """Return the tensors that were used and are no longer; what was never used stays where it was."""
        graph = self.model.graph
        found = _touched(graph.node[place] for place in self._changed.keys() | self._removed)
        if not found:
            return found
        for node in nodes:
            found.difference_update(node.input)
            found.difference_update(node.output)
            for inner in subgraphs(node):
                found -= _used(inner)
        constants = {t.name for t in graph.initializer}
        interface = [info.name for info in graph.input if info.name not in constants]
        return found.difference(interface, [info.name for info in graph.output], [""])

    def _new_dims(self) -> dict[str, tuple[int | str | None, ...]]:
        """Return the dims of initializers that have others now."""
        graph = self.model.graph
        before = {t.name: t.dims for t in graph.initializer if t.name in self._values}
        before |= {t.values.name: t.dims for t in graph.sparse_initializer if t.values.name in self._values}
        new = {name: self._values[name].shape for name in before}
        return {name: shape for name, shape in new.items() if list(before[name]) != list(shape)}

    def _write_initializers(self, result: onnx.GraphProto, gone: set[str], added: list[str]) -> None:
        source = self.model.graph
        for tensor in source.initializer:
            if tensor.name in gone:
                continue
            changed = tensor.name in self._values
            result.initializer.append(_tensor(self._values[tensor.name], tensor) if changed else tensor)
        for name in added:
            result.initializer.append(_tensor(self.added[name], TensorProto(name=name)))
        for held in source.sparse_initializer:
            name = held.values.name
            if name in gone:
                continue
            changed = name in self._values and not np.array_equal(self._values[name], dense(held))
            result.sparse_initializer.append(sparse(self._values[name], held) if changed else held)

    def _declare(self, result: onnx.ModelProto) -> None:
        """Declare the domains of nodes that were put in, in version 1."""
        there = {d.domain for d in result.opset_import} | {"", "ai.onnx"}
        new = (n for nodes in (*self._before.values(), *self._after.values()) for n in nodes)
        for domain in sorted({node.domain for node in new} - there):
            result.opset_import.add(domain=domain, version=1)


_REWRITTEN = frozenset(
    ("node", "initializer", "sparse_initializer", "input", "value_info", "quantization_annotation")
)
_LITERALS = frozenset(("value_float", "value_floats", "value_int", "value_ints"))


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """List the names of tensors and nodes, those of subgraphs included."""
    yield from (t.name for t in graph.initializer)
    yield from (t.values.name for t in graph.sparse_initializer)
    yield from (info.name for info in graph.input)
    for node in graph.node:
        yield node.name
        yield from node.input
        yield from node.output
        for inner in subgraphs(node):
            yield from _names(inner)


def _used(graph: onnx.GraphProto) -> set[str]:
    """Return the tensors that a subgraph touches."""
    constants = {t.name for t in graph.initializer}
    names = {info.name for info in graph.input if info.name not in constants}
    names.update(info.name for info in graph.output)
    return names | _touched(graph.node)


def _touched(nodes: Iterable[NodeProto]) -> set[str]:
    """Return the tensors that nodes touch, those of their subgraphs included."""
    names: set[str] = set()
    for node in nodes:
        names.update(node.input)
        names.update(node.output)
        for inner in subgraphs(node):
            names |= _used(inner)
    return names


def _reads(node: NodeProto) -> Iterator[str]:
    """List the tensors that a node reads, and those that its subgraphs read or put out."""
    yield from node.input
    for inner in subgraphs(node):
        for other in inner.node:
            yield from _reads(other)
        yield from (info.name for info in inner.output)


def _attribute(name: str, value: Any, base: AttributeProto | None) -> AttributeProto:
    listed = hasattr(value, "__len__") and not isinstance(value, (str, bytes))
    kind = None
    if listed and not len(value):
        kind = base.type if base is not None and base.type else AttributeProto.INTS
    try:
        result = helper.make_attribute(name, value, attr_type=kind)
    except (TypeError, ValueError) as error:
        raise ModelError(f"attribute '{name}' cannot be written as ONNX: {error}") from error
    if base is not None and base.doc_string:
        result.doc_string = base.doc_string
    return result


def _tensor(values: np.ndarray, like: TensorProto) -> TensorProto:
    """Write an array with the name and notes of another tensor: that one itself where it holds the same."""
    array = values if values.ndim == 0 else np.ascontiguousarray(values)
    try:
        result = numpy_helper.from_array(array)
    except (KeyError, TypeError, ValueError) as error:
        message = f"tensor '{like.name}': type {array.dtype} cannot be written as ONNX: {error}"
        raise ModelError(message) from error
    if like.data_type not in (TensorProto.UNDEFINED, result.data_type):
        kinds = [TensorProto.DataType.Name(k) for k in (result.data_type, like.data_type)]
        raise ModelError(f"tensor '{like.name}': got values of type {kinds[0]}, expected {kinds[1]}")
    if like.data_type and result.dims == like.dims and _same(array, like):
        return like
    if like.name:
        result.name = like.name
    if like.HasField("doc_string"):
        result.doc_string = like.doc_string
    result.metadata_props.extend(like.metadata_props)
    return result


def _same(array: np.ndarray, tensor: TensorProto) -> bool:
    before = numpy_helper.to_array(tensor)
    return np.array_equal(array, before) if array.dtype == object else array.tobytes() == before.tobytes()


def _described(
    info: onnx.ValueInfoProto, dims: Mapping[str, tuple[int | str | None, ...]]
) -> onnx.ValueInfoProto:
    """Return a description with other dims; a dim that stays keeps its notes, and one that changes, too."""
    wanted = dims.get(info.name)
    if wanted is None or not info.type.HasField("tensor_type") or declared_dims(info) == wanted:
        return info
    result = onnx.ValueInfoProto()
    result.CopyFrom(info)
    shape = result.type.tensor_type.shape
    shape.SetInParent()
    before = list(info.type.tensor_type.shape.dim)
    del shape.dim[:]
    for axis, size in enumerate(wanted):
        dim = shape.dim.add()
        if axis < len(before):
            dim.CopyFrom(before[axis])
            if _size(dim) == size:
                continue
            dim.ClearField("value")
        if isinstance(size, str):
            dim.dim_param = size
        elif size is not None:
            dim.dim_value = int(size)
    return result


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_param"):
        return str(dim.dim_param)
    return int(dim.dim_value) if dim.HasField("dim_value") else None


def _listed(name: str, values: np.ndarray) -> onnx.ValueInfoProto:
    kind = int(helper.np_dtype_to_tensor_dtype(values.dtype))
    return helper.make_tensor_value_info(name, kind, values.shape)
