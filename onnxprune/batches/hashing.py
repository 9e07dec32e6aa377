"""Which bytes a model was read from, by sha256."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from onnxprune.errors import ModelError, printable, shortened
from onnxprune.paths import open_file


class Unreadable(ModelError):
    """The file of a model cannot be read at all."""


def digests(path: str, data: Iterable[str] = ()) -> dict[str, str]:
    """Return the sha256 of a model's files by path, the model first.

    Raises Unreadable where the model itself cannot be read.
    """
    return {path: _digest(path)} | digests_of_data(data)


def digests_of_data(paths: Iterable[str]) -> dict[str, str]:
    """Return the sha256 of external data by path, empty for what cannot be read."""
    result = {}
    for path in paths:
        try:
            result[path] = _digest(path)
        except Unreadable:
            result[path] = ""
    return result


def _digest(path: str) -> str:
    shown = shortened(printable(path))
    try:
        return file_digest(Path(path))
    except OSError as error:
        raise Unreadable(f"'{shown}' cannot be read: {error.strerror or error}") from error


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def combined(inputs: Mapping[str, str]) -> str:
    """Return one hash for all files of a model: of a single file its own sha256."""
    found = list(inputs.values())
    if len(found) > 1:
        return hashlib.sha256("".join(found).encode()).hexdigest()
    return found[0] if found else ""
