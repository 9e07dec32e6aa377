"""Weights that the graph computes from constants are stored before the model is labelled.

So importance is that of the weights as they are read, and a repair has a tensor to write to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import onnx

from onnxprune.analysis.analyse import Analysis, Shapes, analyse
from onnxprune.analysis.units import Units
from onnxprune.errors import UsageError
from onnxprune.model.fold import ConstantPart, Folded
from onnxprune.model.graph import opsets_of
from onnxprune.rules.randomness import is_repeatable
from onnxprune.rules.registry import load_plugins


def analyse_folded(
    model: onnx.ModelProto, shapes: Shapes | None = None, values: Mapping[str, Any] | None = None
) -> Analysis:
    """Store what is computed from constants alone and holds channels that may go, and label the result.

    shapes, values: as `analyse` takes them. The model is not changed. Raises as `analyse` does.
    """
    part = _constant_part(model)
    names = part.candidates()
    if not names:
        return analyse(model, shapes, values)
    found = part.stored(names)
    analysis = analyse(found.model, shapes, values)
    wanted = _removable(analysis.units, (folded.tensor for folded in found.tensors))
    if len(wanted) < len(found.tensors):
        found = part.stored(wanted)
        analysis = analyse(found.model, shapes, values)
    return replace(analysis, folded=found.tensors)


def folded_again(model: onnx.ModelProto, names: Sequence[str]) -> Folded:
    """Store the tensors that a plan names.

    Raises UsageError where the model does not compute them from constants.
    """
    if not names:
        return Folded(model)
    part = _constant_part(model)
    possible = set(part.candidates())
    missing = next((name for name in names if name not in possible), None)
    found = part.stored(names) if missing is None else Folded(model)
    if missing is None:
        made = {folded.tensor for folded in found.tensors}
        missing = next((name for name in names if name not in made), None)
    if missing is not None:
        raise UsageError(
            f"the plan folds tensor '{missing}', which this model does not compute from constants alone: "
            "make a new plan"
        )
    return found


def _constant_part(model: onnx.ModelProto) -> ConstantPart:
    load_plugins()
    opsets = opsets_of(model)
    return ConstantPart(model, lambda node: is_repeatable(node, opsets))


def _removable(units: Units, names: Iterable[str]) -> list[str]:
    """Return those of these tensors that hold a channel which may go."""
    roots, free = units.traced.network.roots, units.group_of_units >= 0
    held: set[str] = set()
    for name, labelled in units.traced.shared.items():
        if any(free[units.of[factor.labels]].any() for factor in labelled.factors):
            held.add(name)
    for step in units.traced.steps:
        for slot in step.met.slots if step.met is not None else ():
            if any(free[units.of[entry.block.labels]].any() for entry in slot.entries):
                held.add(slot.stored.name)
    return [name for name in names if roots.get(name) in held]
