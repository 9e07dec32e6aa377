"""Temporary files: swept when their writer is dead, placed together, and never over another run's output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from onnxprune.errors import UsageError
from onnxprune.model.temporary import Temporary, place_all, sweep

posix = pytest.mark.skipif(os.name != "posix", reason="locks that the kernel drops")


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_what_is_not_placed_goes_away(tmp_path: Path) -> None:
    with Temporary(tmp_path / "o", force=False) as file:
        file.write((b"a", b"b"))
        assert len(names(tmp_path)) == 1
    assert names(tmp_path) == []
    assert not file.placed


@pytest.mark.parametrize("force", [False, True])
def test_what_is_placed_has_the_name_of_the_output(force: bool, tmp_path: Path) -> None:
    with Temporary(tmp_path / "o", force) as file:
        file.write((b"ab",))
        file.place()
    assert file.placed
    assert names(tmp_path) == ["o"]
    assert (tmp_path / "o").read_bytes() == b"ab"


def test_the_loser_of_two_runs_takes_nothing_from_the_winner(tmp_path: Path) -> None:
    """Both began while nothing was there."""
    runs = [[Temporary(tmp_path / name, force=False) for name in ("o.onnx", "o.json")] for _ in range(2)]
    for number, files in enumerate(runs):
        for file in files:
            file.write((b"%d" % number,))
    place_all(runs[1])
    with pytest.raises(UsageError, match="made by another run in the meantime and is left as it is"):
        place_all(runs[0])
    for file in (*runs[0], *runs[1]):
        file.__exit__()
    assert names(tmp_path) == ["o.json", "o.onnx"]
    assert {(tmp_path / name).read_bytes() for name in names(tmp_path)} == {b"1"}


def test_of_two_files_both_are_placed_or_neither(tmp_path: Path) -> None:
    (tmp_path / "o.json").write_text("another's")
    files = [Temporary(tmp_path / name, False) for name in ("o.onnx", "o.json")]
    with files[0], files[1], pytest.raises(UsageError):
        place_all(files)
    assert names(tmp_path) == ["o.json"]
    assert (tmp_path / "o.json").read_text() == "another's"


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refused)
    for number in range(2):
        with Temporary(tmp_path / "o", force=False) as file:
            file.write((b"%d" % number,))
            if number:
                with pytest.raises(FileExistsError):
                    file.place()
            else:
                file.place()
    assert (tmp_path / "o").read_bytes() == b"0"


@posix
def test_files_of_the_dead_are_swept_and_those_of_the_living_stay(tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib; from onnxprune.model.temporary import Temporary\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "kept = [Temporary(folder / name, False) for name in ('o.onnx', 'o-0123456789ab.data')]\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    foreign = [".o.onnx.tmp", ".other.onnx.0123456789ab.tmp", ".o.onnx.0123456789AB.tmp"]
    for name in foreign:
        (tmp_path / name).touch()
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        with Temporary(tmp_path / "o.onnx", force=False):
            sweep(tmp_path / "o.onnx")
            assert len(names(tmp_path)) == len(foreign) + 3
        process.send_signal(signal.SIGKILL)
    assert len(names(tmp_path)) == len(foreign) + 2
    sweep(tmp_path / "o.onnx")
    assert names(tmp_path) == sorted(foreign)
