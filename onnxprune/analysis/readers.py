"""Who reads what DequantizeLinear makes of a constant: not every axis of it brings channels."""

from __future__ import annotations

from onnxprune.analysis.axes import Block
from onnxprune.analysis.records import CARRIES, CONSUMES, PRODUCES
from onnxprune.analysis.trace import Step, Trace


class Readers:
    """The readers of every computed or shared tensor of a trace, with the input at which they read."""

    def __init__(self, traced: Trace) -> None:
        self.steps: dict[str, list[tuple[Step, int]]] = {}
        for step in traced.steps:
            for place, operand in enumerate(step.operands):
                if operand is not None and operand.stored is None:
                    self.steps.setdefault(operand.tensor, []).append((step, place))
        self.decoded: set[str] = set()
        for step in traced.steps:
            first = step.operands[0] if step.operands else None
            moved = step.facets.moves and first is not None and first.tensor in self.decoded
            if is_decoder(step) or moved:
                self.decoded.add(step.node.outputs[0].name)

    def behind(self, step: Step) -> list[tuple[Step, int]]:
        """Return the steps that read the first output of a step, with the input at which they do."""
        return self.steps.get(step.node.outputs[0].name, []) if step.node.outputs else []

    def role(self, step: Step, block: Block) -> str:
        """Return what the labels of a block that leaves a step do where they are read, at the most."""
        if step.met is None:
            return PRODUCES
        leaving = [out.block for out in step.met.outs if out.output == 0]
        factor = next((i for i, other in enumerate(leaving) if other is block), None)
        roles = {self._role(s, p, factor) for s, p in self.behind(step)} if factor is not None else set()
        return next((r for r in (PRODUCES, CARRIES, CONSUMES) if r in roles), PRODUCES)

    def _role(self, step: Step, place: int, factor: int) -> str:
        if step.met is None:
            return PRODUCES
        kept = step.met.signature.kept_subscripts()
        views = [v for v in step.met.views if not v.frozen]
        own = next((v for v in views if v.operand == place and v.factor == factor), None)
        if own is None:
            return PRODUCES
        subscripts = set(own.block.subscripts)
        if not subscripts & kept:
            return CONSUMES
        if any(subscripts <= set(v.block.subscripts) and self._arrives(step, v.operand) for v in views):
            return CARRIES
        return self.role(step, own.block) if step.facets.moves else PRODUCES

    def _arrives(self, step: Step, place: int) -> bool:
        """Tell whether an input is computed from more than constants."""
        operand = step.operands[place]
        return operand is not None and operand.tensor not in self.decoded


def is_decoder(step: Step) -> bool:
    """Tell whether a step decodes a constant."""
    first = step.operands[0] if step.operands else None
    how = step.facets.quantisation
    return how is not None and how.decodes and first is not None and first.stored is not None
