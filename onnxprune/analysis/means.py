"""Means written out as a sum and a division: the divisor becomes the number of kept elements.

The one value computed from a size that must follow it although it is data; elsewhere, as in
attention's scale, such values keep what they were.
"""

from __future__ import annotations

import numpy as np

from onnxprune.analysis.node_inputs import NodeInputs
from onnxprune.analysis.replay_state import Mean
from onnxprune.rules.facets import Arithmetic
from onnxprune.rules.signature import Fix

CLOSE = 1e-6


def note_sum(arrived: NodeInputs) -> None:
    """Remember how many elements a node adds up, before and after the removal."""
    step, signature = arrived.step, arrived.signature
    axes = signature.inputs[0] if signature.inputs else None
    if step.facets.arithmetic is not Arithmetic.TOTAL or axes is None:
        return
    gone = {x for axis in axes for x in axis} - signature.kept_subscripts()
    before = int(np.prod([arrived.met.sizes[x] for x in gone], dtype=np.int64))
    after = int(np.prod([arrived.sizes[x] for x in gone], dtype=np.int64))
    if before != after:
        arrived.shadow.sums[step.node.outputs[0].name] = (before, after)


def follow_mean(arrived: NodeInputs) -> dict[int, np.ndarray]:
    """Repair the divisor of a sum over a pruned axis; return what run-time values must be, by input."""
    step, shadow = arrived.step, arrived.shadow
    divides = step.facets.arithmetic is Arithmetic.QUOTIENT
    if not shadow.sums or not (divides or step.facets.arithmetic is Arithmetic.PRODUCT):
        return {}
    for place, other in ((0, 1), (1, 0)):
        counts = shadow.sums.get(step.node.inputs[place].name)
        value = step.site.value(other)
        if counts is None or value is None or value.size != 1 or value.dtype.kind != "f":
            continue
        if divides and place == 1:
            continue
        before, after = counts
        if (
            abs(float(value.ravel()[0]) * (1.0 if divides else before) / (before if divides else 1.0) - 1.0)
            > CLOSE
        ):
            continue
        factor = after / before if divides else before / after
        shadow.result.means.append(Mean(step.number, other, factor))
        new = (value.astype(np.float64) * factor).astype(value.dtype)
        if step.node.inputs[other].name in shadow.known:
            return {other: new}
        shadow.result.fixes.append((step.number, Fix(other, tuple(new.ravel().tolist()))))
    return {}
