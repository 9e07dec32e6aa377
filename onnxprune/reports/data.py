"""What a run reports, as typed data and as the JSON of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Quantities:
    """Parameters, MACs and bytes of a model."""

    params: int
    macs: int
    bytes: int


@dataclass(frozen=True)
class SourceFacts:
    """The model that was pruned, as it was given.

    name: its path, "" where it was given in memory. inputs: the sizes that MACs are counted at.
    """

    name: str
    sha256: str
    nodes: int
    opset: int
    inputs: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Layer:
    """MACs of one node before and after; place: its number in the graph's order, functions written out."""

    node: str
    op: str
    place: int
    before: int
    after: int


@dataclass(frozen=True)
class GroupReport:
    """One group: channels before, how many were asked to stay, how many do.

    maker: the first node that produces its channels; place: the number of that node in the graph's order.
    """

    id: str
    name: str
    channels: int
    asked: int
    kept: int
    constraint: str
    maker: str = ""
    place: int = 0


@dataclass(frozen=True)
class Dropped:
    """A group that stays whole because its removal could not be proved."""

    id: str
    name: str
    reason: str


@dataclass(frozen=True)
class PinReport:
    """Channels that cannot go: where they were frozen, by which node, why, and how many."""

    tensor: str
    axis: int
    node: str
    op: str
    reason: str
    channels: int


@dataclass(frozen=True)
class PruneReport:
    """The report of `prune`; `to_dict` is the JSON of the command line.

    frozen_params: parameters that produce channels which cannot go. drift, profile: of detailed runs, what
    `onnxprune.evaluation.profile` measures.
    """

    before: Quantities
    after: Quantities
    verification: Mapping[str, Any]
    groups: tuple[GroupReport, ...]
    dropped: tuple[Dropped, ...]
    pinned: tuple[PinReport, ...]
    targets: Mapping[str, Mapping[str, float]]
    bench: Mapping[str, Any] | None
    timings: Mapping[str, float]
    settings: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    recovery: Mapping[str, Any] | None = None
    inlined: tuple[str, ...] = ()
    validation: Mapping[str, Any] | None = None
    search: tuple[Mapping[str, Any], ...] = ()
    calibration: Mapping[str, Any] | None = None
    steps: tuple[Mapping[str, Any], ...] = ()
    source: SourceFacts | None = None
    layers: tuple[Layer, ...] = ()
    frozen_params: int = 0
    drift: Mapping[str, Any] | None = None
    profile: Mapping[str, Any] | None = None

    @property
    def missed(self) -> tuple[str, ...]:
        """Return the targets that were not reached."""
        return tuple(k for k, v in self.targets.items() if v["reached"] > v["limit"])

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}


@dataclass(frozen=True)
class Holder:
    """A tensor that holds channels of a group, and the node that uses it so."""

    node: str
    op: str
    tensor: str
    role: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class GroupInfo:
    """A group as `inspect` shows it; shares are of the whole model."""

    id: str
    name: str
    channels: int
    kind: str
    params: int
    params_share: float
    macs: int
    macs_share: float
    members: tuple[Holder, ...] = field(default=())


@dataclass(frozen=True)
class InspectReport:
    """What can be removed from a model, and what cannot and why."""

    quantities: Quantities
    nodes: int
    opset: int
    inputs: Mapping[str, tuple[int, ...]]
    groups: tuple[GroupInfo, ...]
    pinned: tuple[PinReport, ...]
    frozen_params: int
    without_rule: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    inlined: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}


@dataclass(frozen=True)
class Point:
    """What one removal costs: the share asked, channels removed, MACs kept, drift, and top-1 with labels."""

    share: float
    removed: int
    macs: int
    drift: float
    top1: float | None


@dataclass(frozen=True)
class GroupSensitivity:
    """How the outputs take it when shares of one group go.

    members: the nodes or tensors that make its channels; linked: groups that lose channels with it;
    reason: why there are fewer points than shares.
    """

    id: str
    name: str
    channels: int
    params_share: float
    macs_share: float
    members: tuple[str, ...]
    linked: tuple[str, ...]
    points: tuple[Point, ...]
    reason: str = ""


@dataclass(frozen=True)
class SensitivityReport:
    """The report of `sensitivity`: by group, drift against the share removed, without repair.

    samples: inputs that were run; top1: of the unpruned model, None without labels.
    """

    quantities: Quantities
    groups: tuple[GroupSensitivity, ...]
    samples: int
    top1: float | None
    settings: Mapping[str, Any]
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    inlined: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}


@dataclass(frozen=True)
class VerifyReport:
    """The outcome of `verify`."""

    verification: Mapping[str, Any]
    matches_plan: bool
    differences: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}
