"""Kinds of settings that hold several values: patterns, and tables by name.

Their options may come several times.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune.errors import UsageError, without_object
from onnxprune.paths import open_file
from onnxprune.quantities import read_target
from onnxprune.registries import TARGETS
from onnxprune.settings.kinds import PLACEHOLDER, Kind, Share, number, placed


class Patterns(Kind):
    """Patterns of names."""

    metavar = "PATTERN"
    repeatable = True

    def plain(self, value: Any) -> Any:
        """Return a list."""
        return list(value)

    def words(self, flag: str, value: Any) -> Iterator[str]:
        """Yield the option for each."""
        for pattern in value:
            yield from (flag, pattern)


class Shares(Kind):
    """Shares of channels to remove: above 0 and below 1."""

    metavar = "S"
    repeatable = True

    def parse(self, text: str) -> float:
        """Read a share. Raises UsageError."""
        return number(text)

    def check(self, _flag: str, value: Any) -> None:
        """Refuse what is no share, and none at all. Raises UsageError."""
        if not value:
            raise UsageError("no share is given: expected shares of channels to remove, such as 0.5")
        for share in value:
            if not 0 < share < 1:
                raise UsageError(f"got share {share:g}, expected a share of channels above 0 and below 1")

    def shown(self, value: Any) -> str:
        """Print them all."""
        return ", ".join(f"{share:g}" for share in value)


@dataclass(frozen=True)
class Ratios(Kind):
    """Shares by pattern; on the command line also the one without a pattern, the setting `plain`."""

    whole: str
    metavar: str = "R|PATTERN=R"
    repeatable = True

    def parse(self, text: str) -> tuple[str | None, float]:
        """Read 'R' or 'PATTERN=R' as a pattern (or None) and a ratio. Raises UsageError."""
        pattern, equals, number = text.rpartition("=")
        if equals and not pattern:
            raise UsageError(f"got '{text}', expected a pattern before '=': a name, a glob or type:Conv")
        try:
            return pattern or None, float(number)
        except ValueError:
            raise UsageError(
                f"got '{number}', expected the share removed, such as 0.5 or 'conv1*=0.3'"
            ) from None

    def fields(self, name: str, value: Any) -> dict[str, Any]:
        """Split the values into the one for all groups and those for patterns. Raises UsageError."""
        plain = [ratio for pattern, ratio in value if pattern is None]
        if len(plain) > 1:
            raise UsageError(f"--ratio: got {len(plain)} for all groups, expected one; others are PATTERN=R")
        special = tuple((pattern, ratio) for pattern, ratio in value if pattern is not None)
        return {self.whole: plain[0] if plain else None, name: special}

    def check(self, flag: str, value: Any) -> None:
        """Refuse what is no share. Raises UsageError."""
        for _, ratio in value:
            Share().check(flag, ratio)

    def plain(self, value: Any) -> Any:
        """Return a list of pairs."""
        return [list(pair) for pair in value]

    def words(self, flag: str, value: Any) -> Iterator[str]:
        """Yield the option for each pattern."""
        for pattern, ratio in value:
            yield from (flag, f"{pattern}={ratio:g}")

    def read(self, value: Any, _folder: Path) -> Any:
        """Read a table of shares by pattern as pairs."""
        return [[pattern, ratio] for pattern, ratio in value.items()] if isinstance(value, Mapping) else value


class _Pairs(Kind):
    """Values by name, each given once."""

    repeatable = True

    def fields(self, name: str, value: Any) -> dict[str, Any]:
        """Collect pairs. Raises UsageError for a name that is given twice."""
        result: dict[str, Any] = {}
        for key, entry in value:
            if key in result:
                raise UsageError(f"--{name[:-1].replace('_', '-')}: '{key}' is given twice")
            result[key] = entry
        return {name: result}


class Targets(_Pairs):
    """Values of targets by name."""

    metavar = "KEY=VALUE"

    def parse(self, text: str) -> tuple[str, float]:
        """Read 'KEY=VALUE'. Raises UsageError for an unknown key or unit."""
        return read_target(text)

    def check(self, _flag: str, value: Any) -> None:
        """Refuse unknown targets, and values that make no sense. Raises UsageError."""
        for key, entry in value.items():
            TARGETS.get(key).check(entry)

    def plain(self, value: Any) -> Any:
        """Return a table."""
        return dict(value)

    def words(self, flag: str, value: Any) -> Iterator[str]:
        """Yield the option for each target."""
        for key, entry in value.items():
            yield from (flag, f"{key}={int(entry) if entry == int(entry) else entry}")

    def read(self, value: Any, _folder: Path) -> Any:
        """Read a table of targets, with units or without. Raises UsageError."""
        if not isinstance(value, Mapping):
            return value
        return dict(read_target(f"{name}={amount}") for name, amount in value.items())


class Shapes(_Pairs):
    """Sizes of inputs by name."""

    metavar = "NAME:1,3,224,224"

    def parse(self, text: str) -> tuple[str, tuple[int | None, ...]]:
        """Read 'NAME:1,3,224,224'; '?' and -1 stand for sizes to choose, nothing for a scalar.

        Raises UsageError where a size is no number.
        """
        name, colon, sizes = text.rpartition(":")
        if not colon or not name:
            raise UsageError(f"got '{text}', expected NAME:SIZES such as input:1,3,224,224")
        shape = tuple(_size(part.strip(), text) for part in sizes.split(",")) if sizes.strip() else ()
        return name, shape

    def plain(self, value: Any) -> Any:
        """Return a table of lists."""
        return {name: list(shape) for name, shape in value.items()}

    def words(self, flag: str, value: Any) -> Iterator[str]:
        """Yield the option for each input."""
        for name, shape in value.items():
            yield from (flag, f"{name}:{','.join('?' if n is None else str(n) for n in shape)}")


class Values(_Pairs):
    """Values of inputs by name; a report holds only the names."""

    metavar = "NAME=VALUE|FILE.npy"

    def parse(self, text: str) -> tuple[str, Any]:
        """Read 'NAME=VALUE' (a number, true, false, a list in JSON, or text) or 'NAME=FILE.npy'.

        Raises UsageError for a file that cannot be read or holds Python objects.
        """
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"got '{text}', expected NAME=VALUE or NAME=FILE.npy")
        if _is_array(value):
            return name, _array(value)
        try:
            return name, json.loads(value)
        except (ValueError, RecursionError):
            return name, value

    def plain(self, value: Any) -> Any:
        """Return the names."""
        return sorted(value)

    def words(self, flag: str, value: Any) -> Iterator[str]:
        """Yield the option for each input."""
        for name in value:
            yield from (flag, f"{name}={PLACEHOLDER}")

    def read(self, value: Any, folder: Path) -> Any:
        """Make the paths of files absolute."""
        if not isinstance(value, Mapping):
            return value
        return {name: placed(v, folder) if _is_array(v) else v for name, v in value.items()}

    def loaded(self, value: Any) -> Any:
        """Read the files. Raises UsageError."""
        return {name: _array(v) if _is_array(v) else v for name, v in value.items()}

    def files(self, value: Any) -> tuple[str, ...]:
        """Name the files."""
        return tuple(v for v in value.values() if _is_array(v))


def _size(text: str, whole: str) -> int | None:
    if text in ("?", "-1"):
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise UsageError(f"got size '{text}' in '{whole}', expected a number, or ? for one to choose")
    return int(text)


def _is_array(value: Any) -> bool:
    return isinstance(value, str) and value.endswith(".npy")


def _array(path: str) -> Any:
    import numpy as np

    try:
        with open_file(path) as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise UsageError(f"file '{path}' cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, SyntaxError) as error:
        raise UsageError(
            f"file '{path}' is not an array written by numpy.save: {without_object(error)}"
        ) from error
