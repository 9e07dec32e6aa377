"""The masked original: the original graph in which no consumer sees a removed channel.

Removed channels are masked at the input of every operator that sums or reduces over them, not at
their producers, since Sigmoid(0) is 0.5. It shares no code with the rewrite. Where an operator
takes a statistic over a pruned axis it is restricted to the kept channels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxprune.analysis.axes import merged
from onnxprune.analysis.labels import Factor, Labelled
from onnxprune.analysis.records import Met, View
from onnxprune.analysis.replay import Removal
from onnxprune.analysis.replay_state import Mean
from onnxprune.analysis.trace import Step, Trace
from onnxprune.model.carry import to_graph, to_model
from onnxprune.model.mapped import MappedModel
from onnxprune.oracle.restricted import restrict
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

    dtypes: ONNX element types by tensor name.
    """
    return _Masker(model.model, removal, dtypes).run(model)


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
    def __init__(self, model: onnx.ModelProto, removal: Removal, dtypes: Mapping[str, int]) -> None:
        self.graph = to_graph(model)
        self.traced, self.replayed, self.alive = removal.traced, removal.replayed, removal.alive
        self.dtypes = dict(dtypes)
        self.opset = self.traced.network.opset("")
        self.zeros = Zeros(self)
        self.decoding = Decoding(self.traced)
        self.restricted: list[str] = []
        self.watched: list[str] = []
        self.count = 0
        self.prefix = _free_prefix(self.traced)

    def run(self, model: MappedModel) -> Masked:
        nodes = list(self.graph.nodes)
        by_number = {step.number: step for step in self.traced.steps}
        means: dict[int, list[Mean]] = defaultdict(list)
        for mean in self.replayed.means:
            means[mean.step].append(mean)
        made: list[gs.Node] = []
        for number, node in enumerate(nodes):
            step = by_number.get(number)
            for mean in means[number]:
                made += self._recounted(node, mean)
            if step is not None and number in self.replayed.refs and isinstance(step.verdict, Signature):
                made += self._masked(step, node, step.verdict)
            else:
                made.append(node)
        self.graph.nodes[:] = made
        masked = MappedModel(to_model(self.graph, model.model), model.folder)
        return Masked(masked, tuple(self.restricted), tuple(self.watched))

    def _masked(self, step: Step, node: gs.Node, signature: Signature) -> list[gs.Node]:
        assert step.met is not None
        sizes = self.replayed.sizes[step.number]
        if any(sizes[x] != step.met.sizes[x] for x in signature.normalised):
            return self._restricted(step, node)
        ends = signature.ending_subscripts()
        before: list[gs.Node] = []
        gone = self._mask_stored(step, node, signature)
        for view in step.met.views:
            consumed = ends.intersection(view.block.subscripts)
            read = consumed | (signature.ranged & set(view.block.subscripts))
            if view.frozen or not read or signature.neutral is None or not self.decoding.wanted(step):
                continue
            mask = self._mask_of(step, view)
            if mask is not None and not self.decoding.spared(step, view):
                before += self.zeros.mask(step, node, view.operand, mask)
            if mask is not None:
                gone |= consumed
        fed_back = self._fed_back(step, node, step.met)
        before += fed_back
        if signature.ranged and self.decoding.wanted(step):
            self._ranged(step, node)
        if gone or fed_back:
            self._watch(node)
        after = self._rescaled(step, node, gone, sizes) if signature.counted and gone else []
        return [*before, node, *after]

    def _fed_back(self, step: Step, node: gs.Node, met: Met) -> list[gs.Node]:
        """Mask, in the stored operands that read what the node produced itself, what is removed of it."""
        made: list[gs.Node] = []
        again = set(met.signature.fed_back)
        for top in (top for cluster in met.clusters for top in cluster.tops if again & set(top.subscripts)):
            for number, axes in enumerate(met.signature.inputs):
                operand = step.operands[number]
                if axes is None or operand is None or not all((x,) in axes for x in top.subscripts):
                    continue
                places = tuple(axes.index((x,)) for x in top.subscripts)
                mask = shown(Labelled(operand.labelled.shape, (Factor(places, top.labels),)), self.alive)
                if mask is not None and operand.stored is not None:
                    made += self.zeros.mask(step, node, number, mask)
        return made

    def _mask_stored(self, step: Step, node: gs.Node, signature: Signature) -> set[str]:
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
                node.inputs[slot.operand] = self.constant("masked", values)
                gone |= inner
        return gone

    def _ranged(self, step: Step, node: gs.Node) -> None:
        """Let the removed elements of a stored tensor read zero too, and note what reads zero behind."""
        operand = step.operands[0]
        assert step.met is not None
        mask = shown(step.met.outputs[0], self.alive)
        if mask is None:
            return
        if operand is not None and operand.stored is not None:
            self.zeros.mask_stored(step, node, mask)
        self.zeros.note(step, node)

    def _recounted(self, node: gs.Node, mean: Mean) -> list[gs.Node]:
        """Let a mean that is written out divide by the number of kept elements."""
        source = node.inputs[mean.operand]
        dtype = self.dtype(source.name)
        # The denominator divides the count, so that the division is exact also in float16.
        share = Fraction(mean.factor).limit_denominator(MAX_COUNT)
        divided, result = self.variable("count", dtype), self.variable("count", dtype)
        node.inputs[mean.operand] = result
        self.restricted.append(node.name or node.outputs[0].name)
        parts = [
            self.constant("factor", np.asarray(n, dtype=dtype)) for n in (share.denominator, share.numerator)
        ]
        return [
            gs.Node("Div", f"{divided.name}_div", inputs=[source, parts[0]], outputs=[divided]),
            gs.Node("Mul", f"{result.name}_mul", inputs=[divided, parts[1]], outputs=[result]),
        ]

    def _watch(self, node: gs.Node) -> None:
        self.watched += [t.name for t in node.outputs if t.name][:1]

    def _mask_of(self, step: Step, view: View) -> np.ndarray | None:
        operand = step.operands[view.operand]
        assert operand is not None
        factor = operand.labelled.factors[view.factor]
        return shown(Labelled(operand.labelled.shape, (factor,)), self.alive)

    def dtype(self, name: str) -> np.dtype:
        """Return the numpy type of a tensor."""
        return onnx.helper.tensor_dtype_to_np_dtype(self.dtypes[name])

    def constant(self, kind: str, values: np.ndarray) -> gs.Constant:
        """Make a constant with a name that no tensor has."""
        self.count += 1
        return gs.Constant(f"{self.prefix}{kind}_{self.count}", values)

    def variable(self, kind: str, dtype: np.dtype) -> gs.Variable:
        """Make a tensor with a name that no tensor has."""
        self.count += 1
        name = f"{self.prefix}{kind}_{self.count}"
        self.dtypes[name] = int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
        return gs.Variable(name, dtype=dtype)

    def _rescaled(self, step: Step, node: gs.Node, gone: set[str], sizes: Mapping[str, int]) -> list[gs.Node]:
        assert step.met is not None
        factor = float(np.prod([step.met.sizes[x] / sizes[x] for x in gone]))
        output = node.outputs[0]
        dtype = self.dtype(output.name)
        inner = self.variable("mean", dtype)
        node.outputs[0] = inner
        self.restricted.append(step.site.name)
        scale = self.constant("count", np.asarray(factor, dtype=dtype))
        return [gs.Node("Mul", f"{inner.name}_mul", inputs=[inner, scale], outputs=[output])]

    def _restricted(self, step: Step, node: gs.Node) -> list[gs.Node]:
        assert step.met is not None
        mask = shown(step.met.outputs[0], self.alive)
        assert mask is not None
        self.restricted.append(step.site.name)
        self._watch(node)
        sizes = self.replayed.sizes[step.number]
        subscripts = [x for x in step.met.signature.normalised if sizes[x] != step.met.sizes[x]]
        factor = float(np.prod([step.met.sizes[x] / sizes[x] for x in subscripts]))
        return restrict(self, step, node, mask, factor)


def _free_prefix(traced: Trace) -> str:
    """Return a prefix that no tensor or node of the model has."""
    net = traced.network
    names = {t.name for n in net.nodes for t in (*n.inputs, *n.outputs)} | set(net.names) | net.captured
    prefix = "__oracle_"
    while any(name.startswith(prefix) for name in names):
        prefix = f"_{prefix}"
    return prefix
