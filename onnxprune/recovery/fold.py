"""Channel-level least squares carried over into a pruned model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from onnxprune.analysis.replay import Replayed
from onnxprune.data.consumers import ActivationView, Consumer
from onnxprune.data.moments import Gram
from onnxprune.model.graph import Stored
from onnxprune.recovery.least_squares import fold, with_values
from onnxprune.rewrite.apply import sliced


def folded_into(
    pruned: onnx.ModelProto,
    evidence: tuple[Sequence[Consumer], Mapping[ActivationView, Gram]],
    removed: np.ndarray,
    replayed: Replayed,
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Let the consumers of removed channels take up what these carried; returns a copy and what changed.

    removed: booleans by unit.
    """
    readers, grams = evidence
    cuts = {(cut.step, cut.slot.operand): cut for cut in replayed.cuts}
    inputs = {node.output[0]: list(node.input) for node in pruned.graph.node}
    values: dict[str, np.ndarray] = {}
    for consumer in readers:
        found = fold(consumer, grams[consumer.view], removed)
        names = inputs.get(consumer.step.node.outputs[0].name)
        if found is None or names is None:
            continue
        parts = [(consumer.slot, found.weight)]
        if found.bias is not None and consumer.bias is not None:
            parts.append((consumer.bias, found.bias[1]))
        for slot, full in parts:
            cut = cuts.get((consumer.step.number, slot.operand))
            stored = Stored(slot.stored.name, None, full.astype(np.asarray(slot.stored.values).dtype))
            values[names[slot.operand]] = (
                sliced(replace(cut, slot=replace(slot, stored=stored))) if cut is not None else full
            )
    return with_values(pruned, values), tuple(values)
