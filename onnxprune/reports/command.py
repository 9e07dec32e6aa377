"""The command line that a report's settings stand for."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from onnxprune.choices import IN_PYTHON

PLACEHOLDER = "DATA"
SIMPLE = (
    ("granularity", "finest"), ("min_channels", 1), ("seed", 0), ("inline", "auto"), ("threads", 1),
    ("provider", "CPUExecutionProvider"), ("memory_limit", 2 << 30), ("max_drop", None), ("validate", None),
    ("metric", None), ("calib", None), ("align", 0),
)  # fmt: skip


def command(settings: Mapping[str, Any], model: str, output: str) -> list[str]:
    """Return the words of the command that prunes a model with these settings, quoted for a shell.

    What is as it would be anyway is left out; what was given in Python stands as DATA.
    """
    parts = ["onnxprune", "prune", model or "MODEL", "-o", output or "OUT", *_options(settings)]
    return [shlex.quote(part) for part in parts]


def _options(settings: Mapping[str, Any]) -> Iterator[str]:
    if settings.get("ratio") is not None:
        yield from ("--ratio", f"{settings['ratio']:g}")
    for pattern, ratio in settings.get("ratios", ()):
        yield from ("--ratio", f"{pattern}={ratio:g}")
    for key, value in settings.get("targets", {}).items():
        yield from ("--target", f"{key}={int(value) if value == int(value) else value}")
    data = settings.get("calib") is not None
    usual = (
        ("criterion", "obs" if data else "l2"), ("recover", "refit" if data else "none"),
        ("scope", "global" if settings.get("targets") else "local"), *SIMPLE,
    )  # fmt: skip
    for key, default in usual:
        value = settings.get(key, default)
        if value != default:
            yield from ("--" + key.replace("_", "-"), PLACEHOLDER if value == IN_PYTHON else str(value))
    for pattern in settings.get("exclude", ()):
        yield from ("--exclude", pattern)
    for name, shape in settings.get("input_shapes", {}).items():
        yield from ("--input-shape", f"{name}:{','.join('?' if n is None else str(n) for n in shape)}")
    for name in settings.get("input_values", ()):
        yield from ("--input-value", f"{name}={PLACEHOLDER}")
    if settings.get("allow_unproved"):
        yield "--allow-unproved"
