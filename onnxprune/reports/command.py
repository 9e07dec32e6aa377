"""The command line that a report's settings stand for."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from onnxprune.choices import IN_PYTHON
from onnxprune.settings import PruneSettings

PLACEHOLDER = "DATA"
SIMPLE = (
    "granularity", "min_channels", "steps", "seed", "inline", "threads", "provider", "memory_limit",
    "max_drop", "validate", "metric", "calib", "align",
)  # fmt: skip
DEFAULTS = {field.name: field.default for field in fields(PruneSettings)}


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
    like = PruneSettings(ratio=0.5, calib=settings.get("calib"))
    usual = {
        "criterion": like.resolved_criterion,
        "recover": like.resolved_recover,
        "scope": "global" if settings.get("targets") else "local",
        **{name: DEFAULTS[name] for name in SIMPLE},
    }
    for key, default in usual.items():
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
