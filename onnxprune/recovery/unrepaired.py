"""Weights that lost inputs and were not repaired, and why: so that nobody takes them for repaired ones."""

from __future__ import annotations

from collections.abc import Container

import msgspec
import numpy as np

from onnxprune.analysis.labels import CONSUMES
from onnxprune.analysis.members import Member, members
from onnxprune.analysis.units import Units
from onnxprune.data.consumers import consumers

CODES = "its values are codes of a quantisation, which stay"
NO_GAIN = "no change made the outputs drift less"
SEVERAL = "several nodes read it, and not all in one way"


class Unrepaired(msgspec.Struct, frozen=True):
    """A weight whose inputs were removed and whose values are the original's."""

    tensor: str
    reason: str


def unrepaired(units: Units, removed: np.ndarray, repaired: Container[str]) -> tuple[Unrepaired, ...]:
    """List the weights that summed over what was removed and have no other values.

    removed: booleans by unit; repaired: names of the tensors with other values.
    """
    fitted = {consumer.slot.stored.name for consumer in consumers(units)}
    found: dict[str, Unrepaired] = {}
    for member in members(units):
        name = member.stored.name
        hit = member.role == CONSUMES and member.is_weight and removed[member.units].any()
        if hit and name not in repaired and name not in found:
            found[name] = Unrepaired(name, NO_GAIN if name in fitted else _reason(units, member))
    return tuple(found.values())


def _reason(units: Units, member: Member) -> str:
    if member.stored.quantized or member.stored.itemsize <= 1:
        return CODES
    if len(units.traced.network.uses[member.stored.name]) > 1:
        return SEVERAL
    return f"{member.op} is no layer that is fitted"
