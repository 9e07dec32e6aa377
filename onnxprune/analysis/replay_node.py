"""The replay of one node: what arrives is checked and passed on, constants are cut, values repaired."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.analysis.means import follow_mean, note_sum
from onnxprune.analysis.node_inputs import NodeInputs
from onnxprune.analysis.output_selections import output_selections
from onnxprune.analysis.records import Met, Slot
from onnxprune.analysis.replay_state import Cut, Kept, ReplayState
from onnxprune.analysis.trace import Step
from onnxprune.rules.signature import Fix, Shrunk


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
