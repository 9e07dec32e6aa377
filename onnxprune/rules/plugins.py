"""Rules of other packages: modules that installed distributions name as entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from onnxprune.errors import UsageError
from onnxprune.rules.registry import REGISTRY

GROUP = "onnxprune.rules"


def load_plugins() -> None:
    """Import the modules of the entry-point group `onnxprune.rules`, once; they register their rules.

    Raises UsageError that names the distribution of a module that cannot be imported or registers an
    operator twice: a run that went on without its rules would prune less than yesterday's.
    """
    if REGISTRY.complete:
        return
    for entry in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        _load(entry)
    REGISTRY.complete = True


def _load(entry: EntryPoint) -> None:
    origin = entry.dist.name if entry.dist is not None else entry.value
    fault = f"the rules of '{origin}' (entry point '{entry.name} = {entry.value}') cannot be loaded"
    remedy = f"mend it, or 'pip uninstall {origin}'"
    if entry.attr:
        raise UsageError(f"{fault}: got an object of a module, expected the module itself; {remedy}")
    try:
        with REGISTRY.adding(origin):
            entry.load()
    except (Exception, SystemExit) as error:
        raise UsageError(f"{fault}: {type(error).__name__}: {error}; {remedy}") from error
