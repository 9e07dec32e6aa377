"""Apply a replayed removal: slice constants, repair attributes and shape inputs, drop what nobody reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import gcd
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxprune.analysis.axes import joined
from onnxprune.analysis.replay import Cut, Removal, Replayed, Rescale
from onnxprune.analysis.trace import Trace
from onnxprune.model.collection import uncollected
from onnxprune.model.graph import Network, Stored
from onnxprune.model.patch import Patch
from onnxprune.rules.signature import Fix


@uncollected
def apply(model: onnx.ModelProto, removal: Removal) -> onnx.ModelProto:
    """Return a copy of the model with the removal carried out; the argument is not changed.

    model: what the trace was made of.
    """
    traced, replayed = removal.traced, removal.replayed
    writer = _Writer(Patch(model), traced.network)
    for cut in replayed.cuts:
        writer.replace(cut.step, cut.slot.operand, sliced(cut))
    for name in traced.shared:
        if any(coords is not None for coords in _shared_coords(replayed, name)):
            values = shared_values(traced, replayed, name, traced.network.stored[name].values)
            writer.replace_shared(name, values)
    for number, fix in replayed.fixes:
        writer.fix(number, fix)
    writer.write_constants()
    for rescale in replayed.rescales:
        writer.rescale(rescale)
    _update_shapes(writer.patch, traced, replayed)
    writer.update_aliases()
    orphans = writer.orphans()
    if orphans:
        writer.patch.remove_unread(orphans)
    return writer.patch.written()


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


def _shared_coords(replayed: Replayed, name: str) -> Sequence[tuple[np.ndarray, ...] | None]:
    kept = replayed.tensors.get(name)
    return () if kept is None else kept.coords


def shared_values(traced: Trace, replayed: Replayed, name: str, values: np.ndarray) -> np.ndarray:
    """Return what a removal keeps of the values of a weight with several uses, which has this name."""
    for place, coords in enumerate(_shared_coords(replayed, name)):
        if coords is not None:
            values = np.take(values, coords[0], axis=traced.shared[name].factors[place].axes[0])
    return values


class _Writer:
    """Collects new values per use of a constant, then writes them, un-sharing where they differ."""

    def __init__(self, patch: Patch, net: Network) -> None:
        self.patch, self.net = patch, net
        self.new: dict[str, list[tuple[int, int, np.ndarray]]] = defaultdict(list)
        self.whole: dict[str, np.ndarray] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.cut_off: set[str] = set()

    def _root(self, number: int, place: int) -> Stored | None:
        name = self.net.roots.get(self.patch.node(number).input[place])
        return None if name is None else self.net.stored[name]

    def replace(self, number: int, place: int, values: np.ndarray) -> None:
        stored = self._root(number, place)
        assert stored is not None
        self.new[stored.name].append((number, place, values))

    def replace_shared(self, name: str, values: np.ndarray) -> None:
        self.whole[name] = values

    def fix(self, number: int, fix: Fix) -> None:
        if isinstance(fix.where, str):
            self.patch.set_attribute(number, fix.where, fix.listed())
            return
        inputs = self.patch.node(number).input
        if fix.where >= len(inputs) or not inputs[fix.where]:
            name = self.patch.fresh(f"{self.net.nodes[number].outputs[0].name}_sizes")
            self._read(number, fix.where, name, np.asarray(fix.value, dtype=np.int64))
            return
        stored = self._root(number, fix.where)
        if stored is None:
            self._replace_computed(number, fix.where, np.asarray(fix.value, dtype=np.int64))
            return
        old = np.asarray(stored.values)
        values = np.asarray(fix.value, dtype=old.dtype)
        if not isinstance(fix.value, np.ndarray):
            values = values.reshape(old.shape) if values.size == old.size else values.ravel()
        self.replace(number, fix.where, values)

    def _replace_computed(self, number: int, place: int, values: np.ndarray) -> None:
        """Put a constant where the model computes one from constants."""
        old = self.net.nodes[number].inputs[place]
        dtype = np.int64 if old.dtype is None else old.dtype
        self._read(number, place, self.patch.fresh(f"{old.name}_kept"), values.astype(dtype))
        self.cut_off.add(old.name)

    def _read(self, number: int, place: int, name: str, values: np.ndarray) -> None:
        self.patch.set_input(number, place, self.patch.initializer(name, values))

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
        made: list[tuple[np.ndarray, str]] = []
        for number, place, values in uses:
            tensor = next((t for v, t in made if _equal(v, values)), None)
            if tensor is None:
                if keep_first and not made:
                    self._store(self.net.stored[name], values)
                    tensor = name
                else:
                    fresh = self.patch.fresh(f"{name}_kept")
                    tensor = self.patch.initializer(fresh, np.asarray(values, order="C"))
                made.append((values, tensor))
            self.patch.set_input(number, place, tensor)

    def _store(self, stored: Stored, values: np.ndarray) -> None:
        values = np.asarray(values, order="C")
        if stored.place is None:
            self.patch.set_values(stored.name, values)
        else:
            self.patch.set_constant(stored.place, values)
        if stored.literal is None:
            self.shapes[stored.name] = values.shape

    def update_aliases(self) -> None:
        """Give what is another name of a constant the shape that the constant has now."""
        for name, root in self.net.roots.items():
            if root in self.shapes and self.patch.dims(name):
                self.patch.set_dims(name, self.shapes[root])

    def rescale(self, rescale: Rescale) -> None:
        """Insert the exact factor between a run-time value and the node that reads it."""
        node = self.patch.node(rescale.step)
        source = node.input[rescale.operand]
        made: list[onnx.NodeProto] = []

        def add(op: str, *inputs: str, **attrs: Any) -> str:
            result = self.patch.fresh(f"{source}_scaled")
            name = self.patch.fresh(f"{node.name or source}_{op}")
            made.append(helper.make_node(op, inputs, [result], name, **attrs))
            return result

        def constant(values: np.ndarray) -> str:
            return self.patch.initializer(self.patch.fresh(f"{source}_factor"), values)

        value = add("Shape", source) if rescale.recounts else source
        for op, factor in factors(rescale):
            value = add(op, value, constant(factor))
        if rescale.recounts:
            zero, one = constant(np.asarray(0)), constant(np.asarray(1))
            value = add("Reshape", add("Range", zero, add("ReduceProd", value, keepdims=0), one), value)
        self.patch.set_input(rescale.step, rescale.operand, value)
        self.patch.insert(rescale.step, before=made)

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


def _update_shapes(patch: Patch, traced: Trace, replayed: Replayed) -> None:
    """Change the described dims of what has another shape now; the interface keeps its own."""
    graph = traced.network.graph
    interface = {t.name for t in (*graph.inputs, *graph.outputs)}
    for node in traced.network.nodes:
        for tensor in node.outputs:
            kept = replayed.tensors.get(tensor.name)
            before = traced.tensors.get(tensor.name)
            if kept is None or before is None or kept.shape == before.shape or tensor.name in interface:
                continue
            dims = patch.dims(tensor.name)
            if dims and len(dims) == len(kept.shape):
                pairs = zip(dims, before.shape, kept.shape, strict=True)
                patch.set_dims(tensor.name, [new if new != old else dim for dim, old, new in pairs])
