"""Values as JSON can say them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

SCHEMA_VERSION = 1


def versioned(report: Any) -> dict[str, Any]:
    """Return a report as JSON holds it: plain data, the version of its schema first."""
    return {"schema_version": SCHEMA_VERSION, **plain(report)}


def plain(value: Any) -> Any:
    """Turn a report into what JSON can say; numbers that are not finite become null.

    The bytes are left to `json`, since names of files may hold what UTF-8, as msgspec writes it, cannot.
    """
    import msgspec  # the command line imports this module for messages, too

    return _finite(msgspec.to_builtins(value, str_keys=True, enc_hook=_other))


def _other(value: Any) -> Any:
    """Turn other mappings into dictionaries, numpy's values into numbers and lists, the rest into text."""
    if isinstance(value, Mapping):
        return dict(value)
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
