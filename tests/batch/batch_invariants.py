"""What must hold of a batch's output folder, checked without a line of the batch engine."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import onnx

WRITTEN = ("done", "target-missed")
MARK = "ONNXPRUNE_TEST_RUN"
PATIENCE = 10.0  # seconds until a process that was killed is gone


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def hashes(folder: Path) -> dict[str, str]:
    """The sha256 of every file below a folder, by relative path."""
    return {p.relative_to(folder).as_posix(): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def lines(folder: Path) -> list[dict[str, Any]]:
    """The events of all journals; a torn last line is none."""
    result = []
    for path in sorted(folder.glob("journal*.jsonl")):
        *whole, torn = path.read_bytes().split(b"\n")
        result += [json.loads(line) for line in whole]
        try:
            result.append(json.loads(torn))
        except ValueError:
            assert not torn or not torn.endswith(b"}") or torn.count(b"{") > torn.count(b"}")
    return result


def check_always(folder: Path) -> None:
    """Hold at any moment, also after a kill: records are ordered, and what they name is there and whole."""
    state: dict[str, str] = {}
    ended: dict[str, dict[str, Any]] = {}
    for event in lines(folder):
        name = event.get("id")
        if event["event"] == "begun":
            state[name] = "begun"
            ended.pop(name, None)
        elif event["event"] == "ended":
            assert state.get(name) == "begun", f"{name}: ended without a begin, or twice"
            state[name], ended[name] = "ended", event
    for event in ended.values():
        for place, digest in event["files"].items():
            assert sha256(folder / place) == digest, f"{place} is not what the journal says"
    for path in (folder / "models").rglob("*"):
        assert path.suffix != ".tmp", f"{path}: a temporary file under models/"
        if path.suffix == ".onnx" and path.is_file():
            onnx.load(path)  # whole, whoever wrote it


def check_finished(folder: Path, names: Collection[str]) -> dict[str, dict[str, Any]]:
    """Hold after a run that came to its end: one record each, no other files. Returns the records by id."""
    check_always(folder)
    records: dict[str, dict[str, Any]] = {}
    for event in lines(folder):
        if event["event"] == "begun":
            records.pop(event["id"], None)
        elif event["event"] == "ended":
            records[event["id"]] = event["record"]
    assert set(records) == set(names)
    expected = {r["output"] for r in records.values() if r["output"]}
    models = {p.relative_to(folder).as_posix() for p in (folder / "models").rglob("*") if p.is_file()}
    assert {m for m in models if not m.endswith(".data")} == expected
    for name, record in records.items():
        assert record["id"] == name
        assert (record["output"] is not None) == (record["status"] in WRITTEN), record
        assert record["output"] in (None, f"models/{name}")
        assert (folder / record["log"]).is_file()
        assert record["attempts"] in (1, 2)
        assert "\n" not in record["reason"]
        assert record["reason"] or record["status"] == "done"
    assert not (folder / ".work").exists(), "scratch files are left"
    report = json.loads((folder / "report.json").read_text())
    assert [r["id"] for r in report["records"]] == sorted(names)
    assert {r["id"]: r["status"] for r in report["records"]} == {n: r["status"] for n, r in records.items()}
    return records


def check_same_models(folder: Path, reference: Path) -> None:
    """Models and plans are the same, byte for byte."""
    for part in ("models", "plans"):
        assert hashes(folder / part) == hashes(reference / part)


def check_inputs(before: Mapping[str, str], source: Path) -> None:
    assert hashes(source) == dict(before), "an input was changed"


def processes(mark: str, line: bytes = b"") -> list[int]:
    """Processes that carry a mark in their environment, and some text in their command line."""
    result = []
    for path in Path("/proc").iterdir():
        if not path.name.isdigit() or int(path.name) == os.getpid():
            continue
        try:
            marked = f"{MARK}={mark}".encode() in (path / "environ").read_bytes().split(b"\0")
            if marked and line in (path / "cmdline").read_bytes():
                result.append(int(path.name))
        except OSError:
            continue  # it ended, or is not ours
    return result


def check_no_orphans(mark: str, line: bytes = b"") -> None:
    """Nothing that a run started outlives it for longer than a moment."""
    end = time.monotonic() + PATIENCE
    while processes(mark, line):
        assert time.monotonic() < end, f"orphans: {processes(mark, line)}"
        time.sleep(0.02)
