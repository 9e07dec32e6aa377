"""What a run reports: typed data whose fields are the JSON of the command line (`onnxprune.reports.plain`).

A stage below this room says what it found in a structure of its own; reports hold these as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from onnxprune.evaluation.closeness import Closeness
from onnxprune.evaluation.latency import BenchResult
from onnxprune.evaluation.profile import OperatorTimes, SampledDrift
from onnxprune.evaluation.validation import Validated
from onnxprune.model.fold import FoldedTensor
from onnxprune.oracle.prove import Verification
from onnxprune.recovery.unrepaired import Unrepaired


class Quantities(Struct, frozen=True):
    """Parameters, MACs and bytes of a model."""

    params: int
    macs: int
    bytes: int


class SourceFacts(Struct, frozen=True):
    """The model that was pruned, as it was given.

    name: its path, "" where it was given in memory. inputs: the sizes that MACs are counted at.
    """

    name: str
    sha256: str
    nodes: int
    opset: int
    inputs: Mapping[str, tuple[int, ...]]


class Layer(Struct, frozen=True):
    """MACs of one node before and after; place: its number in the graph's order, functions written out."""

    node: str
    op: str
    place: int
    before: int
    after: int


class GroupReport(Struct, frozen=True):
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


class Dropped(Struct, frozen=True):
    """A group that stays whole because its removal could not be proved."""

    id: str
    name: str
    reason: str


class PinReport(Struct, frozen=True):
    """Channels that cannot go: where they were frozen, by which node, why, and how many."""

    tensor: str
    axis: int
    node: str
    op: str
    reason: str
    channels: int


class StepReport(Struct, frozen=True):
    """Why a target was passed under: the smallest step that could have been put back.

    group: its id; channels: how many of it go at once; share: what the step takes, below: by how much the
    target was passed under, both of the whole; aligned: --align makes the step as large as it is.
    """

    group: str
    name: str
    channels: int
    share: float
    below: float
    aligned: bool = False


class TargetReport(Struct, frozen=True):
    """What a target allows, and what came of it, in its own unit.

    floor: the least that can be left; exact_floor: the same with every width allowed (`--align 1`).
    """

    limit: float
    reached: float
    floor: float | None = None
    exact_floor: float | None = None
    step: StepReport | None = None


class RecoveryReport(Struct, frozen=True):
    """What the repair did; drift is on the calibration batches held out.

    samples: that layers were fitted to or judged on. repaired: how many tensors have other values;
    unrepaired: weights that lost inputs and have not.
    """

    method: str
    samples: int
    repaired: int
    drift_before: float
    drift_after: float
    unrepaired: tuple[Unrepaired, ...] = ()


class CalibrationReport(Struct, frozen=True):
    """Where calibration data comes from: "given", or "synthesised" and how chosen."""

    source: str
    samples: int
    chosen: str | None


class Trial(Mapping[str, float]):
    """One trial of a search, by the keys of its JSON.

    asked, macs_share: of the MACs, what was asked for and what was left; then by name what was measured of
    each quality that is sought; holds: whether all of these are good enough.
    """

    def __init__(self, values: Mapping[str, float | None]) -> None:
        """Take values as JSON has them, with null for what is not finite."""
        self._values = {key: math.inf if value is None else value for key, value in values.items()}

    def __getitem__(self, key: str) -> float:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def macs_share(self) -> float:
        """Return the share of the MACs that was left."""
        return self["macs_share"]

    @property
    def holds(self) -> bool:
        """Tell whether it was good enough."""
        return bool(self["holds"])


class Step(Struct, frozen=True):
    """What a step before the last left."""

    macs: int


class PruneReport(Struct, frozen=True):
    """The report of `prune`.

    settings: the resolved ones, plain data. frozen_params: parameters that stay whatever goes.
    drift, profile: only of detailed runs. closeness: None without data.
    """

    before: Quantities
    after: Quantities
    verification: Verification
    groups: tuple[GroupReport, ...]
    dropped: tuple[Dropped, ...]
    pinned: tuple[PinReport, ...]
    targets: Mapping[str, TargetReport]
    bench: BenchResult | None
    timings: Mapping[str, float]
    settings: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    recovery: RecoveryReport | None = None
    inlined: tuple[str, ...] = ()
    validation: Validated | None = None
    search: tuple[Trial, ...] = ()
    calibration: CalibrationReport | None = None
    steps: tuple[Step, ...] = ()
    source: SourceFacts | None = None
    layers: tuple[Layer, ...] = ()
    frozen_params: int = 0
    drift: SampledDrift | None = None
    profile: OperatorTimes | None = None
    folded: tuple[FoldedTensor, ...] = ()
    closeness: Closeness | None = None

    @property
    def missed(self) -> tuple[str, ...]:
        """Return the targets that were not reached."""
        return tuple(k for k, v in self.targets.items() if v.reached > v.limit)


class Holder(Struct, frozen=True):
    """A tensor that holds channels of a group, and the node that uses it so."""

    node: str
    op: str
    tensor: str
    role: str
    shape: tuple[int, ...]


class GroupInfo(Struct, frozen=True):
    """A group as `inspect` shows it; shares are of the whole model."""

    id: str
    name: str
    channels: int
    kind: str
    params: int
    params_share: float
    macs: int
    macs_share: float
    members: tuple[Holder, ...] = ()


class InspectReport(Struct, frozen=True):
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
    folded: tuple[FoldedTensor, ...] = ()


class Point(Struct, frozen=True):
    """What one removal costs: the share asked, channels removed, MACs kept, drift, and top-1 with labels."""

    share: float
    removed: int
    macs: int
    drift: float
    top1: float | None


class GroupSensitivity(Struct, frozen=True):
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


class SensitivityRun(Struct, frozen=True):
    """How sensitivity was measured; shares: of a group's channels that went, rising."""

    shares: tuple[float, ...]
    criterion: str
    granularity: str
    exclude: tuple[str, ...]
    seed: int
    calibration: CalibrationReport


class SensitivityReport(Struct, frozen=True):
    """The report of `sensitivity`: by group, drift against the share removed, without repair.

    samples: inputs that were run; top1: of the unpruned model, None without labels.
    """

    quantities: Quantities
    groups: tuple[GroupSensitivity, ...]
    samples: int
    top1: float | None
    settings: SensitivityRun
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    inlined: tuple[str, ...] = ()
    folded: tuple[FoldedTensor, ...] = ()


class VerifyReport(Struct, frozen=True):
    """The outcome of `verify`."""

    verification: Verification
    matches_plan: bool
    differences: tuple[str, ...]
