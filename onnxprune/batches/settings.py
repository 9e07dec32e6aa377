"""Settings of one model as plain data: read from manifests, hashed, sent to workers."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec

from onnxprune.batches.hashing import file_digest
from onnxprune.errors import UsageError, nearest
from onnxprune.quantities import parse_bytes, read_target
from onnxprune.reports.plain import plain
from onnxprune.settings import PruneSettings

KEYS = tuple(field.name for field in fields(PruneSettings))
CHOICES = ("ratio", "ratios", "targets")  # how much goes: who gives one of them replaces all
_DATA = ("calib", "validate")  # paths, relative to where they are written
_PATHS = (*_DATA, "metric")


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
        if key not in KEYS:
            raise UsageError(f"{where}: unknown setting '{key}'{nearest(key, KEYS)}")
        result[key] = _read(key, value, where, folder)
    return result


def _read(key: str, value: Any, where: str, folder: Path) -> Any:
    try:
        if key == "targets" and isinstance(value, Mapping):
            return dict(read_target(f"{name}={amount}") for name, amount in value.items())
        if key == "ratios" and isinstance(value, Mapping):
            return [[pattern, ratio] for pattern, ratio in value.items()]
        if key == "align" and value == "auto":
            return 0
        if key == "memory_limit" and isinstance(value, str):
            return parse_bytes(value)
    except UsageError as error:
        raise UsageError(f"{where}, '{key}': {error}") from error
    if key in _PATHS and value is not None and not isinstance(value, str):
        raise UsageError(f"{where}, '{key}': got {type(value).__name__}, expected text that names it")
    if key == "input_values" and isinstance(value, Mapping):
        return {name: _placed(v, folder) if _is_array(v) else v for name, v in value.items()}
    if key in _DATA or (key == "metric" and ".py:" in str(value)):
        return None if value is None else _placed(value, folder)
    return value


def _is_array(value: Any) -> bool:
    return isinstance(value, str) and value.endswith(".npy")


def _placed(text: str, folder: Path) -> str:
    return os.path.normpath(folder / text)


def from_plain(given: Mapping[str, Any]) -> PruneSettings:
    """Make settings of plain data; files of input values are read. Raises UsageError."""
    values = given.get("input_values") or {}
    return typed({**given, "input_values": {n: _array(v) if _is_array(v) else v for n, v in values.items()}})


def typed(given: Mapping[str, Any], where: str = "settings") -> PruneSettings:
    """Check types and values of settings. Raises UsageError that names the place and the setting."""
    try:
        return msgspec.convert(dict(given), PruneSettings)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {str(error)[:1].lower()}{str(error)[1:]}") from error
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def _array(path: str) -> Any:
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"file '{path}' is not an array written by numpy.save: {error}") from error


def differing(settings: PruneSettings) -> dict[str, Any]:
    """Return what differs from the defaults, as plain data.

    Raises UsageError for data and functions that only Python can hold.
    """
    usual = PruneSettings(ratio=0.0)
    found = {key: getattr(settings, key) for key in KEYS}
    for key in (key for key in _PATHS if found[key] is not None):
        if not isinstance(found[key], (str, os.PathLike)):
            got = type(found[key]).__name__
            raise UsageError(f"{key}: got {got}, expected a path: every model runs in a process of its own")
        found[key] = os.fspath(found[key])
    changed = {key: value for key, value in plain(found).items() if value != plain(getattr(usual, key))}
    return read(
        changed | ({} if settings.ratio is None else {"ratio": settings.ratio}), "settings", Path.cwd()
    )


def digest(settings: Mapping[str, Any], seen: dict[str, list[str]]) -> str:
    """Return the sha256 of resolved settings and of the bytes of the data that they name.

    seen: hashes of data by path, which grow, so that data of many models is read once.
    """
    named = [settings[key] for key in _PATHS if settings.get(key)]
    named += [v for v in (settings.get("input_values") or {}).values() if _is_array(v)]
    paths = sorted({_without_function(str(name)) for name in named})
    for path in paths:
        if path not in seen:
            seen[path] = [_digest(file) for file in _files(Path(path))]
    data = [[path, seen[path]] for path in paths]
    text = json.dumps([plain(dict(settings)), data], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _without_function(text: str) -> str:
    path, _, _ = text.rpartition(":")
    return path if path.endswith(".py") else text


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
