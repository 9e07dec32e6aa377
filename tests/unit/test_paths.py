"""Paths that others chose: what no file system takes, what is no file, and links in a circle."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from onnxprune.paths import LONGEST_NAME, check_path, open_file, read_file, resolved

posix = pytest.mark.skipif(os.name != "posix", reason="pipes and links")


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert read_file(path) == b"abc"
    with open_file(str(path)) as file:
        file.seek(1)
        assert file.read() == b"bc"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a\0b", "its name holds a NUL character"),
        ("n" * 300, f"its name has 300 bytes, {LONGEST_NAME} are possible"),
        ("ä" * 200, f"its name has 400 bytes, {LONGEST_NAME} are possible"),
        ("\ud800", "its name is no text that can be encoded"),
        (".", "Is a directory"),
        ("none", "No such file or directory"),
    ],
)
def test_paths_that_cannot_be_read(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r".*") as raised:
        read_file(tmp_path / name)
    assert raised.value.strerror == says


def test_the_longest_name_is_taken() -> None:
    check_path("a/" + LONGEST_NAME * "n")


@posix
def test_a_pipe_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        read_file(tmp_path / "pipe")


@posix
def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for function in (resolved, read_file):
        with pytest.raises(OSError, match=r"circle|symbolic links"):
            function(tmp_path / "a")
