"""Manifests: which models, with which settings; TOML or JSON.

[run]                       # jobs, timeout, memory_limit, dask
[defaults]                  # any field of PruneSettings
[[models]]
path = "vision/a.onnx"      # relative to the manifest; a folder or a glob stands for all that it holds
name = "a-half.onnx"        # what the output is called, by default the path
[models.settings]           # on top of the defaults
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxprune.batches import options, settings
from onnxprune.batches.options import BatchSettings
from onnxprune.batches.sources import MANIFESTS, SourceEntry, checked, found
from onnxprune.errors import UsageError, nearest
from onnxprune.model.files import write_file
from onnxprune.paths import read_file
from onnxprune.reports.plain import plain

_TABLES = ("schema_version", "run", "defaults", "models")
_MODEL = ("path", "name", "settings")
_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """The models with their settings, and the settings of the run, as far as they are written down."""

    entries: tuple[SourceEntry, ...]
    run: Mapping[str, Any]


def is_manifest(source: str) -> bool:
    """Tell whether a source is a manifest by its name."""
    return source.endswith(MANIFESTS) and not os.path.isdir(source)


def read(path: Path, output: Path) -> Manifest:
    """Read a manifest. Raises UsageError that names the place, and for unknown keys the nearest name."""
    given, where = _parsed(path), f"manifest '{path}'"
    _known(given, _TABLES, where)
    if given.get("schema_version", _VERSION) != _VERSION:
        raise UsageError(f"{where}: schema_version is {given['schema_version']}, expected {_VERSION}")
    defaults = settings.read(_table(given, "defaults", where), f"{where}, [defaults]", path.parent)
    models = given.get("models", [])
    if not isinstance(models, list) or not models:
        raise UsageError(f"{where}: got no models, expected a list of tables [[models]], each with a path")
    entries = [
        e for i, m in enumerate(models) for e in _entries(m, f"{where}, model {i + 1}", path.parent, output)
    ]
    on_top = [replace(e, settings=settings.merged([defaults, e.settings])) for e in entries]
    run = options.read(_table(given, "run", where), f"{where}, [run]")
    return Manifest(tuple(checked(on_top, output)), run)


def _parsed(path: Path) -> Mapping[str, Any]:
    try:
        data = read_file(path).decode()
        given = tomllib.loads(data) if path.suffix == ".toml" else json.loads(data)
    except OSError as error:
        raise UsageError(f"manifest '{path}' cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"manifest '{path}' is no {path.suffix[1:].upper()}: {error}") from error
    if not isinstance(given, dict):
        raise UsageError(
            f"manifest '{path}': got {type(given).__name__}, expected a table of {', '.join(_TABLES)}"
        )
    return given


def _known(given: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    for key in given:
        if key not in names:
            raise UsageError(f"{where}: unknown key '{key}'{nearest(key, names)}; known: {', '.join(names)}")


def _table(given: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    value = given.get(name, {})
    if not isinstance(value, Mapping):
        raise UsageError(f"{where}: '{name}' is {type(value).__name__}, expected a table")
    return value


def _entries(model: Any, where: str, folder: Path, output: Path) -> Iterator[SourceEntry]:
    if not isinstance(model, Mapping):
        raise UsageError(f"{where}: got {type(model).__name__}, expected a table with a path")
    _known(model, _MODEL, where)
    path, name = model.get("path"), model.get("name")
    for key, value in (("path", path), ("name", name)):
        if not (isinstance(value, str) and value) and not (key == "name" and value is None):
            raise UsageError(f"{where}: '{key}' is {value!r}, expected text")
    own = settings.read(_table(model, "settings", where), where, folder)
    whole = os.path.normpath(folder / str(path))
    several = os.path.isdir(whole) or (not os.path.lexists(whole) and any(c in whole for c in "*?["))
    if not several:
        yield SourceEntry(name or _name(whole, folder), whole, own)
        return
    for entry in found(whole, output):
        prefix = f"{name}/{entry.name}" if name else _name(entry.path, folder)
        yield SourceEntry(prefix, entry.path, own)


def _name(path: str, folder: Path) -> str:
    """Name a model by its path below the manifest, or below the root where it lies elsewhere."""
    below = os.path.relpath(path, folder)
    inside = not below.startswith("..")
    return Path(below if inside else os.path.abspath(path).lstrip("/")).as_posix()


def write(path: Path, entries: Sequence[SourceEntry], run: BatchSettings) -> None:
    """Write a resolved run as a manifest in JSON, with absolute paths. Raises UsageError, ResourceError."""
    models = [
        {"path": os.path.abspath(e.path), "name": e.name, "settings": dict(e.settings)} for e in entries
    ]
    how = {key: getattr(run, key) for key in options.SAVED}
    whole = {"schema_version": _VERSION, "run": how, "models": models}
    write_file(path, json.dumps(plain(whole), indent=1).encode() + b"\n")
