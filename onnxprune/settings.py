"""What a user asks for, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxprune.choices import (
    CRITERIA,
    DATA_CRITERIA,
    GRANULARITIES,
    INLINING,
    METRICS,
    QUALITIES,
    RECOVERIES,
    SCOPES,
    SYNTHETIC,
    TARGETS,
)
from onnxprune.errors import UsageError


@dataclass(frozen=True)
class PruneSettings:
    """Settings of one run.

    ratio: share of the channels removed; ratios: (pattern, ratio) pairs that override it.
    targets: what may remain, a share of the original up to 1 or an absolute amount (`macs`, `params`,
    `size` in bytes); or how much worse the outputs may get, `drift` or the `drop` of the metric, for which
    the fewest MACs are searched. align: widths are multiples of this many channels; 0 stands for `auto`.
    inline: which model-local functions are written out, `auto` for those without a rule.
    calib: calibration data as `read_calibration` takes it; the word "synthetic" makes it up. criterion,
    scope, recover: None for what suits the rest. memory_limit: bytes for the Gram matrices of one pass
    over the data, and for what a repair keeps between layers.
    validate: data to judge the whole model on, as for `calib`, with `labels` or targets beside the inputs;
    metric: one of METRICS, `script.py:function` or a function (outputs by name, labels or None), None for
    what suits the data; max_drop: by how much it may get worse, or nothing is written. steps: in how many
    to choose and repair.
    detailed: measure what only pages show, too: drift on generated inputs, time by kind of operator.
    Raises UsageError for values that make no sense.
    """

    ratio: float | None = None
    ratios: tuple[tuple[str, float], ...] = ()
    targets: Mapping[str, float] = field(default_factory=dict)
    criterion: str | None = None
    scope: str | None = None
    granularity: str = "finest"
    align: int = 0
    min_channels: int = 1
    exclude: tuple[str, ...] = ()
    seed: int = 0
    input_shapes: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    input_values: Mapping[str, Any] = field(default_factory=dict)
    bench: bool = True
    allow_unproved: bool = False
    threads: int = 1
    provider: str = "CPUExecutionProvider"
    calib: Any = None
    recover: str | None = None
    memory_limit: int = 2 << 30
    inline: str = "auto"
    validate: Any = None
    metric: Any = None
    max_drop: float | None = None
    steps: int = 1
    detailed: bool = False

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        asked = self.ratio is not None or bool(self.ratios)
        if asked == bool(self.targets):
            raise UsageError(
                "one of --ratio and --target is required, not both: got " + ("both" if asked else "neither")
            )
        for value in [self.ratio or 0.0, *(r for _, r in self.ratios)]:
            if not 0 <= value < 1:
                raise UsageError(
                    f"got ratio {value:g}, expected the share of channels to remove: at least 0 and below 1"
                )
        self._check_targets()
        if self.ratios and self.resolved_scope == "global":
            raise UsageError(
                "ratios by pattern go with the local scope only: leave --scope out, or use --ratio R"
            )
        _one_of("criterion", self.resolved_criterion, CRITERIA)
        _one_of("recover", self.resolved_recover, RECOVERIES)
        if self.calib is None and self.resolved_criterion in DATA_CRITERIA:
            raise UsageError(f"criterion {self.criterion} looks at activations: give --calib DATA, or a norm")
        if self.calib is None and self.resolved_recover != "none":
            raise UsageError(f"--recover {self.recover} fits to activations: give --calib DATA")
        self._check_validation()
        _one_of("granularity", self.granularity, GRANULARITIES)
        _one_of("inline", self.inline, INLINING)
        if self.scope is not None:
            _one_of("scope", self.scope, SCOPES)
        if self.steps < 1:
            raise UsageError(f"--steps must be at least 1: got {self.steps}")
        if self.steps > 1 and self.calib is None:
            raise UsageError("--steps chooses again after each repair, by data: give --calib DATA")
        if self.min_channels < 1:
            raise UsageError(f"--min-channels must be at least 1: got {self.min_channels}")
        if self.align < 0:
            raise UsageError(f"--align is 'auto' or at least 1: got {self.align}")

    def _check_targets(self) -> None:
        for key, value in self.targets.items():
            if key not in TARGETS:
                raise UsageError(f"unknown target '{key}', expected one of {', '.join(TARGETS)}")
            if not value > 0 and not (key == "drop" and value == 0):
                raise UsageError(f"target {key} must be above 0: got {value:g}")
            if 1 < value < 1000 and key not in QUALITIES:
                raise UsageError(
                    f"target {key}={value:g}: a share is at most 1, an amount at least 1000, e.g. 1.5M"
                )
        others = [key for key in self.targets if key not in QUALITIES]
        if self.sought and others:
            raise UsageError(
                f"target {next(iter(self.sought))} searches for the fewest MACs: leave out target {others[0]}"
            )
        if "drop" in self.sought and self.validate is None:
            raise UsageError("target drop is of the metric on validation data: give --validate DATA")
        if "drift" in self.sought and self.validate is None and self.calib is None:
            raise UsageError("target drift is measured on data: give --calib DATA or --validate DATA")

    def _check_validation(self) -> None:
        if self.validate is None and (self.metric is not None or self.max_drop is not None):
            option = "--metric" if self.metric is not None else "--max-drop"
            raise UsageError(f"{option} judges on validation data: give --validate DATA")
        if self.metric is not None and not callable(self.metric) and ".py:" not in str(self.metric):
            _one_of("metric", self.metric, (*METRICS, "script.py:function"))
        if self.max_drop is not None and not 0 <= self.max_drop < float("inf"):
            raise UsageError(f"--max-drop must be at least 0: got {self.max_drop:g}")

    @property
    def sought(self) -> dict[str, float]:
        """Return the targets that are searched for: how much worse the outputs may get."""
        return {key: value for key, value in self.targets.items() if key in QUALITIES}

    @property
    def synthetic(self) -> bool:
        """Tell whether calibration inputs are to be made up."""
        return isinstance(self.calib, str) and self.calib == SYNTHETIC

    @property
    def resolved_criterion(self) -> str:
        """Return the criterion: l2 without calibration data, obs with it, unless asked otherwise."""
        return self.criterion or ("l2" if self.calib is None else "obs")

    @property
    def resolved_recover(self) -> str:
        """Return the repair: none without calibration data, joint with it, unless asked otherwise."""
        return self.recover or ("none" if self.calib is None else "joint")

    @property
    def resolved_scope(self) -> str:
        """Return the scope: local for ratios, global for targets, unless asked otherwise."""
        return self.scope or ("global" if self.targets else "local")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"unknown {name} '{value}', expected one of {', '.join(choices)}")
