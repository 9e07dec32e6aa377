"""Replay: run a removal through the shrunk graph and check every place where labels meet.

A tensor of the shrunk graph is claimed to be an ordered selection of the original's elements; the
replay carries that selection along. Producers start with what survives, movement is executed on
the selections, and where operands meet both must select the same places in the same order. What is
pinned must be there: a subgraph, say, reads tensors that no node of the graph is given. It needs no
weights. What it finds on the way is what the rewrite does: the slices of every constant,
the repaired attributes and shape inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.analysis.constants import evaluate
from onnxprune.analysis.labels import Met, Slot
from onnxprune.analysis.node_inputs import NodeInputs
from onnxprune.analysis.output_selections import output_selections
from onnxprune.analysis.replay_state import (
    ClashError,
    Conflict,
    Cut,
    Kept,
    Mean,
    Replayed,
    ReplayState,
    Rescale,
)
from onnxprune.analysis.trace import Step, Trace
from onnxprune.analysis.units import Units
from onnxprune.rules.signature import Arithmetic, Fix, Pinned, Shrunk
from onnxprune.rules.values import Known

CLOSE = 1e-6


def note_sum(arrived: NodeInputs) -> None:
    """Remember how many elements a node adds up, before and after the removal."""
    step, signature = arrived.step, arrived.signature
    axes = signature.inputs[0] if signature.inputs else None
    if step.facets.arithmetic is not Arithmetic.TOTAL or axes is None:
        return
    gone = {x for axis in axes for x in axis} - signature.kept_subscripts()
    before = int(np.prod([arrived.met.sizes[x] for x in gone], dtype=np.int64))
    after = int(np.prod([arrived.sizes[x] for x in gone], dtype=np.int64))
    if before != after:
        arrived.shadow.sums[step.node.outputs[0].name] = (before, after)


def follow_mean(arrived: NodeInputs) -> dict[int, np.ndarray]:
    """Repair the divisor of a sum over a pruned axis; return what run-time values must be, by input."""
    step, shadow = arrived.step, arrived.shadow
    divides = step.facets.arithmetic is Arithmetic.QUOTIENT
    if not shadow.sums or not (divides or step.facets.arithmetic is Arithmetic.PRODUCT):
        return {}
    for place, other in ((0, 1), (1, 0)):
        counts = shadow.sums.get(step.node.inputs[place].name)
        value = step.site.value(other)
        if counts is None or value is None or value.size != 1 or value.dtype.kind != "f":
            continue
        if divides and place == 1:
            continue
        before, after = counts
        if (
            abs(float(value.ravel()[0]) * (1.0 if divides else before) / (before if divides else 1.0) - 1.0)
            > CLOSE
        ):
            continue
        factor = after / before if divides else before / after
        shadow.result.means.append(Mean(step.number, other, factor))
        new = (value.astype(np.float64) * factor).astype(value.dtype)
        if step.node.inputs[other].name in shadow.known:
            return {other: new}
        shadow.result.fixes.append((step.number, Fix(other, tuple(new.ravel().tolist()))))
    return {}


def replay_node(shadow: ReplayState, step: Step, met: Met) -> None:
    """Replay a node whose labels met.

    Raises ClashError where the shrunk node would not compute what the masked original does.
    """
    arrived = NodeInputs(shadow, step, met)
    outputs = output_selections(arrived)
    for slot in met.slots:
        _cut(arrived, slot)
    changed = arrived.sizes != met.sizes or any(ref is not None for _, ref in arrived.refs)
    at_run_time = any(t.name in shadow.known for t in step.node.inputs)
    fixed = _repair(arrived, outputs) if changed or at_run_time else {}
    note_sum(arrived)
    shadow.require_values(step, fixed | follow_mean(arrived))
    if changed:
        shadow.result.sizes[step.number] = arrived.sizes
        shadow.result.refs[step.number] = arrived.refs
    for tensor, kept in zip(step.node.outputs, outputs, strict=False):
        if tensor.name and kept is not None:
            shadow.result.tensors[tensor.name] = kept


def _cut(arrived: NodeInputs, slot: Slot) -> None:
    picks = []
    for entry in slot.entries:
        coords = arrived.block(entry.block)
        if coords is not None:
            picks.append((entry.block, coords))
    if picks:
        cut = Cut(arrived.step.number, slot, tuple(picks), arrived.sizes, arrived.met.sizes)
        arrived.shadow.result.cuts.append(cut)


def _repair(arrived: NodeInputs, outputs: Sequence[Kept | None]) -> dict[int, np.ndarray]:
    """Record the fixes of stored values; return what run-time values must be, by input."""
    shadow, step, repair = arrived.shadow, arrived.step, arrived.met.signature.repair
    if repair is None:
        return {}
    inputs = tuple(
        None if o is None else o.labelled.shape if o.stored is not None else shadow.kept(o.tensor).shape
        for o in step.operands
    )
    shapes = tuple(None if k is None else k.shape for k in outputs)
    fixed: dict[int, np.ndarray] = {}
    for fix in repair(step.site, Shrunk(arrived.sizes, inputs, shapes, arrived.picked)):
        place = fix.where
        if isinstance(place, int) and place < len(step.node.inputs):
            now = shadow.known.get(step.node.inputs[place].name)
            if now is not None:
                wanted = np.asarray(fix.value)
                shaped = isinstance(fix.value, np.ndarray)
                fixed[place] = wanted if shaped else wanted.reshape(now.value.shape)
                continue
        if _changes(step, fix):
            shadow.result.fixes.append((step.number, fix))
    return fixed


def _changes(step: Step, fix: Fix) -> bool:
    if isinstance(fix.where, str):
        return step.site.attrs.get(fix.where) != fix.listed()
    before = step.site.value(fix.where)
    return before is None or not np.array_equal(np.ravel(before), np.ravel(np.asarray(fix.value)))


NO_CHANNELS = "its axis holds no channels"


@dataclass(frozen=True)
class Removal:
    """What goes from a graph, and the replay that carries it through.

    removed: booleans by unit; alive: booleans by label.
    """

    traced: Trace
    removed: np.ndarray
    alive: np.ndarray
    replayed: Replayed

    @staticmethod
    def of(units: Units, removed: np.ndarray) -> Removal:
        """Replay a removal.

        removed: booleans by unit, closed over parents and children.
        """
        alive = units.alive(removed)
        return Removal(units.traced, removed, alive, replay(units.traced, alive))


def replay(traced: Trace, alive: np.ndarray) -> Replayed:
    """Run a removal through the graph.

    alive: booleans by label, false for what is removed.
    """
    return _Replayer(traced, alive).run()


class _Replayer:
    def __init__(self, traced: Trace, alive: np.ndarray) -> None:
        self.traced = traced
        self.shadow = ReplayState(traced, alive)
        self.unknown: set[str] = set()
        self.interface = {tensor.name for tensor in traced.network.graph.outputs}

    def run(self) -> Replayed:
        for labels, pin in self.traced.book.broken(self.shadow.alive):
            reason = f"a channel of '{pin.tensor}' is removed that stays: {pin.reason or NO_CHANNELS}"
            self.shadow.result.conflicts.append(Conflict(pin.node, reason, labels))
        for name, labelled in self.traced.shared.items():
            self.shadow.result.tensors[name] = self.shadow.natural(labelled)
        for step in self.traced.steps:
            if any(o is not None and o.tensor in self.unknown for o in step.operands):
                self._lose(step)
                continue
            try:
                self._step(step)
            except ClashError as clash:
                self.shadow.result.conflicts.append(Conflict(step.site.name, str(clash), clash.labels))
                self._lose(step)
        for tensor in self.traced.network.graph.outputs:
            self._check_output(tensor.name)
        return self.shadow.result

    def _lose(self, step: Step) -> None:
        """Forget what a node makes, but for what it makes itself, whatever arrives.

        A layer behind a clash so reports clashes of its own in the same pass; one pass for each layer
        made the time of a plan quadratic.
        """
        for place, tensor in enumerate(step.node.outputs):
            if step.met is not None and _is_produced(step.met, place):
                kept = self.shadow.natural(step.met.outputs[place])
                if 0 not in kept.shape:
                    self.shadow.result.tensors[tensor.name] = kept
                    continue
            self.unknown.add(tensor.name)

    def _check_output(self, name: str) -> None:
        if name in self.unknown or name not in self.traced.tensors:
            return
        labelled, kept = self.traced.tensors[name], self.shadow.kept(name)
        if kept.shape != labelled.shape or any(c is not None for c in kept.coords):
            labels = np.concatenate([f.labels.ravel() for f in labelled.factors])
            self.shadow.result.conflicts.append(Conflict("", f"the graph output '{name}' changes", labels))

    def _step(self, step: Step) -> None:
        if isinstance(step.verdict, tuple):
            self._evaluate(step, step.verdict)
            return
        if isinstance(step.verdict, Pinned) or step.met is None:
            self._require_whole(step)
            self.shadow.require_values(step, {})
            return
        replay_node(self.shadow, step, step.met)

    def _evaluate(self, step: Step, before: tuple[Known, ...]) -> None:
        node = step.node
        if not any(value.derived for value in before):
            return
        if step.facets.from_shape is not None:
            stored = self.traced.network.root(node.inputs[0])
            shape = self.shadow.kept(node.inputs[0].name if stored is None else stored.name).shape
            shape = stored.shape if stored is not None and stored.name not in self.traced.shared else shape
            now = step.facets.from_shape(Known.dims(shape), node.attrs)
            self.shadow.known[node.outputs[0].name] = now
            if node.outputs[0].name in self.interface and not np.array_equal(now.value, before[0].value):
                self._require_whole(step)
            return
        if any(
            t.name in self.interface for t in node.outputs
        ):  # from the inputs' old values it makes its own
            self.shadow.require_values(step, {})
            self.shadow.known |= {t.name: v for t, v in zip(node.outputs, before, strict=True)}
            return
        inputs = [self._value(step, i) if t.name else None for i, t in enumerate(node.inputs)]
        found = evaluate(step.facets.evaluate, node.attrs, inputs, len(node.outputs))
        if found is None:
            labels = self.traced.labels_behind(node.outputs[0].name)
            raise ClashError("a value computed from shapes is lost", labels)
        for tensor, value in zip(node.outputs, found, strict=True):
            self.shadow.known[tensor.name] = value
            self.shadow.result.tensors[tensor.name] = Kept(value.value.shape, ())

    def _value(self, step: Step, place: int) -> Known | None:
        name = step.node.inputs[place].name
        if name in self.shadow.known:
            return self.shadow.known[name]
        value = step.site.value(place)
        marks = step.site.marks[place]
        return None if value is None or marks is None else Known(value, marks)

    def _require_whole(self, step: Step) -> None:
        for operand in step.operands:
            if operand is None:
                continue
            kept = self.shadow.kept(operand.tensor)
            if operand.stored is None and any(c is not None for c in kept.coords):
                labels = np.concatenate([f.labels.ravel() for f in operand.labelled.factors])
                raise ClashError(f"{step.site.op} reads '{operand.tensor}', which changes", labels)


def _is_produced(met: Met, place: int) -> bool:
    """Tell whether all labels of an output are the node's own: channels that its weight produces."""
    own = [c.tops[0] for c in met.clusters if len(c.tops) == 1 and all(v.factor < 0 for v in c.views)]
    factors = [out for out in met.outs if out.output == place]
    return bool(factors) and all(
        len(out.axes) == 1 and out.take is None and any(out.block is block for block in own)
        for out in factors
    )


__all__ = ["Conflict", "Cut", "Kept", "Removal", "Replayed", "Rescale", "replay"]
