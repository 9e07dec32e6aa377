"""Rules of other packages: modules that installed distributions name as entry points."""

from __future__ import annotations

from onnxprune.registry import load_entry_points
from onnxprune.rules.registry import REGISTRY

GROUP = "onnxprune.rules"


def load_plugins() -> None:
    """Import the modules of the entry-point group `onnxprune.rules`, once; they register their rules.

    Raises UsageError that names the distribution of a module that cannot be imported or registers an
    operator twice: a run that went on without its rules would prune less than yesterday's.
    """
    if not REGISTRY.complete:
        load_entry_points(GROUP, REGISTRY.adding)
        REGISTRY.complete = True
