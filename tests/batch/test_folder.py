"""The output folder: who may write to it, where things lie, and how files get their final names."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxprune.batches.folder import OutputFolder, Shard, places
from onnxprune.batches.job import PAGE, PLAN
from onnxprune.errors import UsageError

LONG = "x" * 250


def test_one_run_or_several_shards(tmp_path: Path) -> None:
    whole = OutputFolder(tmp_path)
    for shard in (None, Shard(1, 2)):
        with pytest.raises(UsageError, match="in use by another run"):
            OutputFolder(tmp_path, shard)
    whole.close()
    one, two = OutputFolder(tmp_path, Shard(1, 2)), OutputFolder(tmp_path, Shard(2, 2))
    for shard in (None, Shard(2, 2)):
        with pytest.raises(UsageError, match="in use by another run"):
            OutputFolder(tmp_path, shard)
    assert (one.journal.name, two.journal.name) == ("journal-1-of-2.jsonl", "journal-2-of-2.jsonl")
    assert one.reports() == tmp_path.resolve() / "shard-1-of-2"
    kept = two.fresh()
    one.close()
    assert kept.is_dir(), "a shard that ends leaves the scratch of the others"
    two.close()
    one.journal.touch()
    OutputFolder(tmp_path).close()
    assert not (tmp_path / ".work").exists()


def test_a_folder_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with pytest.raises(UsageError, match="holds 'models' and no journal of a batch"):
        OutputFolder(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["models"]
    (tmp_path / "journal.jsonl").touch()
    OutputFolder(tmp_path).close()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="choose another one"):
        OutputFolder(tmp_path / "file")


def test_only_our_journals_are_read(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    for name in ("journal.jsonl", "journal-1-of-2.jsonl", "journal-old.jsonl", "journal.jsonl.bak"):
        (tmp_path / name).touch()
    assert [p.name for p in folder.journals()] == ["journal-1-of-2.jsonl", "journal.jsonl"]
    folder.close()


def test_the_model_comes_last() -> None:
    found = places("deep/m.onnx", ["m.onnx", "m.onnx.data", PAGE, PLAN, "a.bin"])
    assert list(found.items()) == [
        (PLAN, "plans/deep/m.onnx.json"), (PAGE, "pages/deep/m.onnx.html"), ("a.bin", "models/deep/a.bin"),
        ("m.onnx.data", "models/deep/m.onnx.data"), ("m.onnx", "models/deep/m.onnx"),
    ]  # fmt: skip
    assert places("m.onnx", []) == {}
    assert places("m.onnx", [PLAN]) == {PLAN: "plans/m.onnx.json"}


def test_files_get_their_names_and_those_of_an_earlier_run_go(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    folder.prepare("deep/m.onnx", ())
    made = folder.fresh()
    (made / "m.onnx").write_bytes(b"model")
    (made / PLAN).write_bytes(b"plan")
    named = places("deep/m.onnx", ["m.onnx", PLAN])
    folder.publish(made, named)
    assert [(tmp_path / place).read_bytes() for place in named.values()] == [b"plan", b"model"]
    assert list(made.iterdir()) == []
    folder.prepare("deep/m.onnx", [*named.values(), "models/deep/never.data"])
    assert not [p for p in (tmp_path / "models").rglob("*") if p.is_file()]
    folder.close()


def test_names_that_take_no_suffix_are_shortened_and_stay_apart(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    logs = {folder.log(f"deep/{LONG}{end}") for end in "ab"}
    folder.close()
    assert len(logs) == 2
    for log in logs:
        assert len(Path(log).name) < 256
        assert Path(log).parent == Path("logs/deep")
    assert folder.log("a.onnx") == "logs/a.onnx.log"
