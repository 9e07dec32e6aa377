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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onnxprune.reports.record import Record

BEGUN, WRITING, ENDED, RUN, STOPPED = "begun", "writing", "ended", "run", "stopped"


@dataclass(frozen=True)
class EndedEvent:
    """A finished model: its record, the files it was read from and those it was written to, by sha256."""

    record: Record
    inputs: Mapping[str, str]
    files: Mapping[str, str]


@dataclass
class State:
    """What a journal tells: finished models, files that may exist, seconds of all runs, damaged lines."""

    ended: dict[str, EndedEvent] = field(default_factory=dict)
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

    def append(self, event: str, **told: Any) -> None:
        """Write one event and wait until it is on the disk. Raises OSError; the line is then not there."""
        line = {"event": event, "time": round(time.time(), 3), **told}
        self._write(json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n")
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


def ended(record: Record, inputs: Mapping[str, str], files: Mapping[str, str]) -> dict[str, Any]:
    """Return what the event `ended` tells."""
    return {"id": record.id, "record": asdict(record), "inputs": dict(inputs), "files": dict(files)}


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
    for event in events(path):
        read = None if event is None else _understood(event)
        if event is None or read is None:
            result.damaged += 1
            continue
        moment, told = read
        if event["event"] != RUN and last is not None:
            result.seconds += max(moment - last, 0.0)
        last = moment
        name = event.get("id")
        if name is None:
            continue
        result.latest[name] = moment
        result.files.setdefault(name, set()).update(event.get("files", ()))
        result.ended.pop(name, None)
        if told is not None:
            result.ended[name] = told
    return result


def _understood(event: Mapping[str, Any]) -> tuple[float, EndedEvent | None] | None:
    """Return when an event was, and how a model ended by it; None for one of another version, or damaged."""
    try:
        moment = float(event["time"])
        if event["event"] != ENDED:
            return moment, None
        return moment, EndedEvent(Record(**event["record"]), event["inputs"], event["files"])
    except (KeyError, TypeError, ValueError):
        return None


def events(path: Path) -> Iterator[dict[str, Any] | None]:
    """Yield the events of a journal; None for a line that is damaged. A torn last line is left out."""
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines):
        event = _parsed(line)
        if line and (event is not None or number < len(lines) - 1):
            yield event


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "event" in found else None


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
