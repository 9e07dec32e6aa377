"""What can be added from outside, by kind: each registry with its home modules and entry-point group.

The home modules are imported on the first look-up, so whoever only names a registry imports nothing heavy.
Their classes are imported for the types only: nothing else of the root knows of a room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxprune.registry import Registry

if TYPE_CHECKING:
    from onnxprune.recovery.methods import RecoveryMethod

RECOVERIES: Registry[RecoveryMethod] = Registry(
    "recovery method", ("onnxprune.recovery.methods",), "onnxprune.recoveries"
)
