"""Which constants are weights proper: the tensors that Conv, Gemm, MatMul and RNNs contract with."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.model import values
from onnxprune.model.tensors import copy_header, is_external, is_float, subgraphs, volume

_WEIGHT_INPUTS = {
    "Conv": (1,), "ConvTranspose": (1,), "Gemm": (0, 1), "MatMul": (0, 1), "Einsum": (0, 1),
    "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2), "Gather": (0,),
}  # fmt: skip
# Each puts an element of its input into one place of its output at most, or, as Concat, is capped below.
_MOVES = frozenset(("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Concat"))
# A fused weight joins a handful of tensors; tracing a Concat of hundreds would take hundreds of passes.
MOST_JOINED = 8
_SMALL = 4096  # elements; axes, sizes and bounds are small
_DEFAULT_DOMAIN = ("", "ai.onnx")


@dataclass(frozen=True, eq=False)
class Slot:
    """Where a constant stands: its graph or Constant node's attribute, and the proto with the values."""

    name: str
    home: onnx.GraphProto | onnx.AttributeProto
    proto: TensorProto | onnx.SparseTensorProto
    in_function: bool = False

    @property
    def tensor(self) -> TensorProto:
        """The tensor that carries type and bytes."""
        return self.proto.values if isinstance(self.proto, onnx.SparseTensorProto) else self.proto

    @property
    def shape(self) -> tuple[int, ...]:
        """The dense shape."""
        return tuple(self.proto.dims)

    def load(self) -> np.ndarray:
        """The dense values. Raises ModelError where they are in a file that was not loaded."""
        if is_external(self.tensor):
            raise ModelError(f"tensor {self.name}: its external data is not loaded; load it with the model")
        if isinstance(self.proto, onnx.SparseTensorProto):
            return values.dense(self.proto)
        return numpy_helper.to_array(self.proto)

    def store(self, array: np.ndarray) -> None:
        """Replace the values; name, type and the form, dense or sparse, stay."""
        if isinstance(self.proto, onnx.SparseTensorProto):
            self.proto.CopyFrom(values.sparse(array, self.proto))
            return
        bare = TensorProto()
        copy_header(self.proto, bare)
        self.proto.CopyFrom(bare)
        self.proto.raw_data = numpy_helper.from_array(array).raw_data

    def as_sparse(self) -> onnx.SparseTensorProto:
        """The values in COO form with linear int64 indices (ONNX IR, SparseTensorProto)."""
        like = onnx.SparseTensorProto(values=TensorProto(name=self.name))
        return values.sparse(self.load(), like)

    def indices(self) -> np.ndarray:
        """The flat index of every element, in the stored shape."""
        size = volume(self.shape)
        return np.arange(size, dtype=np.int32 if size < 2**31 else np.int64).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Use:
    """A node that contracts with a constant.

    `view` holds, in the layout that the node sees, the flat index of each element in the stored tensor,
    -1 for what comes from elsewhere; None where the node sees the tensor as it is stored. In that layout
    `axis` holds the input channels, in `blocks` equal parts that belong to one group of a grouped
    operator each; None where there is no such axis.
    """

    slot: Slot
    view: np.ndarray | None
    node: onnx.NodeProto
    axis: int | None
    blocks: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight as the node sees it."""
        return self.slot.shape if self.view is None else self.view.shape


@dataclass
class Weight:
    """A constant that at least one node uses as a weight."""

    slot: Slot
    uses: list[Use] = field(default_factory=list)

    @property
    def names(self) -> set[str]:
        """Its own name, those of the nodes that use it, and of their outputs."""
        users = [name for use in self.uses for name in (use.node.name, *use.node.output)]
        return {name for name in (self.slot.name, *users) if name}

    @property
    def op_types(self) -> set[str]:
        """Operator types that use it."""
        return {u.node.op_type for u in self.uses}


@dataclass(frozen=True, eq=False)
class _Traced:
    """A tensor made by moving elements of float constants about: one index array per constant."""

    parts: tuple[tuple[Slot, np.ndarray], ...]


_Known: TypeAlias = Slot | _Traced | np.ndarray | None
_Scope: TypeAlias = ChainMap[str, _Known]
_Key: TypeAlias = tuple[str, str, str]


def find_weights(model: onnx.ModelProto, embeddings: bool) -> list[Weight]:
    """Float constants of rank 2 or more that are weights, each once, in the order of their first use.

    Looks into subgraphs and functions, and through nodes that only move elements: Transpose, Reshape,
    Slice, Concat and their like. Tables that only Gather reads come with `embeddings`. Raises ModelError
    where a constant that is needed for that lies in external data that was not loaded.
    """
    found: dict[int, Weight] = {}
    for use in _Walk(model).uses():
        wanted = embeddings or use.node.op_type != "Gather"
        if (
            wanted
            and len(use.slot.shape) >= 2
            and volume(use.slot.shape)
            and _fits(use)
            and not _is_table(use)
        ):
            # protobuf keeps one object per message for as long as somebody holds it, and `found` does
            found.setdefault(id(use.slot.proto), Weight(use.slot)).uses.append(use)
    return list(found.values())


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of subgraphs and functions included."""
    waiting = [model.graph.node, *(function.node for function in model.functions)]
    while waiting:
        for node in waiting.pop():
            yield node
            waiting.extend(graph.node for graph in subgraphs(node))


