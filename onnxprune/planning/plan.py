"""The plan: what a run removes, as data that a person can read, edit and check without us."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from onnxprune.errors import UsageError

SCHEMA_VERSION = 1


class GroupPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Channels that are produced together. `keep` lists the ones that stay: the part to edit."""

    id: str
    name: str
    channels: int
    asked: int
    keep: list[int]


class SlicePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one use of a stored tensor keeps along one axis: an ordered list, or one per block."""

    tensor: str
    node: str
    axis: int
    keep: list[Any]
    role: str


class MaskPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which elements of a computed operand a contraction or reduction still sees."""

    node: str
    input: int
    axis: int
    keep: list[Any]


class RepairPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A repaired attribute or shape input, or a factor inserted before a run-time value is read."""

    node: str
    kind: str
    where: str
    value: Any


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A plan for one model, named by its hash."""

    model_sha256: str
    settings: dict[str, Any]
    align: int
    groups: list[GroupPlan]
    slices: list[SlicePlan] = []
    masks: list[MaskPlan] = []
    repairs: list[RepairPlan] = []
    repaired: dict[str, str] = {}
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> bytes:
        """Serialise; the same plan gives the same bytes."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    @property
    def sha256(self) -> str:
        """Return the hash of the serialised plan."""
        return hashlib.sha256(self.to_json()).hexdigest()


def read_plan(source: str | Path | bytes | Plan) -> Plan:
    """Read a plan from a file or bytes.

    Raises UsageError where it is no plan, names what it does not know, or has another version.
    """
    if isinstance(source, Plan):
        return source
    name = "the plan" if isinstance(source, bytes) else f"plan '{source}'"
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        plan = msgspec.json.decode(data, type=Plan)
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}; check the path") from error
    except msgspec.DecodeError as error:
        raise UsageError(
            f"{name} is not a plan: {error}; `onnxprune prune --plan FILE` writes one"
        ) from error
    if plan.schema_version != SCHEMA_VERSION:
        raise UsageError(
            f"{name} has schema_version {plan.schema_version}, expected {SCHEMA_VERSION}: make a new plan"
        )
    return plan


def check_groups(plan: Plan) -> None:
    """Check that every group comes once, and every keep-list rises within the group's channels.

    Raises UsageError for the first that does not.
    """
    seen: set[str] = set()
    for group in plan.groups:
        if group.id in seen:
            raise UsageError(f"group '{group.id}' ({group.name}) is listed twice: keep one of them")
        seen.add(group.id)
        keep = group.keep
        if any(b <= a for a, b in pairwise(keep)) or any(not 0 <= k < group.channels for k in keep):
            raise UsageError(
                f"group '{group.id}' ({group.name}): keep must list channels in rising order, "
                f"each once, from 0 to {group.channels - 1}"
            )
