"""Which files are models of a batch, and what they are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxprune.batches.folder import Shard
from onnxprune.batches.sources import SourceEntry, checked, found, shared
from onnxprune.errors import UsageError


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    for name in ("b.onnx", "a.onnx", "deep/er/c.onnx", "notes.txt", "out/models/a.onnx"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "deep" / "loop").symlink_to(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("", ["a.onnx", "b.onnx", "deep/er/c.onnx"]),
        ("deep", ["er/c.onnx"]),
        ("*.onnx", ["a.onnx", "b.onnx"]),
        ("**/*.onnx", ["a.onnx", "b.onnx", "deep/er/c.onnx"]),
        ("d*/**/c.onnx", ["deep/er/c.onnx"]),
        ("a.onnx", ["a.onnx"]),
        ("notes.txt", ["notes.txt"]),
    ],
)
def test_folders_globs_and_files(zoo: Path, source: str, names: list[str]) -> None:
    entries = found(str(zoo / source) if source else str(zoo), zoo / "out")
    assert [e.name for e in entries] == names
    assert all(Path(e.path).samefile(zoo / ("deep" if source == "deep" else "") / e.name) for e in entries)


def test_what_holds_no_model_is_refused(zoo: Path) -> None:
    (zoo / "empty").mkdir()
    for source, said in (("no", "does not exist"), ("*.tf", "holds no .onnx file"), ("empty", "holds no")):
        with pytest.raises(UsageError, match=said):
            found(str(zoo / source), zoo / "out")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["/a"], "expected a relative path"), (["a/../b"], "expected a relative path"),
        (["a//b"], "expected a relative path"), (["./a"], "expected a relative path"),
        ([""], "expected a relative path"), (["a", "a"], "two models are called 'a'"),
        (["a", "a/b"], "file and folder of one name"), (["a", "a.log/b"], "file and folder of one name"),
        (["a", "a.json/b"], "file and folder of one name"),
    ],
)  # fmt: skip
def test_names_that_cannot_stand_side_by_side(tmp_path: Path, names: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        checked([SourceEntry(name, str(tmp_path / "m.onnx")) for name in names], tmp_path / "out")


def test_an_input_among_the_outputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the originals stay outside"):
        checked([SourceEntry("a", str(tmp_path / "out" / "a.onnx"))], tmp_path / "out")


def test_shards_share_the_models_whatever_else_there_is() -> None:
    entries = [SourceEntry(f"m{i}.onnx", "") for i in range(200)]
    shares = [shared(entries, Shard(i, 3)) for i in (1, 2, 3)]
    assert sorted(e.name for share in shares for e in share) == sorted(e.name for e in entries)
    assert min(map(len, shares)) > 40
    assert shared(entries[::2], Shard(2, 3)) == [e for e in entries[::2] if e in shares[1]]
