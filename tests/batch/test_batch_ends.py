"""Every way a model can end: one run over models that misbehave, each told apart."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.reports.record import Record
from tests.batch import batch_invariants as invariants
from tests.batch.batch_pools import tiny

pytestmark = pytest.mark.slow

SCRIPT = """
import ctypes, os, signal, time
from pathlib import Path

here = Path(__file__).parent

def once(name):
    flag = here / (name + ".flag")
    first = not flag.exists()
    flag.touch()
    return first

def hang(outputs, labels):
    time.sleep(600)

def grow(outputs, labels):
    kept = []
    while True:
        kept.append(bytearray(os.urandom(1 << 20)) * 64)

def no_memory(outputs, labels):
    raise MemoryError("cannot allocate 1 PB")

def segfault(outputs, labels):
    ctypes.string_at(0)

def segfault_once(outputs, labels):
    if once("segfault"):
        ctypes.string_at(0)
    return 1.0

def killed(outputs, labels):
    os.kill(os.getpid(), signal.SIGKILL)

def killed_once(outputs, labels):
    if once("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0

def leaves(outputs, labels):
    os._exit(3)

def fails(outputs, labels):
    raise ValueError("no metric today")

def worse(outputs, labels):
    return 1.0 if once("worse") else 0.0

def changes(outputs, labels):
    os.utime(here / "zoo" / "changes.onnx")
    return 1.0

def changes_once(outputs, labels):
    if once("changes"):
        model = here / "zoo" / "changes_once.onnx"
        other = model.with_suffix(".tmp")
        other.write_bytes((here / "zoo" / "good.onnx").read_bytes())
        other.replace(model)
    return 1.0

def starts(outputs, labels):
    import subprocess
    subprocess.Popen(["sleep", "600"])
    return 1.0

def prints(outputs, labels):
    print("a line of the metric")
    os.system("echo a line of a child")
    return 1.0
"""
EXPECTED = {
    "hang": ("timeout", None, 1, "stopped after 10 s"),
    "grow": ("out-of-memory", 6, 1, "resident memory, the limit is"),
    "no_memory": ("usage", 2, 1, "MemoryError"),
    "segfault": ("crashed", None, 2, "died of SIGSEGV; the log may tell where, in run 2 too"),
    "segfault_once": ("done", 0, 2, ""),
    "killed": ("killed", None, 2, "killed from outside (SIGKILL)"),
    "killed_once": ("done", 0, 2, ""),
    "leaves": ("crashed", None, 2, "exit code 3"),
    "fails": ("usage", 2, 1, "no metric today"),
    "worse": ("gate-failed", 1, 1, "gate failed"),
    "changes": ("unreadable", 3, 2, "changed while it was read, in run 2 too"),
    "changes_once": ("done", 0, 2, ""),
    "starts": ("done", 0, 1, ""),
    "prints": ("done", 0, 1, ""),
}


def ended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Record]:
    """Run all of them once."""
    (folder / "zoo").mkdir()
    (folder / "metric.py").write_text(SCRIPT)
    tiny(folder / "zoo" / "good.onnx", seed=5)
    models: list[dict[str, Any]] = [
        {"path": "zoo/good.onnx", "settings": {"targets": {"macs": 0.5}}},
        {"path": "zoo/good.onnx", "name": "nothing.onnx", "settings": {"exclude": ["*"]}},
        {"path": "zoo/missing.onnx"},
        {"path": "zoo/pipe.onnx"},
    ]
    os.mkfifo(folder / "zoo" / "pipe.onnx")
    for name in EXPECTED:
        tiny(folder / "zoo" / f"{name}.onnx")
        drop = {"max_drop": 0.1} if name == "worse" else {}
        judged = {"validate": "metric.npz", "metric": f"metric.py:{name}", **drop}
        models.append({"path": f"zoo/{name}.onnx", "settings": judged})
    np.savez(folder / "metric.npz", x=np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32))
    whole = {
        "run": {"jobs": 2, "timeout": 10, "memory_limit": "600MB"},
        "defaults": {"ratio": 0.5, "align": 1, "bench": False, "ruined": 99},
        "models": models,
    }
    (folder / "zoo.json").write_text(json.dumps(whole))
    monkeypatch.setenv(invariants.MARK, folder.name)
    records = {r.id: r for r in onnxprune.batch(folder / "zoo.json", folder / "out")}
    invariants.check_no_orphans(folder.name)
    invariants.check_finished(folder / "out", records)
    return records


def test_ends_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = ended(tmp_path, monkeypatch)
    found = {name: records[f"zoo/{name}.onnx"] for name in EXPECTED}
    told = {name: (r.status, r.exit_code, r.attempts) for name, r in found.items()}
    assert told == {name: expected[:3] for name, expected in EXPECTED.items()}
    for name, record in found.items():
        assert EXPECTED[name][3] in record.reason, name
        assert bool(record.reason) == (record.status != "done"), name
        assert len(record.input_sha256) == 64, name
        assert (record.peak_bytes or 0) > 10e6, name
        assert record.settings["ratio"] == 0.5, name
    assert found["worse"].report is not None
    once = invariants.sha256(tmp_path / "zoo/good.onnx")
    assert found["changes_once"].input_sha256 == once
    check_others(records)
    check_logs({name: (tmp_path / "out" / record.log).read_text() for name, record in found.items()})


def check_others(records: Mapping[str, Record]) -> None:
    """Good models are not disturbed, and what cannot be read is told apart from what is no model."""
    good, missing = records["zoo/good.onnx"], records["zoo/missing.onnx"]
    assert good.status == "done"
    assert good.settings["targets"] == {"macs": 0.5}
    assert "ratio" not in good.settings
    assert (records["nothing.onnx"].status, records["nothing.onnx"].exit_code) == ("nothing", 4)
    assert (missing.status, missing.input_sha256) == ("unreadable", "")
    assert records["zoo/pipe.onnx"].status == "unreadable"
    assert "no regular file" in records["zoo/pipe.onnx"].reason


def check_logs(told: Mapping[str, str]) -> None:
    """Logs hold what a model, its children and a dying interpreter said."""
    assert "a line of the metric" in told["prints"]
    assert "a line of a child" in told["prints"]
    assert "in segfault" in told["segfault"].partition("Segmentation fault")[2]
    assert told["segfault_once"].count("onnxprune 0") == 2
    assert "no metric today" in told["fails"]


def test_external_data_belongs_to_the_input(tmp_path: Path) -> None:
    source, out = tmp_path / "zoo", tmp_path / "out"
    source.mkdir()
    tiny(tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    onnx.save(model, source / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    settings = {"ratio": 0.5, "align": 1, "bench": False}
    [first] = onnxprune.batch(source, out, settings)
    assert [first] == list(onnxprune.batch(source, out, settings))
    data = bytearray((source / "m.data").read_bytes())
    data[3] ^= 0x80
    (source / "m.data").write_bytes(data)
    [second] = onnxprune.batch(source, out, settings)
    assert first.status == second.status == "done"
    assert first.input_sha256 != second.input_sha256
    (source / "m.data").unlink()
    [third] = onnxprune.batch(source, out, settings)
    assert third.status == "invalid"
    assert "m.data" in third.reason
    assert not (out / "models/m.onnx").exists()
    shutil.copy(tmp_path / "m.onnx", source / "m.onnx")
    [fourth] = onnxprune.batch(source, out, settings)
    assert fourth.status == "done"
