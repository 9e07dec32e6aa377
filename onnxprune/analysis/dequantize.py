"""Codes of quantised tensors: where their zeros and scales lie, and the real numbers they stand for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxprune.analysis.axes import axis_size
from onnxprune.analysis.trace import Step
from onnxprune.rules.signature import Axes, Code, Signature


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
