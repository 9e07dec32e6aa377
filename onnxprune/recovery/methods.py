"""The methods that repair a pruned model, by name."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.registries import RECOVERIES


@dataclass(frozen=True)
class RecoveryMethod:
    """A repair; needs_data: it fits to activations, so calibration data must be given."""

    name: str
    summary: str
    needs_data: bool = True


RECOVERIES.add(RecoveryMethod("none", "weights stay as they are", needs_data=False))
RECOVERIES.add(RecoveryMethod("bias", "biases only"))
RECOVERIES.add(RecoveryMethod("ls", "weights by least squares between channels"))
RECOVERIES.add(RecoveryMethod("refit", "every layer fitted to the original's outputs"))
RECOVERIES.add(RecoveryMethod("joint", "layers fitted together after refit"))
