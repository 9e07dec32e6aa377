"""Batches: what they take, how models end, what is written, and that nothing is done twice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxprune
from onnxprune import BatchSettings, PruneSettings
from onnxprune.errors import UsageError
from onnxprune.reports.record import Record
from tests.batch import batch_invariants as invariants

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
HALF: Mapping[str, Any] = {"ratio": 0.5, "bench": False}


def zoo(folder: Path, *names: str) -> Path:
    """A folder with some of the digits models, and one in a folder below."""
    (folder / "deep").mkdir(parents=True)
    for name in names or ("mobilenet", "shuffle"):
        shutil.copy(MODELS / f"digits_{name}.onnx", folder / f"{name}.onnx")
    shutil.copy(MODELS / "digits_mobilenet.onnx", folder / "deep" / "m.onnx")
    return folder


def run(*args: object, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "onnxprune", "batch", *(str(a) for a in args)]
    environment = {**os.environ, **(env or {})}
    return subprocess.run(
        line, capture_output=True, text=True, timeout=240, check=False, cwd=ROOT, env=environment
    )


def by_name(records: list[Record]) -> dict[str, Record]:
    return {r.id: r for r in records}


def test_a_folder_is_pruned_and_nothing_is_done_twice(tmp_path: Path) -> None:
    source, out = zoo(tmp_path / "zoo"), tmp_path / "out"
    (source / "bad.onnx").write_bytes(b"<!doctype html>")
    before = invariants.hashes(source)
    found = by_name(list(onnxprune.batch(source, out, HALF, {"jobs": 2})))
    names = {"bad.onnx", "deep/m.onnx", "mobilenet.onnx", "shuffle.onnx"}
    records = invariants.check_finished(out, names)
    assert {n: r.status for n, r in found.items()} == {n: r["status"] for n, r in records.items()}
    assert {n for n in names if found[n].status == "done"} == names - {"bad.onnx"}
    assert found["bad.onnx"].status == "invalid"
    assert found["bad.onnx"].exit_code == 3
    assert "web page" in found["bad.onnx"].reason
    assert "web page" in (out / found["bad.onnx"].log).read_text()
    invariants.check_inputs(before, source)
    direct = tmp_path / "direct.onnx"
    onnxprune.prune(source / "shuffle.onnx", PruneSettings(ratio=0.5, bench=False), direct)
    assert direct.read_bytes() == (out / "models/shuffle.onnx").read_bytes()
    journal = (out / "journal.jsonl").read_bytes()
    again = list(onnxprune.batch(source, out, HALF, {"jobs": 2}))
    assert (out / "journal.jsonl").read_bytes() == journal
    assert by_name(again) == found


def test_what_changed_is_done_again_and_nothing_else(tmp_path: Path) -> None:
    source, out = zoo(tmp_path / "zoo", "shuffle"), tmp_path / "out"
    first = by_name(list(onnxprune.batch(source, out, HALF)))
    shutil.copy(MODELS / "digits_mobilenet.onnx", source / "shuffle.onnx")
    second = by_name(list(onnxprune.batch(source, out, HALF)))
    assert second["shuffle.onnx"].input_sha256 == second["deep/m.onnx"].input_sha256
    assert second["shuffle.onnx"].input_sha256 != first["shuffle.onnx"].input_sha256
    assert second["deep/m.onnx"] == first["deep/m.onnx"]
    (out / "models/deep/m.onnx").unlink()
    third = by_name(list(onnxprune.batch(source, out, HALF)))
    assert third["shuffle.onnx"] == second["shuffle.onnx"]
    assert (out / "models/deep/m.onnx").is_file()
    other = by_name(list(onnxprune.batch(source, out, {**HALF, "max_drop": None, "exclude": ["*"]})))
    assert {r.status for r in other.values()} == {"nothing"}
    assert not list((out / "models").rglob("*.onnx")), "files of the earlier settings are left"
    invariants.check_finished(out, other)
    assert third["deep/m.onnx"].settings_sha256 != other["deep/m.onnx"].settings_sha256


def test_a_failure_is_kept_until_asked_for_again(tmp_path: Path) -> None:
    source, out = tmp_path / "zoo", tmp_path / "out"
    source.mkdir()
    (source / "a.onnx").symlink_to("b.onnx")
    [first] = onnxprune.batch(source, out, HALF)
    assert (first.status, first.input_sha256, first.exit_code) == ("unreadable", "", 3)
    assert list(onnxprune.batch(source, out, HALF)) == [first]
    assert len(invariants.lines(out)) == 4
    list(onnxprune.batch(source, out, HALF, {"retry_failed": True}))
    assert len(invariants.lines(out)) == 8
    shutil.copy(MODELS / "digits_shuffle.onnx", source / "b.onnx")
    found = by_name(list(onnxprune.batch(source, out, HALF)))
    assert {n: r.status for n, r in found.items()} == {"a.onnx": "done", "b.onnx": "done"}
    invariants.check_finished(out, found)


def test_the_command_tells_and_exits_with_seven(tmp_path: Path) -> None:
    source, out = zoo(tmp_path / "zoo", "shuffle"), tmp_path / "out"
    (source / "bad.onnx").write_bytes(b"")
    result = run(source, "-o", out, "--ratio", 0.5, "--no-bench", "--jobs", 2, "--json")
    assert result.returncode == 7, result.stderr
    told = json.loads(result.stdout)
    assert told["statuses"] == {"done": 2, "invalid": 1}
    assert "batch: 3 models" in result.stderr
    assert "3/3 " in result.stderr
    (source / "bad.onnx").unlink()
    result = run(source, "-o", out, "--ratio", 0.5, "--no-bench")
    assert result.returncode == 0, result.stderr
    assert "2 finished by an earlier run" in result.stderr
    assert result.stdout.startswith("done     2\n")


def test_two_runs_into_one_folder(tmp_path: Path) -> None:
    source, out = zoo(tmp_path / "zoo"), tmp_path / "out"
    first = onnxprune.batch(source, out, HALF, {"jobs": 1})
    next(first)
    result = run(source, "-o", out, "--ratio", 0.5, "--no-bench")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "is in use by another run" in result.stderr
    rest = list(first)
    assert len(rest) == 2
    invariants.check_finished(out, {"deep/m.onnx", "mobilenet.onnx", "shuffle.onnx"})


def test_who_stops_iterating_stops_the_run(tmp_path: Path) -> None:
    source, out = zoo(tmp_path / "zoo"), tmp_path / "out"
    records = onnxprune.batch(source, out, HALF, {"jobs": 2})
    next(records)
    records.close()  # type: ignore[attr-defined]
    assert not (out / ".work").exists()
    invariants.check_always(out)
    assert len(list(onnxprune.batch(source, out, HALF, BatchSettings(jobs=2)))) == 3
    invariants.check_finished(out, {"deep/m.onnx", "mobilenet.onnx", "shuffle.onnx"})


def test_a_folder_with_other_things_is_not_an_output(tmp_path: Path) -> None:
    source, out = zoo(tmp_path / "models"), tmp_path / "out"
    with pytest.raises(UsageError, match="the originals stay outside"):
        onnxprune.batch(source, tmp_path, HALF)
    out.mkdir()
    (out / "models").write_text("mine")
    with pytest.raises(UsageError, match="holds 'models' and no journal"):
        list(onnxprune.batch(source, out, HALF))
    assert {p.name: p.read_text() for p in out.iterdir()} == {"models": "mine"}


def test_results_do_not_depend_on_the_number_of_jobs(tmp_path: Path) -> None:
    source, data = zoo(tmp_path / "zoo", "shuffle"), tmp_path / "calib.npz"
    np.savez(data, input=np.load(MODELS / "digits_calib.npz")["input"][:48])
    given = {"ratio": 0.5, "align": 4, "bench": False, "calib": str(data), "recover": "refit"}
    for jobs in (1, 2):
        found = onnxprune.batch(source, tmp_path / str(jobs), given, {"jobs": jobs})
        assert {r.status for r in found} == {"done"}
    invariants.check_same_models(tmp_path / "1", tmp_path / "2")


def test_progress_on_a_terminal(tmp_path: Path) -> None:
    source, out = zoo(tmp_path / "zoo"), tmp_path / "out"
    (source / "bad.onnx").write_bytes(b"")
    line = [
        sys.executable,
        "-m",
        "onnxprune",
        "batch",
        str(source),
        "-o",
        str(out),
        "--ratio",
        "0.5",
        "--no-bench",
    ]
    mine, other = os.openpty()
    process = subprocess.Popen(
        line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=other, cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(other)
    shown = b""
    while True:
        try:
            part = os.read(mine, 65536)
        except OSError:
            break  # the other end is closed
        if not part:
            break
        shown += part
    os.close(mine)
    assert process.wait(60) == 7
    text = shown.decode()
    assert "models" in text
    assert "/4" in text
    assert "left" in text
    assert "deep/m.onnx" in text
    assert "invalid: bad.onnx" in text
