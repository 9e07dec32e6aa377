"""What a user asks of one measurement of sensitivity, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import Any

from onnxprune.errors import UsageError
from onnxprune.settings.kinds import Whole
from onnxprune.settings.option import Group, Option, check, like, setting
from onnxprune.settings.prune import PruneSettings
from onnxprune.settings.tables import Shares
from onnxprune.settings.types import check_types


@dataclass(frozen=True)
class SensitivitySettings:
    """Settings of one measurement.

    calib: as in PruneSettings; an array `labels` beside the inputs of an .npz or dict gives top-1, too.
    shares: of a group's channels that go. samples: inputs that are run, those first that ranked no
    channel. The rest is as in PruneSettings. Raises UsageError for values that make no sense.
    """

    calib: Any = like(PruneSettings, "calib", MISSING)
    shares: tuple[float, ...] = setting(
        (0.1, 0.25, 0.5, 0.75),
        Option(
            Shares(), "--share", "Share of a group's channels to remove, above 0 and below 1. Repeatable.",
            Group.CALIBRATION,
        ),
    )  # fmt: skip
    criterion: Any = like(PruneSettings, "criterion")
    granularity: str = like(PruneSettings, "granularity")
    exclude: tuple[str, ...] = like(PruneSettings, "exclude")
    samples: int = setting(
        128,
        Option(
            Whole(1), "--samples",
            "Inputs to run for every group and share, those first that ranked no channel.", Group.WIDTHS,
        ),
    )  # fmt: skip
    seed: int = setting(0, Option(Whole(), "--seed", "Seed of the criterion random.", Group.SEED))
    input_shapes: Mapping[str, tuple[int | None, ...]] = like(PruneSettings, "input_shapes")
    input_values: Mapping[str, Any] = like(PruneSettings, "input_values")
    memory_limit: int = like(PruneSettings, "memory_limit")
    inline: str = like(PruneSettings, "inline")

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        check_types(self)
        if self.calib is None:
            raise UsageError("sensitivity is measured on data: give --calib DATA")
        check(self)
        self.pruning(self.shares[0])

    @property
    def ordered(self) -> list[float]:
        """Return the shares, the smallest first, each once."""
        return sorted(set(self.shares))

    def pruning(self, share: float) -> PruneSettings:
        """Return the settings of a run of `prune` that removes this share."""
        return PruneSettings(
            ratio=share, criterion=self.criterion, granularity=self.granularity, align=1, seed=self.seed,
            calib=self.calib, recover="none", memory_limit=self.memory_limit, inline=self.inline,
            input_shapes=self.input_shapes, input_values=self.input_values,
        )  # fmt: skip
