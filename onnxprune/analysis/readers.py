"""Quantised constants: who reads what is made of them, and the real numbers their codes stand for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxprune.analysis.axes import Block, axis_size
from onnxprune.analysis.labels import CARRIES, CONSUMES, PRODUCES
from onnxprune.analysis.trace import Step, Trace
from onnxprune.rules.signature import Axes, Code, Signature


class Readers:
    """The readers of every computed or shared tensor of a trace, with the input at which they read."""

    def __init__(self, traced: Trace) -> None:
        self.steps: dict[str, list[tuple[Step, int]]] = {}
        for step in traced.steps:
            for place, operand in enumerate(step.operands):
                if operand is not None and operand.stored is None:
                    self.steps.setdefault(operand.tensor, []).append((step, place))
        self.decoded: set[str] = set()
        self.shared = set(traced.shared)
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
        return _most(roles)

    def shared_role(self, name: str, factor: int) -> str:
        """Return what a factor of a weight with several uses does where it is read, at the most."""
        return _most({self._role(s, p, factor) for s, p in self.steps.get(name, ())})

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
        return operand is not None and operand.tensor not in self.decoded | self.shared


def _most(roles: set[str]) -> str:
    return next((r for r in (PRODUCES, CARRIES, CONSUMES) if r in roles), PRODUCES)


def is_decoder(step: Step) -> bool:
    """Tell whether a step decodes a constant."""
    first = step.operands[0] if step.operands else None
    how = step.facets.quantisation
    return how is not None and how.decodes and first is not None and first.stored is not None


def spread(values: np.ndarray, own: Axes, target: Axes, sizes: Mapping[str, int]) -> np.ndarray:
    """Broadcast a scale or zero point to the tensor that it belongs to.

    own: its axes [P…]; target: those of the tensor [A…]; returns [A…], or a scalar where it holds one value.
    """
    if values.size == 1:
        return values.reshape(())
    subscripts = [x for axis in own for x in axis]
    whole = [x for axis in target for x in axis]
    grid = values.reshape([sizes[x] for x in subscripts])
    grid = grid.transpose(sorted(range(len(subscripts)), key=lambda i: whole.index(subscripts[i])))
    wide = grid[tuple(slice(None) if x in subscripts else None for x in whole)]
    full = np.broadcast_to(wide, [sizes[x] for x in whole])
    return full.reshape([axis_size(axis, sizes) for axis in target])


def stored_param(step: Step, operand: int, param: int | None) -> np.ndarray | None:
    """Return a stored scale or zero point, spread to the operand; None where there is none in the file."""
    verdict = step.verdict
    found = step.operands[param] if param is not None and param < len(step.operands) else None
    if found is None or found.stored is None or not isinstance(verdict, Signature) or step.met is None:
        return None
    assert param is not None
    target = verdict.inputs[operand]
    own = verdict.inputs[param]
    assert target is not None
    assert own is not None
    return spread(np.asarray(found.stored.values), own, target, step.met.sizes)


def decoded(codes: np.ndarray, step: Step, operand: int, code: Code) -> np.ndarray:
    """Return the real numbers (q - zero) * scale that the codes at an operand stand for, in float32."""
    wide = codes.astype(np.float32)
    zero, scale = stored_param(step, operand, code.zero), stored_param(step, operand, code.scale)
    if zero is not None:
        wide = wide - zero.astype(np.float32)
    return wide if scale is None else wide * scale.astype(np.float32)
