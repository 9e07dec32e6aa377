"""Settings and environments as names and texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from onnxprune.quantities import size

BYTES = ("memory", "memory_limit")


def facts(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Print settings or an environment; a dash stands for what is not given."""
    for key, value in values.items():
        name = key.replace("_", " ")
        if value is None or value in ([], {}):
            yield name, "–"
        elif key in BYTES and isinstance(value, int):
            yield name, size(value)
        elif isinstance(value, Mapping):
            yield name, ", ".join(f"{k}: {_told(v)}" for k, v in value.items())
        else:
            yield name, _told(value)


def _told(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Iterable) and not isinstance(value, (str, Mapping)):
        parts = list(value)
        return (" × " if all(isinstance(v, int) for v in parts) else ", ").join(_told(v) for v in parts)
    return str(value)
