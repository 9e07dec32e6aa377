"""Saving models: whole or not at all, and read back before they take the place of anything."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnxprune.errors import ResourceError, UsageError, shortened
from onnxprune.model.temporary import Temporary, place_all, sweep
from onnxprune.model.tensors import (
    BIG,
    DecodeError,
    EncodeError,
    all_tensors,
    copy_header,
    copy_model,
    is_external,
    raw_bytes,
    raw_size,
)
from onnxprune.paths import check_path

PROTOBUF_LIMIT = 2**31 - 2**20  # bytes of one message; the margin leaves room for what wraps the weights
ALIGNMENT = 4096  # bytes; runtimes map external tensors at page boundaries
_CHUNK = 1 << 24
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)


def check_name(path: str | os.PathLike[str]) -> None:
    """Refuse a name that no file system takes. Raises UsageError."""
    try:
        check_path(path)
    except OSError as error:
        raise UsageError(f"output '{shortened(str(path))}': {error.strerror}; choose another name") from error


def check_output(path: str | os.PathLike[str], given: str | os.PathLike[str] | None, force: bool) -> None:
    """Refuse an output that could not be written, before any long work.

    Raises UsageError for an output that is the input, exists (without force), is no file, or whose
    folder is missing or not writable.
    """
    check_name(path)
    target = Path(path)
    folder = target.parent
    if not os.fspath(path) or not target.name:
        raise UsageError(f"output '{path}' names no file; give a path ending in .onnx")
    if not folder.is_dir():
        raise UsageError(f"output folder '{folder}' does not exist; create it first")
    if target.is_dir():
        raise UsageError(f"output '{target}' is a folder; give the path of a file")
    if given is not None and _same_file(target, Path(given)):
        raise UsageError(
            f"output '{target}' is the input; the original is never overwritten, choose another name"
        )
    if os.path.lexists(target) and not force:
        raise UsageError(f"output '{target}' exists; choose another name or pass --force")
    if target.exists() and not target.is_file():
        raise UsageError(f"output '{target}' is no regular file; choose another name")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"output folder '{folder}' is not writable; choose another one")


def _same_file(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return False


def save(
    model: onnx.ModelProto,
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    external_over: int = PROTOBUF_LIMIT,
) -> int:
    """Write a model atomically and return the bytes written, external data included.

    Above `external_over` bytes the weights go to a file beside the model whose name carries its hash.
    Raises UsageError where the output cannot be written, ResourceError when the disk is full; an
    existing output is then untouched and nothing is left behind.
    """
    with staged(model, path, force=force, external_over=external_over) as ready:
        place_all(ready.files)
    return ready.nbytes


@dataclass(frozen=True)
class Staged:
    """A model that is written and lacks only its name. nbytes: of its files, external data included."""

    files: tuple[Temporary, ...]
    nbytes: int


@contextmanager
def staged(
    model: onnx.ModelProto,
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    external_over: int = PROTOBUF_LIMIT,
) -> Iterator[Staged]:
    """Write a model, to be given its name by `place_all` while the context lasts; else it goes away.

    Temporary files of runs that were killed are removed. Raises as `save`.
    """
    check_output(path, None, force)
    target = Path(path)
    sweep(target)
    old_data = _data_files(target)
    with ExitStack() as cleanup, os_errors(target):
        data = serialised(model, external_over)
        files, count = [], 0
        if data is None:
            shell, outside, count = _write_external(model, target, cleanup)
            data = shell.SerializeToString(deterministic=True)
            files.append(outside)
        files.append(cleanup.enter_context(Temporary(target, force)))
        files[-1].write((data,))
        _read_back(files[-1].path, data)
        _sync_folder(target.parent)
        yield Staged(tuple(files), len(data) + count)
    if not files[-1].placed:
        return
    # From here on the output is complete: what fails now must not report it as missing.
    with suppress(OSError):
        _sync_folder(target.parent)
    for name in old_data - {file.target.name for file in files}:
        with suppress(OSError):
            (target.parent / name).unlink()


def serialised(model: onnx.ModelProto, limit: int) -> bytes | None:
    """The bytes of the model, or None where they exceed the limit."""
    if sum(raw_size(t) for t in model.graph.initializer if not is_external(t)) > limit:
        return None
    try:
        data = model.SerializeToString(deterministic=True)
    except (EncodeError, ValueError):
        return None
    return data if len(data) <= limit else None


@contextmanager
def os_errors(target: Path) -> Iterator[None]:
    """Say in one line why a file cannot be written. Raises ResourceError for a full disk, else UsageError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL_DISK:
            raise ResourceError(
                f"writing '{target}': {reason}; free some space or choose another disk"
            ) from error
        raise UsageError(f"writing '{target}': {reason}; choose another output") from error


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # no file handle of a folder there
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def _read_back(path: Path, data: bytes) -> None:
    buffer, position = bytearray(_CHUNK), 0
    with path.open("rb") as handle:
        while count := handle.readinto(buffer):
            if memoryview(buffer)[:count] != memoryview(data)[position : position + count]:
                break
            position += count
    if position != len(data) or count:
        raise OSError(errno.EIO, "the file read back differs from what was written")
    try:
        onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise OSError(errno.EIO, "the file read back is no model") from error


