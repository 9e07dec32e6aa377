"""Replay: run a removal through the shrunk graph and check every place where labels meet.

A tensor of the shrunk graph is claimed to be an ordered selection of the original's elements; the
replay carries that selection along. Producers start with what survives, movement is executed on
the selections, and where operands meet both must select the same places in the same order. What is
pinned must be there: a subgraph, say, reads tensors that no node of the graph is given. It needs no
weights. What it finds on the way is what the rewrite does: the slices of every constant,
the repaired attributes and shape inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.analysis.constants import Known, evaluate, shape_value, size_value
from onnxprune.analysis.records import Met
from onnxprune.analysis.replay_node import replay_node
from onnxprune.analysis.replay_state import ClashError, Conflict, Cut, Kept, Replayed, ReplayState, Rescale
from onnxprune.analysis.trace import Step, Trace
from onnxprune.analysis.units import Units
from onnxprune.rules.signature import Pinned

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
        if not any(value.derived.any() for value in before):
            return
        if node.op in ("Shape", "Size"):
            shape = self.shadow.kept(node.inputs[0].name).shape
            stored = self.traced.network.root(node.inputs[0])
            shape = stored.shape if stored is not None and stored.name not in self.traced.shared else shape
            now = shape_value(shape, node.attrs) if node.op == "Shape" else size_value(shape)
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
        found = evaluate(node.op, node.attrs, inputs, len(node.outputs))
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
        derived = step.site.derived[place]
        return None if value is None or derived is None else Known(value, derived)

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
