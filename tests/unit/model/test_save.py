"""Saving is atomic: whatever fails, nothing is left behind."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.analysis.analyse import load
from onnxprune.errors import OnnxPruneError, ResourceError, UsageError
from onnxprune.model.save import PROTOBUF_LIMIT, check_output, save
from tests.unit.model.samples import conv_model, dump, floats, outcome


def test_save_and_load(tmp_path: Path) -> None:
    model = conv_model()
    before = dump(model)
    path = tmp_path / "out.onnx"
    assert save(model, path) == path.stat().st_size == len(before)
    assert dump(load(path).model) == before == dump(model)
    assert os.listdir(tmp_path) == ["out.onnx"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_external_data_of_large_models(tmp_path: Path) -> None:
    model = conv_model()
    model.graph.node.insert(0, helper.make_node("Constant", [], ["k"], value=floats("k", 32, 32)))
    typed = helper.make_tensor("typed", TensorProto.FLOAT, [600], np.arange(600, dtype=np.float32))
    model.graph.initializer.append(typed)
    before = dump(model)
    path = tmp_path / "out.onnx"
    written = save(model, path, external_over=3000)
    assert dump(model) == before
    data = next(tmp_path.glob("*.data"))
    assert data.name == f"out-{hashlib.sha256(data.read_bytes()).hexdigest()[:12]}.data"
    assert written == path.stat().st_size + data.stat().st_size
    assert sorted(os.listdir(tmp_path)) == sorted([data.name, "out.onnx"])
    loaded = load(path).model
    for first, second in zip(model.graph.initializer, loaded.graph.initializer, strict=True):
        assert np.array_equal(numpy_helper.to_array(first), numpy_helper.to_array(second))
    constant = loaded.graph.node[0].attribute[0].t
    assert np.array_equal(
        numpy_helper.to_array(constant), numpy_helper.to_array(model.graph.node[0].attribute[0].t)
    )
    onnx.load(path)


def test_old_external_data_is_removed_and_foreign_files_stay(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    foreign = tmp_path / "out-0123456789ab.data"
    foreign.write_bytes(b"mine")
    model = conv_model()
    save(model, path, external_over=3000)
    first = {p.name for p in tmp_path.glob("*.data")} - {foreign.name}
    save(model, path, force=True, external_over=3000)
    assert {p.name for p in tmp_path.glob("*.data")} == first | {foreign.name}
    model.graph.initializer[0].raw_data = bytes(1728)
    save(model, path, force=True, external_over=3000)
    second = {p.name for p in tmp_path.glob("*.data")} - {foreign.name}
    assert len(second) == 1
    assert second != first
    save(model, path, force=True)
    assert sorted(os.listdir(tmp_path)) == [foreign.name, "out.onnx"]


def test_check_output(tmp_path: Path) -> None:
    source = tmp_path / "in.onnx"
    save(conv_model(), source)
    (tmp_path / "soft.onnx").symlink_to(source)
    os.link(source, tmp_path / "hard.onnx")
    other = tmp_path / "other.onnx"
    other.write_bytes(b"x")
    for name in ("in.onnx", "soft.onnx", "hard.onnx", "./in.onnx"):
        with pytest.raises(UsageError, match="is the input"):
            check_output(tmp_path / name, source, True)
    with pytest.raises(UsageError, match="--force"):
        check_output(other, source, False)
    with pytest.raises(UsageError, match="does not exist"):
        check_output(tmp_path / "none" / "o.onnx", source, True)
    with pytest.raises(UsageError, match="is a folder"):
        check_output(tmp_path, source, True)
    with pytest.raises(UsageError, match="names no file"):
        check_output("", source, True)
    with pytest.raises(UsageError, match="does not exist"):
        check_output(other / "o.onnx", source, True)
    check_output(other, source, True)
    check_output(tmp_path / "new.onnx", source, False)
    check_output(tmp_path / "new.onnx", None, False)


def test_unwritable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UsageError, match="not writable"):
        check_output(tmp_path / "o.onnx", None, False)
    with pytest.raises(UsageError, match="not writable"):
        save(conv_model(), tmp_path / "o.onnx")
    assert os.listdir(tmp_path) == []


def test_existing_output_without_force(tmp_path: Path) -> None:
    path = tmp_path / "o.onnx"
    path.write_bytes(b"precious")
    with pytest.raises(UsageError):
        save(conv_model(), path)
    assert path.read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["o.onnx"]


def failing(name: str, nth: int, code: int) -> tuple[list[int], Callable[..., object]]:
    """A stand-in for os.<name> that fails at its nth call, and the list of calls so far."""
    real, calls = getattr(os, name), []

    def stand_in(*args: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == nth:
            raise OSError(code, os.strerror(code))
        return real(*args, **options)

    return calls, stand_in


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("limit", [PROTOBUF_LIMIT, 3000], ids=["inline", "external"])
@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("name", ["open", "write", "fsync", "replace"])
def test_failing_system_calls_leave_nothing(
    name: str, existing: bool, limit: int, code: int, tmp_path: Path
) -> None:
    expected = ResourceError if code in (errno.ENOSPC, errno.EDQUOT) else UsageError
    failures = 0
    for nth in range(1, 12):
        folder = tmp_path / str(nth)
        folder.mkdir()
        if existing:
            old = conv_model()
            old.graph.initializer[0].raw_data = bytes(1728)
            save(old, folder / "o.onnx", external_over=limit)
        before = contents(folder)
        calls, result = save_with_failing_call(folder / "o.onnx", limit, (name, nth, code))
        if result is expected:
            assert contents(folder) == before
            failures += 1
            continue
        # The call was tolerated, failed after the output was complete, or was never reached.
        assert result is None
        assert dump(load(folder / "o.onnx").model) == dump(conv_model())
        assert not list(folder.glob(".*"))
        if calls < nth:
            break
    else:
        pytest.fail("more calls than expected")
    # A folder that cannot be opened or synced is tolerated; the file itself never is.
    assert failures >= 1


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def save_with_failing_call(
    path: Path, limit: int, failure: tuple[str, int, int]
) -> tuple[int, type[OnnxPruneError] | None]:
    """Save while one system call fails; return how often it was called and what came of it."""
    calls, stand_in = failing(*failure)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, failure[0], stand_in)
        result = outcome(lambda: save(conv_model(), path, force=True, external_over=limit))
    return len(calls), result


def test_data_shared_with_the_existing_output_survives_a_failure(tmp_path: Path) -> None:
    """The new weights equal the old ones, so both models want the same data file."""
    path = tmp_path / "o.onnx"
    save(conv_model(), path, external_over=3000)
    before = contents(tmp_path)
    _, result = save_with_failing_call(path, 3000, ("replace", 2, errno.EIO))
    assert result is UsageError
    assert contents(tmp_path) == before


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, bytes(data)[:100]))
    save(conv_model(), tmp_path / "o.onnx")
    assert dump(load(tmp_path / "o.onnx").model) == dump(conv_model())


@pytest.mark.parametrize("limit", [PROTOBUF_LIMIT, 3000], ids=["inline", "external"])
def test_corrupted_writes_are_noticed(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, bytes(len(data))))
    with pytest.raises(UsageError, match="read back"):
        save(conv_model(), tmp_path / "o.onnx", external_over=limit)
    assert os.listdir(tmp_path) == []


def test_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(conv_model(), tmp_path / "o.onnx", external_over=3000)
    assert os.listdir(tmp_path) == []


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target.onnx"
    target.write_bytes(b"precious")
    (tmp_path / "o.onnx").symlink_to(target)
    save(conv_model(), tmp_path / "o.onnx", force=True)
    assert target.read_bytes() == b"precious"
    assert dump(load(tmp_path / "o.onnx").model) == dump(conv_model())
