"""The command line that a report's settings stand for."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from onnxprune.settings import PruneSettings
from onnxprune.settings.option import defaults_of, options_of, resolved


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
        if option.flag and given[name] != option.kind.plain(usual):
            yield from option.kind.words(option.flag, given[name])
