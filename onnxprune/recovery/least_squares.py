"""Channel-level least squares: what removed channels carried is expressed by those that stay.

x_removed ~ x_kept T, with T from the Gram matrix of the activation; a consumer's weights then take up
W_kept + T W_removed, and its bias what the means leave over (a linear variant of Kwon et al. 2022). The
kernel offsets of a Conv share one T.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnxprune.analysis.axes import joined
from onnxprune.analysis.labels import Slot
from onnxprune.data.consumers import Consumer
from onnxprune.data.moments import Gram, Moments
from onnxprune.model.graph import Stored
from onnxprune.planning.obs import DAMPING, WIDE
from onnxprune.recovery.context import RecoveryContext, with_values
from onnxprune.rewrite.apply import shared_values, sliced


@dataclass(frozen=True)
class Fold:
    """New values of a consumer's weight, in its stored shape, and of its bias, None without one."""

    weight: np.ndarray
    bias: tuple[str, np.ndarray] | None


def fold(consumer: Consumer, gram: Gram, removed: np.ndarray) -> Fold | None:
    """Fold the removed places of a consumer into its others, and zero them; None where none is removed.

    removed: booleans by unit.
    """
    gone = removed[consumer.units]
    if not gone.any():
        return None
    weight = consumer.weight().astype(np.float64)
    moments = gram.covariance if consumer.has_bias else gram.energy
    shift = np.zeros((len(gone), weight.shape[2]))
    for g, lost in enumerate(gone):
        kept = ~lost
        if not kept.any() or not lost.any():
            continue
        away = weight[g][lost]
        table = _table(moments[g], kept, lost)
        shift[g] = (gram.mean[g][lost] - gram.mean[g][kept] @ table) @ away
        weight[g][kept] += table @ away
        weight[g][lost] = 0.0
    weight[gone] = 0.0
    bias = consumer.bias
    values = consumer.restored(weight)
    return Fold(values, None if bias is None else (bias.stored.name, _new_bias(consumer, bias, shift)))


def _table(moments: np.ndarray, kept: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """Return T [kept, removed]; without correlations where the matrix is too wide."""
    size = int(kept.sum())
    if size > WIDE:
        return np.zeros((size, int(lost.sum())))
    inner = moments[np.ix_(kept, kept)]
    damping = DAMPING * max(float(inner.diagonal().mean()), 1e-30)
    return np.linalg.solve(inner + damping * np.eye(size), moments[np.ix_(kept, lost)])


def _new_bias(consumer: Consumer, bias: Slot, shift: np.ndarray) -> np.ndarray:
    """Sum the shift [groups, outputs] over kernel offsets and add it to a bias."""
    subscripts, sizes = consumer.result_subscripts()
    grid = shift.reshape([sizes[x] for x in subscripts])
    own = joined(bias.axes, range(len(bias.axes)))
    total = grid.sum(axis=tuple(i for i, x in enumerate(subscripts) if x not in own))
    left = [x for x in subscripts if x in own]
    values = np.asarray(bias.stored.values)
    turned = total.transpose([left.index(x) for x in own]) if own else total
    return np.asarray(values + turned.reshape(values.shape), dtype=values.dtype)


def folded(context: RecoveryContext, pruned: onnx.ModelProto) -> onnx.ModelProto:
    """Let the consumers of removed channels take up what these carried; returns a copy."""
    removal, moments = context.removal, context.evidence.moments
    cuts = {(cut.step, cut.slot.operand): cut for cut in removal.replayed.cuts}
    inputs = {node.output[0]: list(node.input) for node in pruned.graph.node}
    values: dict[str, np.ndarray] = {}
    for consumer in context.evidence.readers:
        found = fold(consumer, consumer.gram(moments), removal.removed)
        names = inputs.get(consumer.step.node.outputs[0].name)
        if found is None or names is None:
            continue
        parts = [(consumer.slot, found.weight)]
        if found.bias is not None and consumer.bias is not None:
            parts.append((consumer.bias, found.bias[1]))
        for slot, full in parts:
            name, cut = slot.stored.name, cuts.get((consumer.step.number, slot.operand))
            full = full.astype(np.asarray(slot.stored.values).dtype)
            if name in removal.traced.shared:
                full = shared_values(removal.traced, removal.replayed, name, full)
            elif cut is not None:
                full = sliced(replace(cut, slot=replace(slot, stored=Stored(name, None, full))))
            values[names[slot.operand]] = full
    return with_values(pruned, values)


class Folds:
    """The folds of all consumers; each is remembered until other places of it are removed."""

    def __init__(self, readers: Sequence[Consumer], moments: Moments) -> None:
        self._readers, self._moments = tuple(readers), moments
        self._known: dict[int, tuple[bytes, Fold | None]] = {}

    def values(self, removed: np.ndarray) -> dict[str, np.ndarray]:
        """Return tensors, by name, with which the consumers do without removed channels as well as they can.

        removed: booleans by unit. The channels are still there, but nobody reads them.
        """
        values: dict[str, np.ndarray] = {}
        for number, consumer in enumerate(self._readers):
            gone = removed[consumer.units].tobytes()
            if number not in self._known or self._known[number][0] != gone:
                self._known[number] = gone, fold(consumer, consumer.gram(self._moments), removed)
            found = self._known[number][1]
            if found is not None:
                values[consumer.slot.stored.name] = found.weight
                if found.bias is not None:
                    values[found.bias[0]] = found.bias[1]
        return values
