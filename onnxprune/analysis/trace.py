"""The trace: one walk over the graph that labels every tensor and writes ties, families and pins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.analysis.constants import evaluate
from onnxprune.analysis.labels import Factor, LabelConstraints, Labelled, Met, Operand, Pin
from onnxprune.analysis.node_propagation import NodePropagation
from onnxprune.analysis.varying import FIXED, Varying
from onnxprune.model.graph import Network, is_alias, is_constant
from onnxprune.model.tensors import volume
from onnxprune.rules.foreign import without_rule
from onnxprune.rules.registry import REGISTRY, Registry
from onnxprune.rules.signature import Facets, Pinned, Shape, Signature, Site, Verdict
from onnxprune.rules.values import Known

SMALL = 4096


@dataclass(frozen=True)
class Step:
    """One node of the trace: what its rule said and, where labels met, the record of it.

    facets: what else its rule knows of the operator.
    """

    number: int
    node: gs.Node
    site: Site
    verdict: Verdict | tuple[Known, ...]
    met: Met | None
    operands: tuple[Operand | None, ...]
    facets: Facets


@dataclass(frozen=True)
class Trace:
    """All that is known of a graph at one set of input sizes."""

    network: Network
    shapes: Mapping[str, Shape | None]
    steps: list[Step]
    tensors: dict[str, Labelled]
    known: dict[str, Known]
    book: LabelConstraints
    shared: dict[str, Labelled] = field(default_factory=dict)

    @property
    def outside(self) -> frozenset[str]:
        """Return the tensors that subgraphs or the outside of the model read, and constants behind these."""
        read = {t.name for t in self.network.graph.outputs} | self.network.captured
        return frozenset(read | {self.network.roots[name] for name in read if name in self.network.roots})

    def labels_behind(self, name: str) -> np.ndarray:
        """Return the labels of the tensors whose shapes a value is computed from."""
        makers = {t.name: step for step in self.steps for t in step.node.outputs if t.name}
        found, waiting, seen = [np.zeros(0, np.int64)], [name], set[str]()
        while waiting:
            step = makers.get(waiting.pop())
            if step is None or not isinstance(step.verdict, tuple):
                continue
            for tensor in step.node.inputs:
                if step.facets.from_shape is not None:
                    labelled = self.tensors.get(self.network.roots.get(tensor.name, tensor.name))
                    found += [f.labels.ravel() for f in labelled.factors] if labelled else []
                elif tensor.name not in seen:
                    seen.add(tensor.name)
                    waiting.append(tensor.name)
        return np.concatenate(found)


def trace(
    net: Network, shapes: Mapping[str, Shape | None], registry: Registry = REGISTRY, varying: Varying = FIXED
) -> Trace:
    """Label every tensor of the graph.

    shapes: concrete shapes by tensor name, None where unknown; varying: which dims follow the inputs' sizes.
    """
    return _Tracer(net, shapes, registry, varying).run()


class _Tracer:
    def __init__(
        self, net: Network, shapes: Mapping[str, Shape | None], registry: Registry, varying: Varying
    ) -> None:
        self.net, self.shapes, self.registry, self.varying = net, shapes, registry, varying
        self.book = LabelConstraints()
        self.tensors: dict[str, Labelled] = {}
        self.known: dict[str, Known] = {}
        self.constants: dict[str, Known] = {}
        frozen = {t.name for t in net.graph.outputs} | net.captured
        self.frozen = frozen | {net.roots[name] for name in frozen if name in net.roots}

    def run(self) -> Trace:
        for tensor in self.net.graph.inputs:
            self.tensors[tensor.name] = Labelled(self.shapes.get(tensor.name) or ())
        shared = {
            name: self._shared(name) for name, uses in self.net.uses.items() if self._is_shared(name, uses)
        }
        self.tensors.update(shared)
        steps = [step for i, node in enumerate(self.net.nodes) if (step := self._step(i, node))]
        result = Trace(self.net, self.shapes, steps, self.tensors, self.known, self.book, shared)
        for tensor in self.net.graph.outputs:
            self._pin_whole(result, tensor.name, "graph output", "the interface of the model does not change")
        for name in sorted(self.net.captured):
            self._pin_whole(result, name, "subgraph", "read inside a subgraph")
        return result

    def _pin_whole(self, traced: Trace, name: str, op: str, reason: str) -> None:
        """Pin the labels of a tensor, and those that its value is computed from."""
        self._pin_tensor(self.net.roots.get(name, name), "", op, reason)
        if name in self.known and self.known[name].derived:
            self.book.pin(traced.labels_behind(name), Pin(name, 0, "", op, reason))

    def _is_shared(self, name: str, uses: list[tuple[int, int]]) -> bool:
        """Tell whether a weight proper has several uses: it is tied, lest the model grow."""
        stored = self.net.stored[name]
        proper = stored.is_parameter and sum(size > 1 for size in stored.shape) > 1
        return proper and (len(uses) > 1 or name in self.frozen)

    def _shared(self, name: str) -> Labelled:
        shape = self.net.stored[name].shape
        factors = tuple(
            Factor((i,), self.book.produce((n,), f"{name}:{i}")) for i, n in enumerate(shape) if n > 1
        )
        return Labelled(shape, factors)

    def _step(self, number: int, node: gs.Node) -> Step | None:
        self.book.place = number
        domain = node.domain or ""
        aliased = is_alias(node.op, domain) and self.net.root(node.outputs[0]) is not None
        if aliased or is_constant(node.op, domain):
            return None
        facets = self.registry.facets(domain, node.op, self.net.opset(domain))
        values = [self._value(tensor) if tensor.name else None for tensor in node.inputs]
        known = self._evaluated(node, facets, values)
        operands = tuple(self._operand(tensor) for tensor in node.inputs)
        site = self._site(number, node, operands, values)
        if known is not None:
            for tensor, value in zip(node.outputs, known, strict=True):
                self.known[tensor.name], self.tensors[tensor.name] = value, Labelled(value.value.shape)
            return Step(number, node, site, known, None, operands, facets)
        verdict = self._verdict(node, site)
        met = None
        if isinstance(verdict, Signature):
            try:
                met = NodePropagation(self.book, site, verdict, operands).run()
            except ValueError as error:
                verdict = Pinned(f"its shapes disagree: {error}")
        self._record(node, site, met)
        if isinstance(verdict, Pinned):
            self._freeze(node, site, operands, verdict.reason)
        return Step(number, node, site, verdict, met, operands, facets)

    def _record(self, node: gs.Node, site: Site, met: Met | None) -> None:
        for i, tensor in enumerate(node.outputs):
            if tensor.name:
                self.tensors[tensor.name] = (
                    met.outputs[i] if met is not None else Labelled(site.outputs[i] or ())
                )

    def _verdict(self, node: gs.Node, site: Site) -> Verdict:
        rule = self.registry.find(site.domain, node.op, site.opset)
        if rule is None:
            return Pinned(without_rule(site.domain))
        if rule.facets.opaque:
            return Pinned(rule.facets.opaque)
        missing = [t.name for t in (*node.inputs, *node.outputs[:1]) if t.name and self._shape(t) is None]
        if missing:
            return Pinned(f"the shape of '{missing[0]}' is unknown")
        verdict = rule.verdict(site)
        if isinstance(verdict, Signature) and _is_empty(verdict, site):
            return Pinned("a tensor without elements")
        return verdict

    def _freeze(self, node: gs.Node, site: Site, operands: tuple[Operand | None, ...], reason: str) -> None:
        for operand in operands:
            if operand is not None and operand.stored is None:
                self._pin_labels(operand.tensor, operand.labelled, Pin("", 0, site.name, node.op, reason))

    def _pin_tensor(self, name: str, node: str, op: str, reason: str) -> None:
        if name in self.tensors:
            self._pin_labels(name, self.tensors[name], Pin("", 0, node, op, reason))

    def _pin_labels(self, name: str, labelled: Labelled, pin: Pin) -> None:
        for factor in labelled.factors:
            self.book.pin(factor.labels, Pin(name, factor.axes[0], pin.node, pin.op, pin.reason))

    def _shape(self, tensor: gs.Tensor) -> Shape | None:
        stored = self.net.root(tensor)
        return stored.shape if stored is not None else self.shapes.get(tensor.name)

    def _operand(self, tensor: gs.Tensor) -> Operand | None:
        if not tensor.name:
            return None
        stored = self.net.root(tensor)
        if stored is None:
            return Operand(tensor.name, self.tensors.get(tensor.name) or Labelled(self._shape(tensor) or ()))
        if stored.name in self.tensors:
            return Operand(stored.name, self.tensors[stored.name])
        if stored.name in self.frozen:
            return Operand(stored.name, Labelled(stored.shape))
        return Operand(stored.name, Labelled(stored.shape), stored)

    def _site(
        self, number: int, node: gs.Node, operands: tuple[Operand | None, ...], known: list[Known | None]
    ) -> Site:
        domain = node.domain or ""
        return Site(
            op=node.op,
            domain=domain,
            opset=self.net.opset(domain),
            name=self.net.names[number],
            attrs=node.attrs,
            inputs=tuple(
                None if o is None else self._shape(t) for o, t in zip(operands, node.inputs, strict=True)
            ),
            outputs=tuple(self._shape(t) if t.name else None for t in node.outputs),
            values=tuple(None if k is None else k.value for k in known),
            marks=tuple(None if k is None else k.marks for k in known),
        )

    def _value(self, tensor: gs.Tensor) -> Known | None:
        if tensor.name in self.known:
            return self.known[tensor.name]
        stored = self.net.root(tensor)
        if stored is None or volume(stored.shape) > SMALL:
            return None
        if stored.is_parameter and len(stored.shape) > 1:
            return None
        if stored.name not in self.constants:
            self.constants[stored.name] = Known.constant(np.asarray(stored.values))
        return self.constants[stored.name]

    def _evaluated(
        self, node: gs.Node, facets: Facets, inputs: list[Known | None]
    ) -> tuple[Known, ...] | None:
        """Return the values of the outputs where they follow from shapes and small constants."""
        if facets.from_shape is not None:
            shape = self._shape(node.inputs[0])
            if shape is None:
                return None
            stored = self.net.root(node.inputs[0]) is not None
            varying = None if stored else self.varying.of(node.inputs[0].name, len(shape))
            return (facets.from_shape(Known.dims(shape, varying), node.attrs),)
        if any(k is None and t.name for k, t in zip(inputs, node.inputs, strict=True)):
            return None
        present = [k for k in inputs if k is not None]
        if any(k.value.dtype.kind == "f" and k.value.size > 1 for k in present if not k.derived):
            return None
        return evaluate(facets.evaluate, node.attrs, inputs, len(node.outputs))


def _is_empty(signature: Signature, site: Site) -> bool:
    """Tell whether a tensor that carries labels has no elements."""
    sides = ((signature.inputs, site.inputs), (signature.outputs, site.outputs))
    return any(
        axes is not None and 0 in (shape or ())
        for side, shapes in sides
        for axes, shape in zip(side, shapes, strict=False)
    )
