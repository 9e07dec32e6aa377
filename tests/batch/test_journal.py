"""The journal: what is written is read back, and damage costs the line that it hit."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from onnxprune.batches import journal as events
from onnxprune.batches.journal import Event, Journal, read
from tests.report_data import record


def written(path: Path, *given: Event) -> bytes:
    journal = Journal(path)
    for event in given:
        journal.append(event)
    journal.close()
    return path.read_bytes()


def life(name: str, time: float, status: str = "done") -> list[Event]:
    """A model from its begin, at `time`, to its end two seconds later."""
    return [
        events.Begun(id=name, attempt=1, time=time),
        events.Writing(id=name, files=(f"models/{name}",), time=time + 1),
        events.Ended(
            id=name, record=record(name, status), inputs={name: "1"}, files={f"models/{name}": "2"},
            time=time + 2,
        ),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a.onnx", "\udcff\udcfe.onnx", "line\nbreak ü ☃"])
def test_what_is_written_is_read_back(tmp_path: Path, name: str) -> None:
    run = events.Run(version="0", settings={"jobs": 2}, models=1, time=9.0)
    data = written(tmp_path / "j", run, *life(name, 10.0), events.Stopped(time=13.0))
    assert [json.loads(line)["event"] for line in data.splitlines()] == [
        "run", "begun", "writing", "ended", "stopped"
    ]  # fmt: skip
    state = read([tmp_path / "j"])
    assert state.ended[name].record == record(name)
    assert (state.ended[name].inputs, state.ended[name].files) == ({name: "1"}, {f"models/{name}": "2"})
    assert (state.files, state.seconds, state.damaged) == ({name: {f"models/{name}"}}, 4.0, 0)


def test_a_record_counts_until_its_model_is_begun_again(tmp_path: Path) -> None:
    written(tmp_path / "j", *life("a", 1.0), *life("b", 4.0), events.Begun(id="a", attempt=1, time=7.0))
    state = read([tmp_path / "j"])
    assert set(state.ended) == {"b"}
    assert state.files == {"a": {"models/a"}, "b": {"models/b"}}, "what may lie there is known"


def test_time_between_runs_does_not_count(tmp_path: Path) -> None:
    run = events.Run(version="0", settings={}, models=1, time=1000.0)
    written(tmp_path / "j", *life("a", 1.0), run, *life("b", 1001.0))
    assert read([tmp_path / "j"]).seconds == 2.0 + 3.0


def test_of_several_journals_the_latest_event_of_a_model_counts(tmp_path: Path) -> None:
    written(tmp_path / "one", *life("a", 1.0), *life("b", 20.0))
    written(tmp_path / "two", *life("a", 10.0, "timeout"), events.Begun(id="b", attempt=1, time=5.0))
    for paths in (["one", "two"], ["two", "one"]):
        state = read([tmp_path / name for name in paths])
        assert {name: told.record.status for name, told in state.ended.items()} == {
            "a": "timeout",
            "b": "done",
        }


@pytest.mark.parametrize(
    "line",
    [b"\0{}", b"[1]", b'{"event": "begun"}', b'{"event": "sung", "time": 1}', b"\xff", b"[" * 5000,
     b'{"event": "begun", "time": "now", "id": "a", "attempt": 1}',
     b'{"event": "ended", "time": 1.0, "id": "a", "record": {"id": "a"}, "inputs": {}, "files": {}}'],
)  # fmt: skip
def test_a_damaged_line_is_counted_and_costs_nothing_else(tmp_path: Path, line: bytes) -> None:
    data = written(tmp_path / "j", *life("a", 1.0), *life("b", 4.0))
    lines = data.splitlines(keepends=True)
    (tmp_path / "j").write_bytes(b"".join([*lines[:3], line + b"\n", *lines[3:]]))
    state = read([tmp_path / "j"])
    assert (set(state.ended), state.damaged) == ({"a", "b"}, 1)


def test_a_torn_last_line_is_none_and_is_mended(tmp_path: Path) -> None:
    data = written(tmp_path / "j", *life("a", 1.0), events.Stopped(time=9.0))
    whole = data[: data.rindex(b"\n", 0, -1) + 1]
    for cut in range(len(whole), len(data)):
        (tmp_path / "j").write_bytes(data[:cut])
        assert read([tmp_path / "j"]).damaged == 0
        again = written(tmp_path / "j", events.Begun(id="c", attempt=1))
        assert again.startswith(data if cut == len(data) - 1 else whole)
        assert all(json.loads(line) for line in again.splitlines())


def test_a_line_that_could_not_be_written_whole_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = written(tmp_path / "j", *life("a", 1.0))
    journal, real, calls = Journal(tmp_path / "j"), os.write, []

    def full(handle: int, data: bytes) -> int:
        calls.append(handle)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "no space")
        return real(handle, data[:7])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="no space"):
        journal.append(events.Stopped())
    journal.close()
    assert (tmp_path / "j").read_bytes() == before


def test_a_number_that_json_cannot_say_is_refused(tmp_path: Path) -> None:
    before = written(tmp_path / "j")
    journal = Journal(tmp_path / "j")
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal.append(events.Run(version="0", settings={"timeout": float("nan")}, models=1))
    journal.close()
    assert (tmp_path / "j").read_bytes() == before
