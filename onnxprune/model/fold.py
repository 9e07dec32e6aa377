"""Tensors that the graph computes from its constants alone: found, bounded, and stored in their place.

The bounds are on sizes that follow from the stored shapes, so that nothing is computed to learn them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from onnxprune.errors import UnprovedError
from onnxprune.model.graph import ValueInfo, is_alias, is_constant
from onnxprune.model.patch import IR_WITHOUT_INPUT_INITIALIZERS, Patch
from onnxprune.model.runtime import open_session, run, runtime_errors
from onnxprune.model.tensors import FLOATS, bits_of, copy_except, graph_nodes, raw_size, volume, weightless

WIDER = 4  # times the bytes of the constants that it is computed from: the most that a tensor may have
SPARE = 1 << 16  # bytes that it may have besides
MOST = 1 << 30  # bytes that it may have at all

Repeatable = Callable[[NodeProto], bool]


class FoldedTensor(msgspec.Struct, frozen=True):
    """A tensor that is stored now, the nodes that computed it, and the constants that they read."""

    tensor: str
    nodes: tuple[str, ...]
    constants: tuple[str, ...]


@dataclass(frozen=True)
class Folded:
    """A model, and the tensors that are stored in it instead of being computed."""

    model: onnx.ModelProto
    tensors: tuple[FoldedTensor, ...] = ()


class ConstantPart:
    """The nodes of the main graph whose outputs follow from its constants alone, within the bounds.

    repeatable: which nodes compute from their inputs alone. Constants that callers may replace, being inputs
    of the graph as well, are none here.
    """

    def __init__(self, model: onnx.ModelProto, repeatable: Repeatable) -> None:
        self.model = model
        self._sizes = _constant_sizes(model)
        self._makers: dict[str, int] = {}
        for place, node in enumerate(model.graph.node):
            read = [name for name in node.input if name]
            if read and repeatable(node) and all(n in self._sizes or n in self._makers for n in read):
                self._makers |= {name: place for name in node.output if name}
        self._info: Mapping[str, ValueInfo] = {}
        if self._ends():
            self._info = _inferred(model, sorted(set(self._makers.values())), set(self._sizes))
            self._bound()

    # --- what there is

    @cached_property
    def _readers(self) -> Mapping[str, tuple[int, ...]]:
        """The nodes that read a tensor, -1 for an output of the graph; those of subgraphs count as theirs."""
        found: dict[str, list[int]] = defaultdict(list)
        for place, node in enumerate(self.model.graph.node):
            for inner in graph_nodes([node]):
                for name in inner.input:
                    found[name].append(place)
            for name in _handed_out(node):
                found[name].append(place)
        for info in self.model.graph.output:
            found[info.name].append(-1)
        return {name: tuple(places) for name, places in found.items()}

    @cached_property
    def _inside(self) -> frozenset[int]:
        return frozenset(self._makers.values())

    def _ends(self) -> list[str]:
        """Tensors of this part that other nodes read, in the order of the file."""
        inside = set(self._makers.values())
        return [n for n in self._makers if any(r not in inside for r in self._readers.get(n, ()))]

    def _bound(self) -> None:
        """Leave out nodes whose outputs are of unknown size or too large, and what is computed from them."""
        limits = self._limits()
        kept: dict[str, int] = {}
        left_out: set[int] = set()
        for name, place in self._makers.items():
            node = self.model.graph.node[place]
            computed = all(n in self._sizes or n in kept for n in node.input if n)
            size = self._bytes(name)
            if not computed or place in left_out or size is None or size > limits[place]:
                left_out.add(place)
            else:
                kept[name] = place
        self._makers = {name: place for name, place in kept.items() if place not in left_out}

    def _limits(self) -> dict[int, int]:
        """The most bytes of an output, by node: those of the constants behind it and its neighbours."""
        roots = {place: place for place in self._makers.values()}

        def root(place: int) -> int:
            while roots[place] != place:
                roots[place] = roots[roots[place]]
                place = roots[place]
            return place

        for place in list(roots):
            for name in self.model.graph.node[place].input:
                if name in self._makers:
                    roots[root(self._makers[name])] = root(place)
        read: dict[int, set[str]] = defaultdict(set)
        for place in roots:
            read[root(place)].update(n for n in self.model.graph.node[place].input if n in self._sizes)
        total = {r: sum(self._sizes[n] for n in names) for r, names in read.items()}
        return {p: min(MOST, WIDER * total.get(root(p), 0) + SPARE) for p in roots}

    def _bytes(self, name: str) -> int | None:
        if name in self._sizes:
            return self._sizes[name]
        info = self._info.get(name)
        if info is None or info.shape is None or info.dtype in (TensorProto.UNDEFINED, TensorProto.STRING):
            return None
        return (volume(info.shape) * bits_of(info.dtype) + 7) // 8

    @cached_property
    def _first(self) -> Mapping[str, str]:
        """By tensor, the first one that is computed in the same way."""
        names: dict[tuple[object, ...], str] = {}
        first: dict[str, str] = {}
        for name, place in self._makers.items():
            node = self.model.graph.node[place]
            how = tuple(a.SerializeToString(deterministic=True) for a in node.attribute)
            read = tuple(first.get(n, n) for n in node.input)
            key = (node.op_type, how, read, list(node.output).index(name), len(node.output))
            first[name] = names.setdefault(key, name)
        return first

    # --- what may be stored

    def candidates(self) -> tuple[str, ...]:
        """Return the tensors of floats that nodes outside of this part read and that may be stored."""
        return self.bounded(name for name in self._ends() if self._is_weight(name))

    def _is_weight(self, name: str) -> bool:
        info = self._info[name]
        several = info.shape is not None and volume(info.shape) > 1
        return several and info.dtype in FLOATS and -1 not in self._readers[name] and not self._is_name(name)

    def _is_name(self, name: str) -> bool:
        """Whether a tensor is a constant under another name, which everybody sees through."""
        while name in self._makers:
            node = self.model.graph.node[self._makers[name]]
            if not is_alias(node.op_type, node.domain):
                return False
            name = node.input[0]
        return True

    def bounded(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return those of these tensors that may be stored, in the order of the file.

        A tensor must take no more bytes than its part of the constants that nobody reads any more then: the
        file does not grow, and a constant with other readers stays tied to them.
        """
        wanted = set(names)
        chosen = [name for name in self._makers if name in wanted]
        while True:
            left = [name for name in chosen if self._is_free(name, chosen)]
            if len(left) == len(chosen):
                left = self._paid(chosen)
            if len(left) == len(chosen):
                return tuple(chosen)
            chosen = left

    def _is_free(self, name: str, chosen: list[str]) -> bool:
        """Whether the node that makes a tensor makes nothing else that would still be read."""
        node = self.model.graph.node[self._makers[name]]
        return all(n == name or n in chosen or not self._readers.get(n) for n in node.output)

    def _paid(self, chosen: list[str]) -> list[str]:
        """Those of the tensors that take no more bytes than their part of what is no longer read."""
        unneeded = self._unneeded(chosen)
        held = set(chosen)
        own = {name: self._sources(name, held) for name in chosen if self._first[name] not in held - {name}}
        claims: dict[str, int] = defaultdict(int)
        for name, sources in own.items():
            for source in sources:
                claims[source] += self._bytes(name) or 0
        gone = {s for s in claims if s not in held and all(r in unneeded for r in self._readers[s])}
        kept = []
        for name in chosen:
            size = self._bytes(name) or 0
            room = sum(self._sizes[s] * size / max(claims[s], 1) for s in own.get(name, ()) if s in gone)
            if name not in own or size <= room + 0.5:
                kept.append(name)
        return kept

    def _unneeded(self, chosen: list[str]) -> frozenset[int]:
        """The nodes of this part that nobody needs once these tensors are stored."""
        held, waiting = set(chosen), [n for n in self._ends() if n not in set(chosen)]
        read: set[int] = set()
        while waiting:
            name = waiting.pop()
            place = self._makers.get(name)
            if name not in held and place is not None and place not in read:
                read.add(place)
                waiting += self.model.graph.node[place].input
        return self._inside - read

    def _sources(self, name: str, held: set[str]) -> set[str]:
        """The constants, and the tensors that are stored now, that a tensor is computed from."""
        return {
            n
            for place in self._behind(name, held)
            for n in self.model.graph.node[place].input
            if n in self._sizes or (n in held and n != name)
        }

    def _behind(self, name: str, held: set[str]) -> list[int]:
        """The nodes that compute a tensor, in order; those behind stored ones are left out."""
        found: set[int] = set()
        waiting = [name]
        while waiting:
            now = waiting.pop()
            place = self._makers.get(now)
            if place is not None and place not in found and (now == name or now not in held):
                found.add(place)
                waiting += self.model.graph.node[place].input
        return sorted(found)

    # --- storing

    def stored(self, names: Iterable[str]) -> Folded:
        """Store tensors in a copy of the model; what onnxruntime cannot compute stays as it is.

        names: of `candidates`. Nodes and constants that nobody reads any more are left out; whatever stays
        keeps its name. A tensor that is computed as another one is becomes a name of it.
        """
        values = self._values(self.bounded(names))
        chosen = self.bounded(n for n in self.bounded(names) if self._first[n] in values or n in values)
        if not chosen:
            return Folded(self.model)
        patch, held = Patch(self.model), set(chosen)
        told, unread = [], set[str]()
        for name in chosen:
            behind = self._behind(name, held)
            nodes = [self.model.graph.node[place] for place in behind]
            read = dict.fromkeys(n for node in nodes for n in node.input if n in self._sizes)
            told.append(FoldedTensor(name, tuple(node.name or node.output[0] for node in nodes), tuple(read)))
            unread.update(n for node in nodes for n in (*node.input, *node.output) if n and n not in held)
            place, first = self._makers[name], self._first[name]
            if first != name and first in held:
                node = patch.change(place)
                node.op_type = "Identity"
                node.domain = ""
                del node.input[:], node.output[:], node.attribute[:]
                node.input.append(first)
                node.output.append(name)
            else:
                patch.initializer(name, values[name])
                patch.remove(place)
        patch.remove_unread(unread)
        return Folded(patch.written(), tuple(told))

    def _values(self, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Compute tensors, those that share nodes in one run."""
        found: dict[str, np.ndarray] = {}
        for group in self._together([n for n in names if self._first[n] not in set(names) - {n}]):
            for name, values in self._computed(group).items():
                info = self._info[name]
                if values.shape == info.shape and np.isfinite(values.astype(np.float64)).all():
                    found[name] = values
        return found

    def _together(self, names: Iterable[str]) -> Iterator[list[str]]:
        """Group tensors that are computed by the same nodes."""
        groups: list[tuple[set[int], list[str]]] = []
        for name in names:
            behind, members = set(self._behind(name, set())), [name]
            rest = []
            for places, others in groups:
                if places & behind:
                    behind, members = behind | places, others + members
                else:
                    rest.append((places, others))
            groups = [*rest, (behind, members)]
        yield from (members for _, members in groups)

    def _computed(self, names: list[str]) -> dict[str, np.ndarray]:
        places = sorted({place for name in names for place in self._behind(name, set())})
        nodes = [self.model.graph.node[place] for place in places]
        read = {n for node in nodes for n in node.input if n in self._sizes}
        part = _part(self.model, nodes, read)
        part.graph.output.extend(
            helper.make_tensor_value_info(n, self._info[n].dtype, self._info[n].shape) for n in names
        )
        failures: tuple[type[Exception], ...] = (UnprovedError, *runtime_errors())
        try:
            made = run(open_session(part), {})
        except failures:
            return {}  # what it cannot run by itself stays where it is
        return {name: np.asarray(made[name]) for name in names}


def _handed_out(node: NodeProto) -> Iterator[str]:
    """Tensors that subgraphs of a node put out; outer ones among them are read so."""
    for inner in graph_nodes([node]):
        for attribute in inner.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from (info.name for info in graph.output)


def _constant_sizes(model: onnx.ModelProto) -> dict[str, int]:
    """Bytes of the constants of the main graph that no caller can replace, by name."""
    graph = model.graph
    replaceable = model.ir_version >= IR_WITHOUT_INPUT_INITIALIZERS
    fed = {info.name for info in graph.input} if replaceable else set()
    sizes = {t.name: raw_size(t) for t in graph.initializer if t.name not in fed}
    sizes |= {s.values.name: raw_size(s.values) for s in graph.sparse_initializer if s.values.name not in fed}
    for node in graph.node:
        if is_constant(node.op_type, node.domain) and len(node.output) == 1:
            held = next((a.t for a in node.attribute if a.HasField("t")), None)
            sizes[node.output[0]] = node.ByteSize() if held is None else raw_size(held)
    return sizes


def _part(model: onnx.ModelProto, nodes: Iterable[NodeProto], read: set[str]) -> onnx.ModelProto:
    """A model of some of the nodes, with the constants that they read."""
    part = onnx.ModelProto()
    copy_except(model, part, frozenset(("graph", "functions", "metadata_props")))
    part.graph.name = "part"
    held = (n for n in model.graph.node if is_constant(n.op_type, n.domain) and n.output[0] in read)
    part.graph.node.extend((*held, *nodes))
    part.graph.initializer.extend(t for t in model.graph.initializer if t.name in read)
    part.graph.sparse_initializer.extend(s for s in model.graph.sparse_initializer if s.values.name in read)
    if model.ir_version < IR_WITHOUT_INPUT_INITIALIZERS:
        part.graph.input.extend(
            helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in part.graph.initializer
        )
    return part


def _inferred(model: onnx.ModelProto, places: list[int], constants: set[str]) -> dict[str, ValueInfo]:
    """Shapes and types of what some nodes make, inferred without the bytes of weights."""
    bare = weightless(model)
    nodes = [bare.graph.node[place] for place in places]
    part = _part(bare, nodes, {n for node in nodes for n in node.input if n in constants})
    try:
        graph = onnx.shape_inference.infer_shapes(part, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError):
        return {}  # of unknown size, so nothing is folded
    found = {}
    for info in (*graph.value_info, *graph.output):
        kind = info.type.tensor_type
        known = kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim)
        shape = tuple(int(d.dim_value) for d in kind.shape.dim) if known else None
        found[info.name] = ValueInfo(kind.elem_type, shape)
    return found
