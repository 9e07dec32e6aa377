"""Kinds of settings: how each is written on a command line, in a manifest, in a plan and a report.

A kind knows texts and values, not what a setting means. Nothing heavy is imported here: choices that can be
added from outside are asked for when a value is read or help is shown.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from onnxprune.errors import UsageError
from onnxprune.quantities import parse_bytes
from onnxprune.registry import Named, Registry

IN_PYTHON = "given in Python"  # what a report says of data or a function that has no name
PLACEHOLDER = "DATA"  # and what stands for it on a command line


def is_script(text: str) -> bool:
    """Tell whether a text names a function of a script: `script.py:function`."""
    return text.rpartition(":")[0].endswith(".py")


class Kind:
    """Anything; repeatable: the option may come several times, and the setting holds all of them."""

    metavar: str = "NAME"
    repeatable: ClassVar[bool] = False

    def choices(self) -> tuple[str, ...]:
        """Return the words to choose from, none where anything goes."""
        return ()

    def parse(self, text: str) -> Any:
        """Read one value as the command line writes it. Raises UsageError."""
        return text

    def fields(self, name: str, value: Any) -> dict[str, Any]:
        """Return the settings that an option's parsed value stands for, by name. Raises UsageError."""
        return {name: value}

    def check(self, flag: str, value: Any) -> None:
        """Refuse a value that makes no sense. Raises UsageError."""

    def shown(self, value: Any) -> str:
        """Return the text that parses to a value."""
        return IN_PYTHON if callable(value) else str(value)

    def plain(self, value: Any) -> Any:
        """Return a value as plans and reports hold it."""
        return value

    def words(self, flag: str, value: Any) -> Iterator[str]:
        """Yield the words of a command line for a value of a report."""
        yield from (flag, PLACEHOLDER if value == IN_PYTHON else self.shown(value))

    def read(self, value: Any, _folder: Path) -> Any:
        """Read a value of a manifest in a folder: units are read, paths made absolute. Raises UsageError."""
        return value

    def portable(self, value: Any) -> Any:
        """Return a value as another process can read it. Raises UsageError where none could."""
        return value

    def loaded(self, value: Any) -> Any:
        """Read the files that a portable value names. Raises UsageError."""
        return value

    def files(self, _value: Any) -> tuple[str, ...]:
        """Name the files and folders whose content a value stands for."""
        return ()


@dataclass(frozen=True)
class Text(Kind):
    """Any text."""

    metavar: str = "TEXT"


class Flag(Kind):
    """True or false; the option stands for what is not the default."""

    def words(self, flag: str, _value: Any) -> Iterator[str]:
        """Yield the option."""
        yield flag


@dataclass(frozen=True)
class Whole(Kind):
    """A whole number, at least `least`."""

    least: int = 0
    metavar: str = "N"

    def check(self, flag: str, value: Any) -> None:
        """Refuse a number that is too small. Raises UsageError."""
        if value < self.least:
            raise UsageError(f"{flag} must be at least {self.least}: got {value}")


@dataclass(frozen=True)
class Number(Kind):
    """A number of at least 0 that is not infinite."""

    metavar: str = "X"

    def parse(self, text: str) -> float:
        """Read a number. Raises UsageError."""
        return number(text)

    def check(self, flag: str, value: Any) -> None:
        """Refuse what is negative or infinite. Raises UsageError."""
        if not 0 <= value < math.inf:
            raise UsageError(f"{flag} must be at least 0: got {value:g}")


class Bytes(Kind):
    """A number of bytes: 10MB, 2GiB."""

    metavar = "SIZE"

    def parse(self, text: str) -> int:
        """Read a number of bytes. Raises UsageError."""
        return parse_bytes(text)

    def read(self, value: Any, _folder: Path) -> Any:
        """Read a text with a unit, or a number. Raises UsageError."""
        return parse_bytes(value) if isinstance(value, str) else value

    def check(self, flag: str, value: Any) -> None:
        """Refuse what is no memory at all. Raises UsageError."""
        if value < 1:
            raise UsageError(f"{flag} must be above 0 bytes: got {value}")

    def shown(self, value: Any) -> str:
        """Print whole GiB as such, else bytes."""
        return f"{value >> 30}GiB" if value and value % (1 << 30) == 0 else str(value)


class Step(Kind):
    """A number of channels from 1, or `auto`, which is stored as 0."""

    metavar = "auto|N"

    def parse(self, text: str) -> int:
        """Read 'auto' as 0, or a number of channels. Raises UsageError for anything else."""
        if text == "auto":
            return 0
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
            raise UsageError(f"got '{text}', expected auto or a number of channels, at least 1")
        return int(text)

    def check(self, flag: str, value: Any) -> None:
        """Refuse negative numbers. Raises UsageError."""
        if value < 0:
            raise UsageError(f"{flag} is 'auto' or at least 1: got {value}")

    def read(self, value: Any, _folder: Path) -> Any:
        """Read auto as 0."""
        return 0 if value == "auto" else value

    def shown(self, value: Any) -> str:
        """Print auto, or the number."""
        return str(value) if value else "auto"