def _write_external(
    model: onnx.ModelProto, target: Path, cleanup: ExitStack
) -> tuple[onnx.ModelProto, Temporary, int]:
    """Write the weights beside the target; return the model without them, their file and its size."""
    digest, offset = hashlib.sha256(), 0
    for chunk in _external_chunks(model):
        digest.update(chunk)
        offset += len(chunk)
    name = f"{target.stem}-{digest.hexdigest()[:12]}.data"
    temporary = cleanup.enter_context(Temporary(target.with_name(name), force=True))
    temporary.write(_external_chunks(model))
    if _file_hash(temporary.path) != digest.digest():
        raise OSError(errno.EIO, "the external data read back differs from what was written")
    return copy_model(model, _referring(name)), temporary, offset


def _goes_outside(tensor: onnx.TensorProto) -> bool:
    return raw_size(tensor) > BIG and tensor.data_type != onnx.TensorProto.STRING and not is_external(tensor)


def _external_chunks(model: onnx.ModelProto) -> Iterator[bytes]:
    for tensor in _outside(model):
        data = raw_bytes(tensor)
        yield data
        yield bytes(-len(data) % ALIGNMENT)


def _outside(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Tensors that leave the file, in the order in which `copy_model` meets them."""
    met: list[onnx.TensorProto] = []

    def meet(tensor: onnx.TensorProto, _: onnx.TensorProto) -> None:
        if _goes_outside(tensor):
            met.append(tensor)

    copy_model(model, meet)
    return iter(met)


def _referring(name: str) -> Callable[[onnx.TensorProto, onnx.TensorProto], None]:
    """A tensor copy for `copy_model` that leaves references to consecutive parts of the file."""
    offset = 0

    def refer(tensor: onnx.TensorProto, target: onnx.TensorProto) -> None:
        nonlocal offset
        if not _goes_outside(tensor):
            target.CopyFrom(tensor)
            return
        copy_header(tensor, target)
        length = raw_size(tensor)
        target.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", name), ("offset", str(offset)), ("length", str(length))):
            target.external_data.add(key=key, value=value)
        offset += length + -length % ALIGNMENT

    return refer


def _file_hash(path: Path) -> bytes:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").digest()


def _data_files(target: Path) -> set[str]:
    """External data that an earlier run of ours wrote for the file to be replaced."""
    pattern = re.compile(re.escape(target.stem) + r"-[0-9a-f]{12}\.data")
    candidates = {p.name for p in target.parent.iterdir() if pattern.fullmatch(p.name)}
    if not candidates or not target.is_file() or not stat.S_ISREG(target.lstat().st_mode):
        return set()
    try:
        old = onnx.ModelProto.FromString(target.read_bytes())
    except (DecodeError, OSError):
        return set()
    used = {
        e.value for t in all_tensors(old) if is_external(t) for e in t.external_data if e.key == "location"
    }
    return candidates & used
