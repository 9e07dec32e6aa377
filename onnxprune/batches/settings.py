"""Settings of one model as plain data: read from manifests, hashed, sent to workers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from onnxprune.batches.hashing import file_digest
from onnxprune.errors import UsageError, nearest
from onnxprune.reports.plain import plain
from onnxprune.settings import PruneSettings
from onnxprune.settings.option import defaults_of, options_of

OPTIONS = options_of(PruneSettings)
CHOICES = ("ratio", "ratios", "targets")  # how much goes: who gives one of them replaces all


def merged(layers: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Lay settings over one another, the last on top; how much to remove is one choice."""
    result: dict[str, Any] = {}
    for layer in layers:
        if any(layer.get(key) for key in CHOICES):
            result = {key: value for key, value in result.items() if key not in CHOICES}
        result |= layer
    return result


def read(given: Mapping[str, Any], where: str, folder: Path) -> dict[str, Any]:
    """Read settings as a manifest writes them: keys checked, amounts with units, paths made absolute.

    where: what messages call the place. folder: what paths are relative to. Raises UsageError.
    """
    result: dict[str, Any] = {}
    for key, value in given.items():
        if key not in OPTIONS:
            raise UsageError(f"{where}: unknown setting '{key}'{nearest(key, OPTIONS)}")
        try:
            result[key] = OPTIONS[key].kind.read(value, folder)
        except UsageError as error:
            raise UsageError(f"{where}, '{key}': {error}") from error
    return result


def from_plain(given: Mapping[str, Any]) -> PruneSettings:
    """Make settings of plain data; files that they name are read. Raises UsageError."""
    return typed({key: OPTIONS[key].kind.loaded(value) for key, value in given.items()})


def typed(given: Mapping[str, Any], where: str = "settings") -> PruneSettings:
    """Check types and values of settings. Raises UsageError that names the place and the setting."""
    try:
        return msgspec.convert(dict(given), PruneSettings)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {str(error)[:1].lower()}{str(error)[1:]}") from error
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def differing(settings: PruneSettings) -> dict[str, Any]:
    """Return what differs from the defaults, as plain data.

    Raises UsageError for data and functions that only Python can hold.
    """
    usual, found = defaults_of(PruneSettings), {}
    for key, option in OPTIONS.items():
        try:
            found[key] = option.kind.portable(getattr(settings, key))
        except UsageError as error:
            raise UsageError(f"{key}: {error}") from error
    changed = {key: value for key, value in plain(found).items() if value != plain(usual[key])}
    return read(changed, "settings", Path.cwd())


def digest(settings: Mapping[str, Any], seen: dict[str, list[str]]) -> str:
    """Return the sha256 of resolved settings and of the bytes of the data that they name.

    seen: hashes of data by path, which grow, so that data of many models is read once.
    """
    named = (OPTIONS[key].kind.files(value) for key, value in settings.items() if value)
    paths = sorted({path for files in named for path in files})
    for path in paths:
        if path not in seen:
            seen[path] = [_digest(file) for file in _files(Path(path))]
    data = [[path, seen[path]] for path in paths]
    text = json.dumps([plain(dict(settings)), data], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(p for p in path.iterdir() if p.suffix in (".npy", ".npz"))
    elif path.is_file():
        yield path


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError:
        return ""
