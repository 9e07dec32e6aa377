"""The journal of a batch: JSON lines, on the disk before anything that depends on them happens.

Three events tell of one model: `begun`, `writing` (the files that are about to get their final names) and
`ended` with its record. A record counts until the model is begun again. So a kill between any two steps
leaves a model that is either ended or to be done again, and doing it again writes the same files.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from onnxprune.reports.record import Record


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag=str.lower):
    """time: seconds since 1970."""

    time: float = msgspec.field(default_factory=lambda: round(time.time(), 3))


class Run(_Event, frozen=True):
    """A run begins."""

    version: str
    settings: Mapping[str, Any]
    models: int


class Begun(_Event, frozen=True):
    """A model is begun."""

    id: str
    attempt: int


class Writing(_Event, frozen=True):
    """Files of a model are about to get their final names."""

    id: str
    files: Sequence[str]


class Ended(_Event, frozen=True):
    """A finished model: its record, the files it was read from and those it was written to, by sha256."""

    id: str
    record: Record
    inputs: Mapping[str, str]
    files: Mapping[str, str]


class Stopped(_Event, frozen=True):
    """A run ends, by itself or not."""


Event: TypeAlias = Run | Begun | Writing | Ended | Stopped


@dataclass
class State:
    """What a journal tells: finished models, files that may exist, seconds of all runs, damaged lines."""

    ended: dict[str, Ended] = field(default_factory=dict)
    files: dict[str, set[str]] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    damaged: int = 0


class Journal:
    """An open journal. Every event is flushed to the disk before `append` returns."""

    def __init__(self, path: Path) -> None:
        """Open or make a journal, and mend what a kill in the middle of a line left."""
        self._path = path
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            self._mend()
        except BaseException:
            os.close(self._handle)
            raise

    def _mend(self) -> None:
        data = self._path.read_bytes()
        tail = data[data.rfind(b"\n") + 1 :]
        if tail and _parsed(tail) is None:
            os.ftruncate(self._handle, len(data) - len(tail))
        elif tail:
            self._write(b"\n")
        os.fsync(self._handle)
        sync_folder(self._path.parent)

    def append(self, event: Event) -> None:
        """Write one event and wait until it is on the disk. Raises OSError; the line is then not there."""
        line = json.dumps(msgspec.to_builtins(event), separators=(",", ":"), allow_nan=False)
        self._write(line.encode() + b"\n")
        os.fsync(self._handle)

    def _write(self, data: bytes) -> None:
        length = os.fstat(self._handle).st_size
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._handle, view) :]
        except OSError:
            os.ftruncate(self._handle, length)
            raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


def read(paths: Sequence[Path]) -> State:
    """Read journals; of a model that several tell of, the one with the latest event counts."""
    result = State()
    for path in paths:
        other = _read(path)
        result.seconds += other.seconds
        result.damaged += other.damaged
        for name, moment in other.latest.items():
            result.files.setdefault(name, set()).update(other.files.get(name, set()))
            if moment < result.latest.get(name, 0.0):
                continue
            result.latest[name] = moment
            result.ended.pop(name, None)
            if name in other.ended:
                result.ended[name] = other.ended[name]
    return result


def _read(path: Path) -> State:
    result, last = State(), None
    for event in _events(path):
        if event is None:
            result.damaged += 1
            continue
        if last is not None and not isinstance(event, Run):
            result.seconds += max(event.time - last, 0.0)
        last = event.time
        if isinstance(event, (Run, Stopped)):
            continue
        result.latest[event.id] = event.time
        result.files.setdefault(event.id, set()).update(() if isinstance(event, Begun) else event.files)
        result.ended.pop(event.id, None)
        if isinstance(event, Ended):
            result.ended[event.id] = event
    return result


def _events(path: Path) -> Iterator[Event | None]:
    """Yield events; None for a line of another version, or damaged. A torn last line is left out."""
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines):
        event = _parsed(line)
        if line and (event is not None or number < len(lines) - 1):
            yield event


def _parsed(line: bytes) -> Event | None:
    """Read a line. Not by msgspec's own JSON, which refuses names of files that are no UTF-8."""
    try:
        event: Event = msgspec.convert(json.loads(line), Event)
    except (ValueError, RecursionError):
        return None
    return event


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
