"""Settings, commands and environments as names and texts."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

import onnxprune
from onnxprune.evaluation.latency import cpu_name
from onnxprune.model.machine import cores, memory
from onnxprune.quantities import size
from onnxprune.settings import PruneSettings
from onnxprune.settings.option import defaults_of, options_of, resolved

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


def environment() -> dict[str, Any]:
    """Return versions, the processor, its cores, and the memory in bytes."""
    return {
        "onnxprune": onnxprune.__version__,
        **{name: version(name) for name in ("onnx", "onnxruntime", "numpy")},
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": cpu_name(),
        "cores": cores(),
        "memory": memory(),
    }


def command(settings: Mapping[str, Any], model: str, output: str) -> list[str]:
    """Return the words of the command that prunes a model with these settings, quoted for a shell.

    What is as it would be anyway is left out; what was given in Python stands as DATA.
    """
    parts = ["onnxprune", "prune", model or "MODEL", "-o", output or "OUT", *_options(settings)]
    return [shlex.quote(part) for part in parts]


def _options(settings: Mapping[str, Any]) -> Iterator[str]:
    defaults = defaults_of(PruneSettings)
    given = {**defaults, **settings}
    for name, option in options_of(PruneSettings).items():
        usual = resolved(PruneSettings, {**given, name: defaults[name]}, name)
        if option.flag and name in settings and settings[name] != option.kind.plain(usual):
            yield from option.kind.words(option.flag, settings[name])
