"""Queries on the graph: its nodes, domains, constants, declared inputs, and who reads what."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from onnxprune.model.constant import loaded
from onnxprune.model.imported import SharedValues
from onnxprune.model.mapped import HEAVY
from onnxprune.model.tensors import bits_of, is_parameter, volume

_SPELLED = "ai.onnx"


def plain(domain: str) -> str:
    """Return a domain, the standard one under its empty name."""
    return "" if domain == _SPELLED else domain


def opsets_of(holder: onnx.ModelProto | onnx.FunctionProto) -> dict[str, int]:
    """Return versions by domain, the standard one under its empty name."""
    return {plain(o.domain): o.version for o in holder.opset_import}


STANDARD = ("", "ai.onnx")


def is_constant(op: str, domain: str | None) -> bool:
    """Tell whether a node of this type holds a tensor (https://onnx.ai/onnx/operators/onnx__Constant.html)."""
    return op == "Constant" and (domain or "") in STANDARD


def is_alias(op: str, domain: str | None) -> bool:
    """Tell whether a node of this type is a name of its input and no more."""
    return op == "Identity" and (domain or "") in STANDARD


def held_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Return the dense tensor that a Constant node holds; None for other nodes and other attributes."""
    if not is_constant(node.op_type, node.domain):
        return None
    return next((a.t for a in node.attribute if a.name == "value" and a.HasField("t")), None)


@dataclass(frozen=True)
class ValueInfo:
    """ONNX element type and concrete shape of a tensor; shape None where it is not known."""

    dtype: int
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class InputSpec:
    """Declared type of a graph input: dims None for an unknown rank, one dim None for a nameless one."""

    name: str
    dtype: int
    dims: tuple[int | str | None, ...] | None


def input_specs(model: onnx.ModelProto) -> dict[str, InputSpec]:
    """Inputs a caller must feed: those that are no initializers, in their order."""
    constants = {t.name for t in model.graph.initializer}
    constants.update(s.values.name for s in model.graph.sparse_initializer)
    return {
        info.name: InputSpec(info.name, info.type.tensor_type.elem_type, declared_dims(info))
        for info in model.graph.input
        if info.name not in constants
    }


def declared_dims(info: onnx.ValueInfoProto) -> tuple[int | str | None, ...] | None:
    """Dims of a value description: a size, a symbol, or None for one that is nameless."""
    kind = info.type.tensor_type
    return tuple(_dim(d) for d in kind.shape.dim) if kind.HasField("shape") else None


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        return int(dim.dim_value)
    return str(dim.dim_param) or None


_SCALARS = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


@dataclass(frozen=True, eq=False)
class Stored:
    """A constant of the model: an initializer, or the value of a Constant node.

    place: the number of the Constant node, None for an initializer; quantized: an operator reads its
    elements as codes of real numbers, as DequantizeLinear does.
    """

    name: str
    tensor: Any
    literal: np.ndarray | None = None
    place: int | None = None
    quantized: bool = False

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Return the shape without loading the values."""
        if self.literal is not None:
            return tuple(self.literal.shape)
        return tuple(self.tensor.shape)

    @cached_property
    def is_parameter(self) -> bool:
        """Tell whether the elements count as parameters: floats, and the codes of quantised weights."""
        return is_parameter(self.data_type, len(self.shape), self.quantized)

    @property
    def data_type(self) -> int:
        """Return ONNX's number of the element type."""
        dtype = self.tensor.dtype if self.literal is None else self.literal.dtype
        return int(dtype if isinstance(dtype, int) else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    @cached_property
    def itemsize(self) -> float:
        """Return the bytes of one element; those of 4 bits take half a byte."""
        return bits_of(self.data_type) / 8

    @property
    def values(self) -> np.ndarray:
        """Load the values; those of a heavy weight are kept nowhere, as they would stay for the whole run."""
        if self.literal is not None:
            return self.literal
        heavy = volume(self.shape) * self.itemsize > HEAVY
        return self._load() if heavy else self._kept

    @cached_property
    def _kept(self) -> np.ndarray:
        return self._load()

    def _load(self) -> np.ndarray:
        lazy = self.tensor._values
        if isinstance(lazy, SharedValues):  # left unloaded: the graph's tensor would copy the values again
            return onnx.numpy_helper.to_array(lazy.source)
        if isinstance(lazy, LazyValues):
            return loaded(lazy.tensor)
        return np.asarray(self.tensor.values)


@dataclass(frozen=True, eq=False)
class Network:
    """A graph with its constants resolved to their roots, and the readers of each.

    captured: tensors that subgraphs read; inner: constants that only subgraphs hold or read.
    """

    graph: gs.Graph
    opsets: dict[str, int]
    stored: dict[str, Stored]
    roots: dict[str, str]
    uses: dict[str, list[tuple[int, int]]]
    captured: frozenset[str]
    names: tuple[str, ...] = field(default=())
    inner: tuple[Stored, ...] = field(default=())

    @property
    def nodes(self) -> list[gs.Node]:
        """Return the nodes in the order of the file."""
        return self.graph.nodes

    def root(self, tensor: gs.Tensor) -> Stored | None:
        """Return the stored constant that a tensor is, through Identity aliases, or None."""
        name = self.roots.get(tensor.name)
        return None if name is None else self.stored[name]

    def everything(self) -> list[Stored]:
        """Return all constants of the model, those of subgraphs included."""
        return [*self.stored.values(), *self.inner]

    def opset(self, domain: str) -> int:
        """Return the imported version of a domain."""
        return self.opsets.get(domain, self.opsets.get(domain or "ai.onnx", 1))


def network(graph: gs.Graph, opsets: dict[str, int]) -> Network:
    """Index a graph.

    opsets: version by domain.
    """
    stored: dict[str, Stored] = {}
    roots: dict[str, str] = {}
    uses: dict[str, list[tuple[int, int]]] = defaultdict(list)
    captured: set[str] = set()
    names = []
    for number, node in enumerate(graph.nodes):
        names.append(node.name or f"{node.op}#{number}")
        captured |= _captured(node)
        if is_constant(node.op, node.domain) and not node.inputs:
            entry = _constant(node, number)
            if entry is not None:
                stored[entry.name], roots[entry.name] = entry, entry.name
            continue
        for place, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Constant) and tensor.name not in stored:
                stored[tensor.name], roots[tensor.name] = Stored(tensor.name, tensor), tensor.name
            if tensor.name in roots:
                if is_alias(node.op, node.domain):
                    roots[node.outputs[0].name] = roots[tensor.name]
                else:
                    uses[roots[tensor.name]].append((number, place))
    inner = tuple(_inner(graph, {id(s.tensor) for s in stored.values()}))
    return Network(graph, opsets, stored, roots, dict(uses), frozenset(captured), tuple(names), inner)


def _inner(graph: gs.Graph, seen: set[int]) -> Iterator[Stored]:
    """List the constants of subgraphs that the outer graph does not read."""
    for node in graph.nodes:
        for subgraph in node.subgraphs(recursive=True):
            for inside in subgraph.nodes:
                own = _constant(inside) if is_constant(inside.op, inside.domain) else None
                held = [Stored(t.name, t) for t in inside.inputs if isinstance(t, gs.Constant)]
                for entry in [*held, *([own] if own is not None else [])]:
                    if entry.tensor is None or id(entry.tensor) not in seen:
                        seen.add(id(entry.tensor))
                        yield entry


def _constant(node: gs.Node, place: int | None = None) -> Stored | None:
    name = node.outputs[0].name
    if isinstance(node.attrs.get("value"), gs.Constant):
        return Stored(name, node.attrs["value"], place=place)
    for attr, dtype in _SCALARS.items():
        if attr in node.attrs:
            return Stored(name, None, np.asarray(node.attrs[attr], dtype=dtype), place)
    return None


def _captured(node: gs.Node) -> set[str]:
    names: set[str] = set()
    for value in node.attrs.values():
        graphs = value if isinstance(value, list) else [value]
        for graph in graphs:
            if isinstance(graph, gs.Graph):
                for inner in graph.nodes:
                    names |= {t.name for t in inner.inputs} | _captured(inner)
                names |= {t.name for t in graph.outputs}
    return names
