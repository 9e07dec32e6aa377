"""Which constants are weights, and along which of their axes nodes sum over input channels.

What a node does with a constant is what its rule says; constants are followed through subgraphs, functions
and operators that only move elements, which are run on the places of the elements.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxprune.analysis.axes import joined
from onnxprune.analysis.readers import spread
from onnxprune.analysis.supposed import supposed
from onnxprune.model.constant import CodedConstant, Constant
from onnxprune.model.graph import is_alias, is_constant, opsets_of, plain
from onnxprune.model.tensors import is_float, subgraphs, volume
from onnxprune.rules import REGISTRY, Facets
from onnxprune.rules.signature import Axes, Code, Shape, Signature

MOST_JOINED = 8  # constants; following a Concat of hundreds would take hundreds of passes
_SMALL = 4096  # elements; axes, sizes and bounds are small
_MOVING = ("layout", "selection")  # families of rules


class Reading(NamedTuple):
    """How a node reads a tensor: its sizes subscript by subscript, and which of these are input channels."""

    dims: tuple[int, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Use:
    """A node that contracts with a constant, or looks up rows of it.

    places: in the layout that the node sees, 1 + the flat place of each element, 0 for what comes from
    elsewhere; None where the node sees the constant as it is stored. reading: None for a look-up.
    """

    constant: Constant
    places: np.ndarray | None
    node: onnx.NodeProto
    reading: Reading | None

    def lines(self) -> np.ndarray:
        """Return flat places [lines, input channels] in the constant, -1 for what comes from elsewhere."""
        places = self.places
        if places is None:
            places = _places(self.constant)
        if self.reading is None or not self.reading.channels:
            return places.reshape(-1, 1)[:0]
        dims, channels = self.reading
        grid = np.moveaxis(places.reshape(dims), channels, range(-len(channels), 0))
        return grid.reshape(-1, volume(dims[i] for i in channels)) - 1


@dataclass
class Weight:
    """A constant that at least one node uses as a weight."""

    constant: Constant
    uses: list[Use] = field(default_factory=list)

    def names(self) -> Iterator[tuple[str, str]]:
        """List what patterns may match: its name, and those of its users, as `names_of`."""
        yield self.constant.name, ""
        for use in self.uses:
            yield from names_of(use.node)


def names_of(node: onnx.NodeProto) -> Iterator[tuple[str, str]]:
    """List a node's name, or its first output's, with its operator type, and the names of its outputs."""
    outputs = [name for name in node.output if name]
    yield node.name or next(iter(outputs), node.op_type), node.op_type
    yield from ((name, "") for name in outputs)


def find_weights(model: onnx.ModelProto, tables: bool) -> list[Weight]:
    """Constants of rank 2 or more that are weights, each once, in the order of their first use.

    Floats, and codes of quantised weights, which are read as the real numbers that they stand for.

    A weight is what a node with MACs cannot do without. tables: those that Gather looks up as well. Raises
    ModelError where a constant that is needed for that lies in external data that was not loaded.
    """
    found: dict[int, Weight] = {}
    for use in _Walk(model).uses():
        if tables or use.reading is not None:
            # protobuf keeps one object per message for as long as somebody holds it, and `found` does
            found.setdefault(id(use.constant.proto), Weight(use.constant)).uses.append(use)
    return list(found.values())


@dataclass(frozen=True, eq=False)
class _Moved:
    """A tensor made by moving elements of float constants about: the places of each of them."""

    parts: tuple[tuple[Constant, np.ndarray], ...]

    @property
    def shape(self) -> Shape:
        return self.parts[0][1].shape


_Value: TypeAlias = Constant | _Moved | np.ndarray | None
_Scope: TypeAlias = ChainMap[str, _Value]


class _Body(NamedTuple):
    """What the nodes of a graph or function have in common."""

    opset: int
    in_function: bool


class _Walk:
    """Follows constants to the nodes that contract with them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.functions = {(f.domain, f.name, f.overload): f for f in model.functions}
        self.asked: dict[tuple[object, ...], Signature | None] = {}

    def uses(self) -> Iterator[Use]:
        graph, body = self.model.graph, _Body(opsets_of(self.model).get("", 1), False)
        yield from self._nodes(graph.node, ChainMap(_initializers(graph, False)), body)

    def _nodes(self, nodes: Iterable[onnx.NodeProto], scope: _Scope, body: _Body) -> Iterator[Use]:
        for node in nodes:
            values = [scope.get(name) for name in node.input]
            if not plain(node.domain):
                yield from self._uses(node, values, body)
                scope.update(zip(node.output, self._results(node, values, body), strict=False))
            for graph in subgraphs(node):
                hidden: dict[str, _Value] = dict.fromkeys(i.name for i in graph.input)
                inner = scope.new_child(hidden | _initializers(graph, body.in_function))
                yield from self._nodes(graph.node, inner, body)
            function = self.functions.get((node.domain, node.op_type, node.overload))
            if function is not None:
                own: _Scope = ChainMap(dict(zip(function.input, values, strict=False)))
                yield from self._nodes(function.node, own, _Body(opsets_of(function).get("", 1), True))
                scope.update(zip(node.output, (own.get(name) for name in function.output), strict=False))

    def _uses(self, node: onnx.NodeProto, values: list[_Value], body: _Body) -> Iterator[Use]:
        for place, value in enumerate(self._decoded(node, values, body.opset)):
            for constant, places in _parts(value):
                if len(constant.shape) < 2 or not constant.size:
                    continue
                shape = constant.shape if places is None else places.shape
                known = REGISTRY.facets(node.domain, node.op_type, body.opset)
                reading = _reading(known, self._signature(node, values, body.opset), place, shape)
                if reading is not None or place in known.tables.values():
                    yield Use(constant, places, node, reading)

    def _results(self, node: onnx.NodeProto, values: list[_Value], body: _Body) -> Sequence[_Value]:
        how = REGISTRY.facets(node.domain, node.op_type, body.opset).quantisation
        if how is not None and how.decodes:
            return self._decoded(node, values, body.opset)[:1]
        return _results(node, values, body)

    def _decoded(self, node: onnx.NodeProto, values: list[_Value], opset: int) -> list[_Value]:
        """Put the real numbers in the place of constants of codes, where scale and zero point are stored."""
        coded = REGISTRY.facets(node.domain, node.op_type, opset).coded
        signature = self._signature(node, values, opset) if coded else None
        if signature is None:
            return values
        found = list(values)
        for place in coded:
            value = values[place] if place < len(values) else None
            code = signature.codes.get(place)
            if isinstance(value, Constant) and code is not None and len(value.shape) > 1:
                found[place] = _numbers(signature, values, place, code)
        return found

    def _signature(self, node: onnx.NodeProto, values: list[_Value], opset: int) -> Signature | None:
        shapes = tuple(None if value is None else tuple(value.shape) for value in values)
        attributes = tuple(a.SerializeToString(deterministic=True) for a in node.attribute)
        present = tuple(bool(name) for name in (*node.input, *node.output))
        key = node.op_type, opset, shapes, present, attributes
        if key not in self.asked:
            whole = bool(REGISTRY.facets(node.domain, node.op_type, opset).coded)
            self.asked[key] = supposed(node, shapes, opset, whole)
        return self.asked[key]


