"""What a setting is beside its value: one description, kept at the field of the settings that holds it.

The command line, manifests, plans, reports and the checks of the settings read it from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from typing import Any

from onnxprune.settings.kinds import Kind

_KEY = "option"


class Group(StrEnum):
    """Options that a command takes together, and its help lists together."""

    REMOVAL = "removal"
    CRITERION = "criterion"
    CALIBRATION = "calibration"
    MEMORY = "memory"
    VALIDATION = "validation"
    WIDTHS = "widths"
    SEED = "seed"
    EVIDENCE = "evidence"
    INLINE = "inline"
    INPUTS = "inputs"
    RUNTIME = "runtime"


class Part(StrEnum):
    """What a setting shapes: which channels go, what the weights become, or the rest of the run."""

    CHOICE = "choice"
    REPAIR = "repair"
    RUN = "run"


@dataclass(frozen=True)
class Option:
    """What a setting is beside its value.

    flag: of the command line; without a group it is only for messages and command lines that are shown.
    more: the end of the help text, made when it is shown. usual: what None stands for, in words;
    otherwise: the same as a value, from all settings by name. shapes: the part of a run that it shapes,
    which is where plans and reports hold it.
    """

    kind: Kind
    flag: str = ""
    help: str = ""
    group: Group | None = None
    shapes: Part | None = None
    usual: str = ""
    otherwise: Callable[[Mapping[str, Any]], Any] | None = None
    more: Callable[[], str] | None = None

    def text(self) -> str:
        """Return the help text."""
        whole = self.help + (self.more() if self.more is not None else "")
        return f"{whole}  [default: {self.usual}]" if self.usual else whole


def setting(default: Any, option: Option) -> Any:
    """Make a field of settings; a default of MISSING makes it required."""
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata={_KEY: option})
    return field(default=default, metadata={_KEY: option})


def like(settings: type, name: str, default: Any = ...) -> Any:
    """Make a field as other settings have it, with a default of its own where one is given."""
    found = next(f for f in fields(settings) if f.name == name)
    factory = found.default_factory
    usual = factory() if factory is not MISSING else found.default
    return setting(usual if default is ... else default, found.metadata[_KEY])


def options_of(settings: type) -> dict[str, Option]:
    """Return the options of settings by field, in their order."""
    return {f.name: f.metadata[_KEY] for f in fields(settings) if _KEY in f.metadata}


def defaults_of(settings: type) -> dict[str, Any]:
    """Return the defaults of settings by field; MISSING for what is required."""
    return {
        f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(settings)
    }


def values_of(settings: Any) -> dict[str, Any]:
    """Return the values of settings by field."""
    return {name: getattr(settings, name) for name in options_of(type(settings))}


def check(settings: Any) -> None:
    """Check every value by its kind. Raises UsageError for the first that makes no sense."""
    options = options_of(type(settings))
    for name, value in values_of(settings).items():
        if value is not None:
            options[name].kind.check(options[name].flag, value)


def resolved(settings: type, given: Mapping[str, Any], name: str) -> Any:
    """Return a value of settings by name, and what it stands for where it is None."""
    option, value = options_of(settings)[name], given[name]
    return option.otherwise(given) if value is None and option.otherwise is not None else value


def section(settings: Any, *parts: Part) -> Iterator[tuple[str, Any]]:
    """Yield what settings hold that shapes these parts of a run, part by part, as plain data."""
    values = values_of(settings)
    for part in parts:
        for name, option in options_of(type(settings)).items():
            if option.shapes is part:
                yield name, option.kind.plain(resolved(type(settings), values, name))
