"""Which models a batch takes: a folder, a glob, a file, or the list of a manifest."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from onnxprune.batches.folder import Shard
from onnxprune.errors import UsageError, printable, shortened
from onnxprune.paths import check_path

MANIFESTS = (".toml", ".json")
_SUFFIX = ".onnx"


@dataclass(frozen=True)
class SourceEntry:
    """One input. name: its id; path: as it was found; settings: its own ones of a manifest, plain data."""

    name: str
    path: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def found(source: str, output: Path) -> list[SourceEntry]:
    """List the models of a folder (and the folders in it), of a glob, or one file, in order of id.

    Links to folders are not followed, and the output folder is left out. Raises UsageError where there
    are none.
    """
    if os.path.isdir(source):
        paths, base = _below(source, output), source
    elif os.path.lexists(source) or not glob.has_magic(source):
        paths, base = [source], os.path.dirname(source)
        if not os.path.lexists(source):
            raise UsageError(f"'{source}' does not exist; give a folder, a glob, a model or a manifest")
    else:
        base = os.path.dirname(source[: _first_magic(source)])
        hits = glob.glob(source, recursive=True)
        paths = [p for p in hits if not os.path.isdir(p) and not _inside(Path(p), output)]
        if "**" in source:
            paths = [p for p in paths if not _through_link(p, base)]
    if not paths:
        raise UsageError(f"'{source}' holds no {_SUFFIX} file; give a folder, a glob, a model or a manifest")
    entries = [SourceEntry(Path(os.path.relpath(path, base or ".")).as_posix(), path) for path in paths]
    return checked(entries, output)


def _first_magic(text: str) -> int:
    return min(text.find(c) for c in "*?[" if c in text)


def _through_link(path: str, base: str) -> bool:
    """Tell whether a path goes through a link to a folder below a base; such links may run in circles."""
    parents = Path(os.path.relpath(path, base or ".")).parents
    return any(Path(base, parent).is_symlink() for parent in parents if parent != Path("."))


def _below(folder: str, output: Path) -> list[str]:
    def refuse(error: OSError) -> None:
        place = printable(str(error.filename))
        raise UsageError(f"folder '{place}' cannot be read: {error.strerror}") from error

    hits = []
    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(f for f in folders if not _same(Path(place, f), output))
        hits += [os.path.join(place, f) for f in files if f.endswith(_SUFFIX)]
    return hits


def _same(path: Path, other: Path) -> bool:
    return path.resolve() == other.resolve() if not path.is_symlink() else False


def _inside(path: Path, output: Path) -> bool:
    return output.resolve() in Path(os.path.abspath(path)).parents


def checked(entries: Iterable[SourceEntry], output: Path) -> list[SourceEntry]:
    """Refuse ids that are no relative paths, occur twice or hide one another, and inputs among the outputs.

    Raises UsageError.
    """
    known: dict[str, SourceEntry] = {}
    for entry in entries:
        shown, parts = printable(entry.name), PurePosixPath(entry.name).parts
        if (
            not parts
            or entry.name.startswith("/")
            or ".." in parts
            or str(PurePosixPath(*parts)) != entry.name
        ):
            raise UsageError(f"name '{shown}': expected a relative path such as 'vision/model.onnx'")
        for text in (entry.name, entry.path):
            try:
                check_path(text)
            except OSError as error:
                raise UsageError(f"'{shortened(printable(text))}': {error.strerror}; rename it") from error
        if entry.name in known:
            raise UsageError(f"two models are called '{shown}'; give one of them another `name`")
        if _inside(Path(entry.path), output):
            raise UsageError(
                f"'{printable(entry.path)}' lies in the output folder; the originals stay outside"
            )
        known[entry.name] = entry
    taken = {name + suffix: name for name in known for suffix in ("", ".log", ".json")}
    for name in known:
        for parent in PurePosixPath(name).parents:
            if str(parent) in taken:
                first = printable(taken[str(parent)])
                raise UsageError(
                    f"'{first}' and '{printable(name)}' would be file and folder of one name; rename one"
                )
    return sorted(known.values(), key=lambda e: e.name)


def shared(entries: Sequence[SourceEntry], shard: Shard) -> list[SourceEntry]:
    """Return the models that one of several shards does: by a hash of the id, whatever else there is."""

    def place(name: str) -> int:
        return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big")

    return [e for e in entries if place(e.name) % shard.count == shard.number - 1]