def _numbers(
    signature: Signature, values: Sequence[_Value], place: int, code: Code
) -> CodedConstant | Constant:
    """Return the codes at an input as numbers; as they are where their scale or zero point is computed."""
    codes, target = values[place], signature.inputs[place]
    assert isinstance(codes, Constant)
    wide: dict[str, np.ndarray] = {}
    for name, other in (("scale", code.scale), ("zero", code.zero)):
        if other is None:
            continue
        held, own = values[other], signature.inputs[other]
        if not isinstance(held, Constant) or own is None or target is None:
            return codes
        sizes = _sizes(target, codes.shape) | dict(signature.sizes)
        wide[name] = np.broadcast_to(spread(held.load(), own, target, sizes), codes.shape)
    return CodedConstant(codes.name, codes.home, codes.proto, codes.in_function, **wide)


def _sizes(axes: Axes, shape: Shape) -> dict[str, int]:
    """Return the sizes of subscripts that are axes by themselves."""
    return {axis[0]: size for axis, size in zip(axes, shape, strict=True) if len(axis) == 1}


def _reading(known: Facets, signature: Signature | None, place: int, shape: Shape) -> Reading | None:
    """How a node contracts with a tensor; None where it does not."""
    axes = signature.inputs[place] if signature is not None and place < len(signature.inputs) else None
    if signature is None or axes is None or not signature.products:
        return None
    subscripts = joined(axes, range(len(axes)))
    inputs = (joined(a, range(len(a))) for i, a in enumerate(signature.inputs) if a and i != place)
    others = set(signature.fed_back).union(*inputs)
    channels = (signature.ending_subscripts() & others) - signature.tied
    if not channels and known.outer:
        return None  # an outer product, as of positions with rotary frequencies
    own = {axis[0]: size for axis, size in zip(axes, shape, strict=True) if len(axis) == 1}
    return Reading(
        tuple(own[x] if x in own else signature.sizes[x] for x in subscripts),
        tuple(i for i, x in enumerate(subscripts) if x in channels),
    )