@dataclass(frozen=True)
class Word(Kind):
    """One of a few words."""

    known: tuple[str, ...]

    def choices(self) -> tuple[str, ...]:
        """Return the words."""
        return self.known

    def parse(self, text: str) -> str:
        """Read a word. Raises UsageError."""
        self.check("", text)
        return text

    def check(self, flag: str, value: Any) -> None:
        """Refuse another word. Raises UsageError."""
        if value not in self.known:
            what = f"unknown {flag.lstrip('-')} " if flag else "got "
            raise UsageError(f"{what}'{value}', expected one of {', '.join(self.known)}")


@dataclass(frozen=True)
class Name(Kind):
    """The name of an entry of a registry, from Python also an entry or a function.

    scripts: `script.py:function` will do, too.
    """

    registry: Registry[Any]
    scripts: bool = False

    def choices(self) -> tuple[str, ...]:
        """Return the names, none where a script will do."""
        return () if self.scripts else self.registry.names()

    def parse(self, text: str) -> str:
        """Read a name. Raises UsageError for an unknown one, with the nearest names."""
        self.check("", text)
        return text

    def check(self, flag: str, value: Any) -> None:
        """Refuse what is neither a known name nor can be called. Raises UsageError."""
        if callable(value) or (self.scripts and is_script(str(value))):
            return
        if not isinstance(value, str):
            raise UsageError(f"{flag}: got {type(value).__name__}, expected a name or a function")
        self.registry.get(value)

    def plain(self, value: Any) -> Any:
        """Return a name; a function has none."""
        return IN_PYTHON if callable(value) else value

    def read(self, value: Any, folder: Path) -> Any:
        """Read a name; the path of a script is made absolute. Raises UsageError."""
        text = _text(value)
        return placed(text, folder) if text is not None and self.files(text) else text

    def portable(self, value: Any) -> Any:
        """Return a name. Raises UsageError for what has none."""
        return _portable(value, "a name")

    def files(self, value: Any) -> tuple[str, ...]:
        """Name the script."""
        return (str(value).rpartition(":")[0],) if self.scripts and is_script(str(value)) else ()


@dataclass(frozen=True)
class Data(Kind):
    """Inputs of a model: a file, a folder, a function of a script, or from Python arrays.

    known: words that stand for something else than a path.
    """

    known: tuple[str, ...] = ()
    metavar: str = "DATA"

    def plain(self, value: Any) -> Any:
        """Return the path; arrays have none."""
        named = value is None or isinstance(value, (str, os.PathLike))
        return value and os.fspath(value) if named else IN_PYTHON

    def read(self, value: Any, folder: Path) -> Any:
        """Make a path absolute. Raises UsageError where it is none."""
        text = _text(value)
        return text if text is None or text in self.known else placed(text, folder)

    def portable(self, value: Any) -> Any:
        """Return the path. Raises UsageError for arrays."""
        return _portable(value, "a path")

    def files(self, value: Any) -> tuple[str, ...]:
        """Name the file, folder or script."""
        text = str(value)
        return () if text in self.known else (text.rpartition(":")[0] if is_script(text) else text,)


class Share(Kind):
    """A share of channels to remove: at least 0 and below 1."""

    def check(self, _flag: str, value: Any) -> None:
        """Refuse what is no share. Raises UsageError."""
        if not 0 <= value < 1:
            raise UsageError(
                f"got ratio {value:g}, expected the share of channels to remove: at least 0 and below 1"
            )

    def shown(self, value: Any) -> str:
        """Print it briefly."""
        return f"{value:g}"


def described(entries: Iterable[Named]) -> str:
    """List entries with their summaries, for help texts."""
    return ", ".join(f"{entry.name} ({entry.summary})" for entry in entries)


def placed(text: str, folder: Path) -> str:
    """Make a path absolute that is written relative to a folder."""
    return os.path.normpath(folder / text)


def number(text: str) -> float:
    """Read a number. Raises UsageError."""
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"got '{text}', expected a number") from None


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise UsageError(f"got {type(value).__name__}, expected text that names it")
    return value


def _portable(value: Any, wanted: str) -> Any:
    if value is not None and not isinstance(value, (str, os.PathLike)):
        got = type(value).__name__
        raise UsageError(f"got {got}, expected {wanted}: every model runs in a process of its own")
    return value and os.fspath(value)
