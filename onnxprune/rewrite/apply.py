"""Apply a replayed removal: slice constants, repair attributes and shape inputs, drop what nobody reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from math import gcd

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxprune.analysis.axes import joined
from onnxprune.analysis.replay import Cut, Removal, Replayed, Rescale
from onnxprune.analysis.trace import Trace
from onnxprune.model.carry import to_graph, to_model
from onnxprune.model.collection import uncollected
from onnxprune.model.graph import Network, Stored, network
from onnxprune.rules.signature import Fix


@uncollected
def apply(model: onnx.ModelProto, removal: Removal) -> onnx.ModelProto:
    """Return a copy of the model with the removal carried out; the argument is not changed."""
    traced, replayed = removal.traced, removal.replayed
    graph = to_graph(model)
    writer = _Writer(network(graph, traced.network.opsets))
    for cut in replayed.cuts:
        writer.replace(cut.step, cut.slot.operand, sliced(cut))
    for name in traced.shared:
        writer.replace_shared(name, _shared_values(traced, replayed, name))
    for number, fix in replayed.fixes:
        writer.fix(number, fix)
    writer.write_constants()
    for rescale in replayed.rescales:
        writer.rescale(rescale)
    _update_shapes(graph, traced, replayed)
    writer.update_aliases()
    orphans = writer.orphans()
    if orphans:
        _drop_dead(graph, orphans)
    return to_model(graph, model)


def sliced(cut: Cut) -> np.ndarray:
    """Return the values of a constant that one use of it keeps."""
    values = cut.slot.stored.values
    axes = cut.slot.axes
    subscripts = joined(axes, range(len(axes)))
    simple = all(len(block.subscripts) == 1 and (block.subscripts[0],) in axes for block, _ in cut.picks)
    if simple and all(subscripts.count(block.subscripts[0]) == 1 for block, _ in cut.picks):
        for block, coords in cut.picks:
            values = np.take(values, coords[block.subscripts[0]], axis=axes.index((block.subscripts[0],)))
        return values
    grid = values.reshape([cut.full[x] for x in subscripts])
    index = tuple(index_along(x, subscripts, cut) for x in subscripts)
    picked = grid[tuple(np.broadcast_arrays(*index))]
    kept = [int(np.prod([cut.sizes[x] for x in axis], dtype=np.int64)) for axis in axes]
    return picked.reshape(kept)


def index_along(subscript: str, subscripts: tuple[str, ...], cut: Cut) -> np.ndarray:
    """Return the places that a cut keeps along one subscript, with a dimension for each subscript."""
    for block, coords in cut.picks:
        if subscript in block.subscripts:
            own = [x for x in subscripts if x in block.subscripts]
            array = coords[subscript].transpose([block.subscripts.index(x) for x in own])
            return array[tuple(slice(None) if x in own else None for x in subscripts)]
    return np.arange(cut.full[subscript]).reshape([-1 if x == subscript else 1 for x in subscripts])


def _shared_values(traced: Trace, replayed: Replayed, name: str) -> np.ndarray | None:
    kept = replayed.tensors.get(name)
    if kept is None or all(c is None for c in kept.coords):
        return None
    values = traced.network.stored[name].values
    for factor, coords in zip(traced.shared[name].factors, kept.coords, strict=True):
        if coords is not None:
            values = np.take(values, coords[0], axis=factor.axes[0])
    return values


class _Writer:
    """Collects new values per use of a constant, then writes them, un-sharing where they differ."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.nodes = list(net.nodes)
        self.new: dict[str, list[tuple[int, int, np.ndarray]]] = defaultdict(list)
        self.whole: dict[str, np.ndarray] = {}
        self.cut_off: set[str] = set()
        self.taken = {t.name for node in net.nodes for t in (*node.inputs, *node.outputs)} | set(net.stored)
        self.taken |= {node.name for node in net.nodes}

    def replace(self, number: int, place: int, values: np.ndarray) -> None:
        stored = self.net.root(self.nodes[number].inputs[place])
        assert stored is not None
        self.new[stored.name].append((number, place, values))

    def replace_shared(self, name: str, values: np.ndarray | None) -> None:
        if values is not None:
            self.whole[name] = values

    def fix(self, number: int, fix: Fix) -> None:
        node = self.nodes[number]
        if isinstance(fix.where, str):
            if fix.value is None:
                node.attrs.pop(fix.where, None)
            else:
                node.attrs[fix.where] = fix.listed()
            return
        if fix.where >= len(node.inputs) or not node.inputs[fix.where].name:
            self._add_input(node, fix)
            return
        stored = self.net.root(node.inputs[fix.where])
        if stored is None:
            self._replace_computed(node, fix.where, np.asarray(fix.value, dtype=np.int64))
            return
        old = np.asarray(stored.values)
        values = np.asarray(fix.value, dtype=old.dtype)
        if not isinstance(fix.value, np.ndarray):
            values = values.reshape(old.shape) if values.size == old.size else values.ravel()
        self.replace(number, fix.where, values)

    def _replace_computed(self, node: gs.Node, place: int, values: np.ndarray) -> None:
        """Put a constant where the model computes one from constants."""
        old = node.inputs[place]
        dtype = np.int64 if old.dtype is None else old.dtype
        node.inputs[place] = gs.Constant(self._name(f"{old.name}_kept"), values.astype(dtype))
        self.cut_off.add(old.name)

    def _add_input(self, node: gs.Node, fix: Fix) -> None:
        assert isinstance(fix.where, int)
        while len(node.inputs) <= fix.where:
            node.inputs.append(gs.Variable.empty())
        name = self._name(f"{node.outputs[0].name}_sizes")
        node.inputs[fix.where] = gs.Constant(name, np.asarray(fix.value, dtype=np.int64))

    def _name(self, base: str) -> str:
        name, count = base, 0
        while name in self.taken:
            count += 1
            name = f"{base}_{count}"
        self.taken.add(name)
        return name

    def write_constants(self) -> None:
        for name, values in self.whole.items():
            self._store(self.net.stored[name], values)
        for name, uses in self.new.items():
            first = uses[0][2]
            every = len(self.net.uses.get(name, ())) == len(uses)
            if every and all(_equal(first, values) for _, _, values in uses[1:]):
                self._store(self.net.stored[name], first)
                continue
            self._unshare(name, uses, keep_first=every)

    def _unshare(self, name: str, uses: list[tuple[int, int, np.ndarray]], keep_first: bool) -> None:
        made: list[tuple[np.ndarray, gs.Tensor]] = []
        for number, place, values in uses:
            tensor = next((t for v, t in made if _equal(v, values)), None)
            if tensor is None and keep_first and not made:
                stored = self.net.stored[name]
                self._store(stored, values)
                tensor = stored.node.outputs[0] if stored.node is not None else stored.tensor
                made.append((values, tensor))
            elif tensor is None:
                tensor = gs.Constant(self._name(f"{name}_kept"), np.asarray(values, order="C"))
                made.append((values, tensor))
            self.nodes[number].inputs[place] = tensor

    def _store(self, stored: Stored, values: np.ndarray) -> None:
        values = np.asarray(values, order="C")
        if stored.tensor is not None:
            stored.tensor.values = values
            return
        assert stored.node is not None
        stored.node.attrs.clear()
        stored.node.attrs["value"] = gs.Constant(self._name(f"{stored.name}_value"), values)

    def update_aliases(self) -> None:
        """Give what is another name of a constant the shape that the constant has now."""
        changed = {name for name in (*self.new, *self.whole) if self.net.stored[name].literal is None}
        for node in self.net.nodes:
            for tensor in node.outputs:
                root = self.net.roots.get(tensor.name)
                if root in changed and tensor.shape:
                    tensor.shape = list(self.net.stored[root].shape)

    def rescale(self, rescale: Rescale) -> None:
        """Insert the exact factor between a run-time value and the node that reads it."""
        node = self.nodes[rescale.step]
        source = node.inputs[rescale.operand]
        place = next(i for i, other in enumerate(self.net.graph.nodes) if other is node)
        made: list[gs.Node] = []

        def add(op: str, *inputs: gs.Tensor, **attrs: int) -> gs.Tensor:
            result = gs.Variable(self._name(f"{source.name}_scaled"), dtype=inputs[-1].dtype)
            name = self._name(f"{node.name or source.name}_{op}")
            made.append(gs.Node(op, name, attrs, inputs=list(inputs), outputs=[result]))
            return result

        def constant(values: np.ndarray) -> gs.Tensor:
            return gs.Constant(self._name(f"{source.name}_factor"), values)

        value = add("Shape", source) if rescale.recounts else source
        for op, factor in factors(rescale):
            value = add(op, value, constant(factor))
        if rescale.recounts:
            zero, one = constant(np.asarray(0)), constant(np.asarray(1))
            value = add("Reshape", add("Range", zero, add("ReduceProd", value, keepdims=0), one), value)
        node.inputs[rescale.operand] = value
        self.net.graph.nodes[place:place] = made

    def orphans(self) -> set[str]:
        """Return the tensors that may have lost their last reader."""
        return self.cut_off | {alias for alias, root in self.net.roots.items() if root in self.new}


