"""The masked original: the original graph in which no consumer sees a removed channel.

Removed channels are masked at the input of every operator that sums or reduces over them, not at
their producers, since Sigmoid(0) is 0.5. It shares no code with the rewrite. Where an operator
takes a statistic over a pruned axis it is restricted to the kept channels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from onnx import NodeProto

from onnxprune.analysis.axes import merged
from onnxprune.analysis.labels import Factor, Labelled, Met, View
from onnxprune.analysis.replay import Removal
from onnxprune.analysis.replay_state import Mean
from onnxprune.analysis.trace import Step
from onnxprune.model.mapped import MappedModel
from onnxprune.model.patch import Patch
from onnxprune.oracle.restricted import Builder, restrict
from onnxprune.oracle.zeros import Decoding, Zeros
from onnxprune.rules.signature import Signature

MAX_COUNT = 1 << 24  # elements that a mean is taken over, at most


@dataclass(frozen=True)
class Masked:
    """The masked original, the nodes that were restricted, and the outputs of all consumers."""

    model: MappedModel
    restricted: tuple[str, ...]
    watched: tuple[str, ...]


def masked_original(model: MappedModel, removal: Removal, dtypes: Mapping[str, int]) -> Masked:
    """Build the masked original on a copy that shares the weights.

    model: what the trace was made of; dtypes: ONNX element types by tensor name.
    """
    builder = Builder(Patch(model.model), dtypes, removal.traced.network.opset(""))
    masker = _Masker(builder, removal)
    masker.run()
    written = replace(model, model=builder.patch.written())
    return Masked(written, tuple(masker.restricted), tuple(masker.watched))


def shown(labelled: Labelled, alive: np.ndarray) -> np.ndarray | None:
    """Return where a tensor keeps its elements, broadcastable to its shape; None where it keeps all."""
    result: np.ndarray | None = None
    for factor in labelled.factors:
        kept = alive[factor.labels]
        if kept.all():
            continue
        shape = [1] * len(labelled.shape)
        for axis, size in zip(factor.axes, kept.shape, strict=True):
            shape[axis] = size
        kept = kept.reshape(shape)
        result = kept if result is None else result & kept
    return result


class _Masker:
    def __init__(self, builder: Builder, removal: Removal) -> None:
        self.builder, self.patch = builder, builder.patch
        self.traced, self.replayed, self.alive = removal.traced, removal.replayed, removal.alive
        self.zeros = Zeros(builder)
        self.decoding = Decoding(self.traced)
        self.restricted: list[str] = []
        self.watched: list[str] = []

    def run(self) -> None:
        means: dict[int, list[Mean]] = defaultdict(list)
        for mean in self.replayed.means:
            means[mean.step].append(mean)
        for step in self.traced.steps:
            for mean in means[step.number]:
                self.patch.insert(step.number, before=self._recounted(step, mean))
            if step.number in self.replayed.refs and isinstance(step.verdict, Signature):
                self._mask(step, step.verdict)

    def _mask(self, step: Step, signature: Signature) -> None:
        assert step.met is not None
        sizes = self.replayed.sizes[step.number]
        if any(sizes[x] != step.met.sizes[x] for x in signature.normalised):
            self._restrict(step)
            return
        ends = signature.ending_subscripts()
        before: list[NodeProto] = []
        gone = self._mask_stored(step, signature)
        for view in step.met.views:
            consumed = ends.intersection(view.block.subscripts)
            read = consumed | (signature.ranged & set(view.block.subscripts))
            if view.frozen or not read or signature.neutral is None or not self.decoding.wanted(step):
                continue
            mask = self._mask_of(step, view)
            if mask is not None and not self.decoding.spared(step, view):
                before += self.zeros.mask(step, view.operand, mask)
            if mask is not None:
                gone |= consumed
        fed_back = self._fed_back(step, step.met)
        self.patch.insert(step.number, before=[*before, *fed_back])
        if signature.ranged and self.decoding.wanted(step):
            self._ranged(step)
        if gone or fed_back:
            self._watch(step)
        if signature.counted and gone:
            self._rescale(step, gone, sizes)

    def _fed_back(self, step: Step, met: Met) -> list[NodeProto]:
        """Mask, in the stored operands that read what the node produced itself, what is removed of it."""
        made: list[NodeProto] = []
        again = set(met.signature.fed_back)
        for top in (top for cluster in met.clusters for top in cluster.tops if again & set(top.subscripts)):
            for number, axes in enumerate(met.signature.inputs):
                operand = step.operands[number]
                if axes is None or operand is None or not all((x,) in axes for x in top.subscripts):
                    continue
                places = tuple(axes.index((x,)) for x in top.subscripts)
                mask = shown(Labelled(operand.labelled.shape, (Factor(places, top.labels),)), self.alive)
                if mask is not None and operand.stored is not None:
                    made += self.zeros.mask(step, number, mask)
        return made

    def _mask_stored(self, step: Step, signature: Signature) -> set[str]:
        """Zero what a node sums over inside itself in its stored inputs; return the subscripts."""
        assert step.met is not None
        gone: set[str] = set()
        for slot in step.met.slots:
            for entry in slot.entries:
                inner = signature.inner.intersection(entry.block.subscripts)
                if not inner or self.alive[entry.block.labels].all():
                    continue
                places, labels = merged(entry.block, slot.axes, step.met.sizes)
                mask = shown(Labelled(slot.stored.shape, (Factor(places, labels),)), self.alive)
                assert mask is not None
                values = np.where(mask, slot.stored.values, 0).astype(slot.stored.values.dtype)
                self.patch.set_input(step.number, slot.operand, self.builder.constant("masked", values))
                gone |= inner
        return gone

    def _ranged(self, step: Step) -> None:
        """Let the removed elements of a stored tensor read zero too, and note what reads zero behind."""
        operand = step.operands[0]
        assert step.met is not None
        mask = shown(step.met.outputs[0], self.alive)
        if mask is None:
            return
        if operand is not None and operand.stored is not None:
            self.zeros.mask_stored(step, mask)
        self.zeros.note(step)

    def _recounted(self, step: Step, mean: Mean) -> list[NodeProto]:
        """Let a mean that is written out divide by the number of kept elements."""
        source = self.patch.node(step.number).input[mean.operand]
        dtype = self.builder.dtype(source)
        # The denominator divides the count, so that the division is exact also in float16.
        share = Fraction(mean.factor).limit_denominator(MAX_COUNT)
        divided, result = self.builder.variable("count", dtype), self.builder.variable("count", dtype)
        self.patch.set_input(step.number, mean.operand, result)
        self.restricted.append(step.node.name or step.node.outputs[0].name)
        parts = [
            self.builder.constant("factor", np.asarray(n, dtype=dtype))
            for n in (share.denominator, share.numerator)
        ]
        return [
            self.builder.node("Div", [source, parts[0]], divided),
            self.builder.node("Mul", [divided, parts[1]], result),
        ]

    def _watch(self, step: Step) -> None:
        self.watched += [t.name for t in step.node.outputs if t.name][:1]

    def _mask_of(self, step: Step, view: View) -> np.ndarray | None:
        operand = step.operands[view.operand]
        assert operand is not None
        factor = operand.labelled.factors[view.factor]
        return shown(Labelled(operand.labelled.shape, (factor,)), self.alive)

    def _rescale(self, step: Step, gone: set[str], sizes: Mapping[str, int]) -> None:
        assert step.met is not None
        factor = float(np.prod([step.met.sizes[x] / sizes[x] for x in gone]))
        node = self.patch.change(step.number)
        output = node.output[0]
        dtype = self.builder.dtype(output)
        inner = self.builder.variable("mean", dtype)
        node.output[0] = inner
        self.restricted.append(step.site.name)
        scale = self.builder.constant("count", np.asarray(factor, dtype=dtype))
        self.patch.insert(step.number, after=[self.builder.node("Mul", [inner, scale], output)])

    def _restrict(self, step: Step) -> None:
        assert step.met is not None
        mask = shown(step.met.outputs[0], self.alive)
        assert mask is not None
        self.restricted.append(step.site.name)
        self._watch(step)
        sizes = self.replayed.sizes[step.number]
        subscripts = [x for x in step.met.signature.normalised if sizes[x] != step.met.sizes[x]]
        factor = float(np.prod([step.met.sizes[x] / sizes[x] for x in subscripts]))
        self.patch.insert(step.number, before=restrict(self.builder, step, mask, factor))
        self.patch.remove(step.number)