class _Body(NamedTuple):
    """What the nodes of a graph or function have in common."""

    opset: int
    in_function: bool


class _Walk:
    """Follows constants to the nodes that contract with them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.functions: dict[_Key, onnx.FunctionProto] = {
            (f.domain, f.name, f.overload): f for f in model.functions
        }

    def uses(self) -> Iterator[Use]:
        graph = self.model.graph
        yield from self._nodes(graph.node, ChainMap(_initializers(graph)), _Body(_opset(self.model), False))

    def _nodes(self, nodes: Iterable[onnx.NodeProto], scope: _Scope, body: _Body) -> Iterator[Use]:
        for node in nodes:
            yield from _contractions(node, scope)
            for graph in subgraphs(node):
                hidden: dict[str, _Known] = dict.fromkeys(i.name for i in graph.input)
                hidden |= _initializers(graph, body.in_function)
                yield from self._nodes(graph.node, scope.new_child(hidden), body)
            function = self.functions.get((node.domain, node.op_type, node.overload))
            if function is not None:
                given = zip(function.input, node.input, strict=False)
                inner: _Scope = ChainMap({formal: scope.get(actual) for formal, actual in given})
                yield from self._nodes(function.node, inner, _Body(_opset(function), True))
                for formal, actual in zip(function.output, node.output, strict=False):
                    scope[actual] = inner.get(formal)
            elif node.domain in _DEFAULT_DOMAIN:
                scope.update(zip(node.output, _results(node, scope, body), strict=False))


def _opset(holder: onnx.ModelProto | onnx.FunctionProto) -> int:
    return max((o.version for o in holder.opset_import if o.domain in _DEFAULT_DOMAIN), default=1)


def _initializers(graph: onnx.GraphProto, in_function: bool = False) -> dict[str, _Known]:
    result: dict[str, _Known] = {t.name: Slot(t.name, graph, t, in_function) for t in graph.initializer}
    for sparse in graph.sparse_initializer:
        result[sparse.values.name] = Slot(sparse.values.name, graph, sparse, in_function)
    return result


def _results(node: onnx.NodeProto, scope: _Scope, body: _Body) -> list[_Known]:
    """What is known of a node's outputs: constants, and constants whose elements were moved about."""
    if node.op_type == "Constant":
        return [_constant(node, body.in_function)]
    inputs = {name: scope.get(name) for name in node.input if name}
    if not inputs or any(value is None for value in inputs.values()):
        return []
    if node.op_type == "Identity" or (node.op_type == "Cast" and _to_float(node)):
        return [inputs[node.input[0]]]
    return _moved(node, inputs, body.opset) if node.op_type in _MOVES else []


def _constant(node: onnx.NodeProto, in_function: bool) -> _Known:
    for attribute in node.attribute:
        if attribute.name == "value":
            return Slot(node.output[0], attribute, attribute.t, in_function)
        if attribute.name == "sparse_value":
            return Slot(node.output[0], attribute, attribute.sparse_tensor, in_function)
        if attribute.name in ("value_int", "value_ints"):
            return np.array(helper.get_attribute_value(attribute), np.int64)
    return None


def _to_float(node: onnx.NodeProto) -> bool:
    return is_float(TensorProto(data_type=_integer(node, "to")))


