"""Which bytes a model was read from."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from onnxprune.batches.hashing import Unreadable, combined, digests, digests_of_data, file_digest


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_model_is_first_and_data_that_is_missing_has_an_empty_hash(tmp_path: Path) -> None:
    model, data, gone = (str(tmp_path / name) for name in ("m.onnx", "a.data", "gone.data"))
    Path(model).write_bytes(b"model")
    Path(data).write_bytes(b"data")
    found = digests(model, [data, gone])
    assert list(found.items()) == [(model, sha(b"model")), (data, sha(b"data")), (gone, "")]
    assert digests_of_data([gone]) == {gone: ""}
    assert file_digest(Path(data)) == sha(b"data")


def test_what_is_no_file_is_refused_without_opening_it(tmp_path: Path) -> None:
    pipe, folder, gone = tmp_path / "pipe\n", tmp_path / "folder", tmp_path / "gone"
    os.mkfifo(pipe)
    folder.mkdir()
    for path, said in ((pipe, r"pipe\\n' .* no regular"), (folder, "directory"), (gone, "No such file")):
        with pytest.raises(Unreadable, match=said) as caught:
            digests(str(path))
        assert "\n" not in str(caught.value)


def test_one_hash_for_all_files() -> None:
    one, two = sha(b"1"), sha(b"2")
    assert combined({}) == ""
    assert combined({"a": one}) == one
    both = combined({"a": one, "b": two})
    assert len({both, one, two, combined({"a": two, "b": one}), combined({"a": one, "b": ""})}) == 5
    assert both == combined({"elsewhere/a": one, "b": two}), "bytes count, not places"