def factors(rescale: Rescale) -> Iterable[tuple[str, np.ndarray]]:
    """Return the operators, with their exact factors, that turn the value now into the one wanted.

    Those of an index that counts again are for its shape.
    """
    before, after = rescale.before, rescale.after
    if rescale.recounts:
        before, after = np.asarray(before.shape), np.asarray(after.shape)
    if before.dtype.kind not in "iu":
        return [("Mul", np.asarray(after / before, dtype=before.dtype))]
    divisors = np.asarray(
        [gcd(int(b), int(a)) or 1 for b, a in zip(before.ravel(), after.ravel(), strict=True)]
    )
    num = (after.ravel() // divisors).reshape(before.shape).astype(before.dtype)
    den = (before.ravel() // divisors).reshape(before.shape).astype(before.dtype)
    den = np.where(den == 0, 1, den).astype(before.dtype)
    steps = [("Mul", num)] if (num != 1).any() else []
    return [*steps, ("Div", den)] if (den != 1).any() else steps


def _equal(left: np.ndarray, right: np.ndarray) -> bool:
    return left.shape == right.shape and np.array_equal(left, right)


def _update_shapes(graph: gs.Graph, traced: Trace, replayed: Replayed) -> None:
    interface = {t.name for t in (*graph.inputs, *graph.outputs)}
    for node in graph.nodes:
        for tensor in node.outputs:
            kept = replayed.tensors.get(tensor.name)
            before = traced.tensors.get(tensor.name)
            if kept is None or before is None or tensor.name in interface or not tensor.shape:
                continue
            if kept.shape != before.shape and len(tensor.shape) == len(kept.shape):
                tensor.shape = [
                    new if new != old else dim
                    for dim, old, new in zip(tensor.shape, before.shape, kept.shape, strict=True)
                ]


def _drop_dead(graph: gs.Graph, candidates: set[str]) -> None:
    """Remove the nodes whose readers now read something else, and what only they read."""
    while True:
        used = {t.name for node in graph.nodes for t in node.inputs} | {t.name for t in graph.outputs}
        used |= network(graph, {}).captured
        unread = candidates - used
        removed = [n for n in graph.nodes if {t.name for t in n.outputs} <= unread]
        if not removed:
            return
        candidates = candidates | {t.name for n in removed for t in n.inputs}
        gone = {id(n) for n in removed}
        graph.nodes[:] = [n for n in graph.nodes if id(n) not in gone]