def _initializers(graph: onnx.GraphProto, in_function: bool) -> dict[str, _Value]:
    result: dict[str, _Value] = {t.name: Constant(t.name, graph, t, in_function) for t in graph.initializer}
    for sparse in graph.sparse_initializer:
        result[sparse.values.name] = Constant(sparse.values.name, graph, sparse, in_function)
    return result


def _results(node: onnx.NodeProto, values: list[_Value], body: _Body) -> Sequence[_Value]:
    """What is known of a node's outputs: constants, and constants whose elements were moved about."""
    if is_constant(node.op_type, node.domain):
        return [_constant(node, body.in_function)]
    inputs = {name: value for name, value in zip(node.input, values, strict=True) if name}
    if not inputs or any(value is None for value in inputs.values()):
        return []
    known = REGISTRY.facets(node.domain, node.op_type, body.opset)
    if is_alias(node.op_type, node.domain) or _casts_to_float(node, known.element_type):
        return values[:1]
    rule = REGISTRY.find(node.domain, node.op_type, body.opset)
    moves = rule is not None and rule.family in _MOVING and known.from_shape is None
    return _moved(node, inputs, body.opset) if moves else []


def _constant(node: onnx.NodeProto, in_function: bool) -> _Value:
    for attribute in node.attribute:
        if attribute.name == "value":
            return Constant(node.output[0], attribute, attribute.t, in_function)
        if attribute.name == "sparse_value":
            return Constant(node.output[0], attribute, attribute.sparse_tensor, in_function)
        if attribute.name in ("value_int", "value_ints"):
            return np.array(helper.get_attribute_value(attribute), np.int64)
    return None


def _casts_to_float(node: onnx.NodeProto, attribute: str) -> bool:
    return any(
        attribute and a.name == attribute and is_float(TensorProto(data_type=a.i)) for a in node.attribute
    )


def _moved(node: onnx.NodeProto, inputs: Mapping[str, _Value], opset: int) -> Sequence[_Value]:
    """Execute the node on places, once per float constant that takes part, or on small integers."""
    constants = {id(c.proto): c for value in inputs.values() for c, _ in _parts(value)}
    if len(constants) > MOST_JOINED:
        return []
    if not constants:
        return list(
            _executed(node, {name: _integers(value) for name, value in inputs.items()}, _SMALL, opset)
        )
    most = 2 * sum(constant.size for constant in constants.values())
    columns = []
    for constant in constants.values():
        arrays = {name: _seen(value, constant) for name, value in inputs.items()}
        columns.append([(constant, out) for out in _executed(node, arrays, most, opset)])
    return [_Moved(parts) for parts in zip(*columns, strict=True)]


def _parts(value: _Value) -> Iterable[tuple[Constant, np.ndarray | None]]:
    if isinstance(value, _Moved):
        return value.parts
    real = isinstance(value, CodedConstant) or (isinstance(value, Constant) and is_float(value.tensor))
    return [(value, None)] if isinstance(value, Constant) and real else []


def _places(constant: Constant) -> np.ndarray:
    size = constant.size
    return np.arange(1, size + 1, dtype=np.int32 if size < 2**31 - 1 else np.int64).reshape(constant.shape)


def _integers(value: _Value) -> np.ndarray | None:
    if isinstance(value, Constant):
        return value.load() if value.size <= _SMALL else None
    return value if isinstance(value, np.ndarray) else None


def _seen(value: _Value, constant: Constant) -> np.ndarray | None:
    """Where a constant's elements are in a value: 0 for those of others; integers as they are."""
    parts = list(_parts(value))
    if not parts:
        return _integers(value)
    for own, places in parts:
        if own.proto is constant.proto:
            return _places(own) if places is None else places
    other, places = parts[0]
    return np.zeros(other.shape if places is None else places.shape, np.int32)


def _executed(
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
