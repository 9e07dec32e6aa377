"""What can be added from outside, by kind: each registry with its home modules and entry-point group.

The home modules are imported on the first look-up, so whoever only names a registry imports nothing heavy.
Their classes are imported for the types only: nothing else of the root knows of a room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxprune.registry import Registry

if TYPE_CHECKING:
    from onnxprune.evaluation.metrics import Metric
    from onnxprune.planning.criterion import Criterion
    from onnxprune.planning.target import Target
    from onnxprune.recovery.methods import RecoveryMethod

CRITERIA: Registry[Criterion] = Registry(
    "criterion", ("onnxprune.planning.criteria", "onnxprune.planning.data_criteria"), "onnxprune.criteria"
)
METRICS: Registry[Metric] = Registry(
    "metric", ("onnxprune.evaluation.metrics", "onnxprune.evaluation.boxes"), "onnxprune.metrics"
)
RECOVERIES: Registry[RecoveryMethod] = Registry(
    "recovery method", ("onnxprune.recovery.methods",), "onnxprune.recoveries"
)
TARGETS: Registry[Target] = Registry("target", ("onnxprune.planning.targets",), "onnxprune.targets")