def _moved(node: onnx.NodeProto, inputs: Mapping[str, _Known], opset: int) -> list[_Known]:
    """Execute the node on index arrays, once per float constant that takes part, or on small integers."""
    slots: dict[int, Slot] = {}
    for value in inputs.values():
        for slot, _ in _parts(value):
            slots.setdefault(id(slot.proto), slot)
    if len(slots) > MOST_JOINED:
        return []
    if not slots:
        plain = {name: _integers(value) for name, value in inputs.items()}
        return list(_execute(node, plain, _SMALL, opset))
    most = 2 * sum(volume(slot.shape) for slot in slots.values())
    columns = []
    for slot in slots.values():
        arrays = {name: _seen(value, slot) for name, value in inputs.items()}
        columns.append([(slot, out) for out in _execute(node, arrays, most, opset)])
    return [_Traced(parts) for parts in zip(*columns, strict=True)]


def _parts(value: _Known) -> Iterable[tuple[Slot, np.ndarray | None]]:
    if isinstance(value, _Traced):
        return value.parts
    return [(value, None)] if isinstance(value, Slot) and is_float(value.tensor) else []


def _integers(value: _Known) -> np.ndarray | None:
    if isinstance(value, Slot):
        return value.load() if volume(value.shape) <= _SMALL else None
    return value if isinstance(value, np.ndarray) else None


def _seen(value: _Known, slot: Slot) -> np.ndarray | None:
    """Where the slot's elements are in a value: -1 for those of other slots; integers as they are."""
    parts = list(_parts(value))
    if not parts:
        return _integers(value)
    for own, view in parts:
        if own.proto is slot.proto:
            return own.indices() if view is None else view
    other, view = parts[0]
    return np.full(other.shape if view is None else view.shape, -1, np.int32)


def _execute(
    node: onnx.NodeProto, arrays: Mapping[str, np.ndarray | None], most: int, opset: int
) -> list[np.ndarray]:
    """Run a node in onnx's reference evaluator; nothing where that cannot be done or grows too large."""
    from onnx.reference import ReferenceEvaluator

    known = {name: array for name, array in arrays.items() if array is not None}
    if len(known) < len(arrays) or sum(known[n].size for n in node.input if n) > most + _SMALL:
        return []
    inputs = [onnx.ValueInfoProto(name=name) for name in known]
    graph = helper.make_graph([node], "move", inputs, [onnx.ValueInfoProto(name=o) for o in node.output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        return list(ReferenceEvaluator(model).run(None, known))
    except Exception:  # noqa: BLE001  it raises whatever numpy does; what it cannot run is not followed
        return []


def _contractions(node: onnx.NodeProto, scope: _Scope) -> Iterator[Use]:
    if node.domain not in _DEFAULT_DOMAIN:
        return
    for position in _WEIGHT_INPUTS.get(node.op_type, ()):
        known = scope.get(node.input[position]) if position < len(node.input) else None
        for slot, view in _parts(known):
            blocks = _integer(node, "group", 1) if node.op_type == "ConvTranspose" else 1
            yield Use(slot, view, node, _contracted_axis(node, position), max(blocks, 1))


def _contracted_axis(node: onnx.NodeProto, position: int) -> int | None:
    """Axis of the input channels in the layout that ONNX prescribes for this input (ONNX operator spec)."""
    if node.op_type == "Gemm":
        flipped = _integer(node, "transB" if position else "transA") != 0
        return int(flipped) if position else int(not flipped)
    if node.op_type == "MatMul":
        return -2 if position else -1
    if node.op_type == "Einsum":
        return _einsum_axis(node, position)
    return {"Conv": 1, "ConvTranspose": 0, "Gather": None}.get(node.op_type, 2)


def _einsum_axis(node: onnx.NodeProto, position: int) -> int | None:
    """The one axis of an operand that the equation sums over; None where it is not exactly one."""
    equation = next((a.s.decode(errors="replace") for a in node.attribute if a.name == "equation"), "")
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or "." in equation or position >= len(terms):
        return None
    summed = [i for i, subscript in enumerate(terms[position]) if subscript not in right]
    return summed[0] if len(summed) == 1 else None


def _fits(use: Use) -> bool:
    return use.axis is None or -len(use.shape) <= use.axis < len(use.shape)


def _is_table(use: Use) -> bool:
    """Whether a MatMul sums over nothing: an outer product, as of positions with rotary frequencies."""
    return use.node.op_type == "MatMul" and use.shape[use.axis or 0] == 1


def _integer(node: onnx.NodeProto, name: str, default: int = 0) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)
