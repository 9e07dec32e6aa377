"""What a recovery method works with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from onnxprune.analysis.replay import Removal
from onnxprune.data.images import mirrored
from onnxprune.data.moments import Evidence
from onnxprune.data.read import Calibration, Feeds
from onnxprune.progress import Steps, unseen
from onnxprune.recovery.activation_budget import ActivationBudget

LIMIT = 2 << 30


@dataclass(frozen=True)
class RecoveryContext:
    """A removal, and what there is to repair it with.

    original: the unpruned model. data: inputs to fit to and to judge by, as many as there is room for where
    the method keeps activations of them. evidence: consumers and moments, of all inputs. room: what one
    batch takes between layers, None for methods that keep nothing. limit: bytes that may be used.
    """

    original: onnx.ModelProto
    removal: Removal
    data: Calibration
    evidence: Evidence
    room: ActivationBudget | None = None
    limit: int = LIMIT
    progress: Steps = unseen

    def mirrored(self) -> Sequence[Feeds]:
        """Mirror the images among the inputs to fit with; none where there are none, or no room for them."""
        fit = self.data.fit
        if self.room is None or not self.room.holds(len(self.data.batches) + len(fit)):
            return ()
        return mirrored(fit)
