"""Where a model comes from: a path, bytes or a ModelProto, with its external data."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnxprune.errors import ModelError, shortened
from onnxprune.model.foreign import foreign
from onnxprune.model.tensors import DecodeError, all_tensors, is_external, raw_size
from onnxprune.paths import open_file, read_file, resolved

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


@dataclass
class Source:
    """A model as it was read, and what is needed to hash it: the bytes are kept until then."""

    model: onnx.ModelProto
    path: Path | None
    data: bytes | None
    external: tuple[onnx.TensorProto, ...]

    def __post_init__(self) -> None:
        self._length = None if self.data is None else len(self.data)
        self._outside = sum(raw_size(t) for t in self.external)

    def nbytes(self) -> int:
        """Bytes of the serialised model plus its external data."""
        own = self.model.ByteSize() if self._length is None else self._length
        return int(own + self._outside)

    def sha256(self) -> str:
        """Hash of the serialised model, then of the external bytes in initializer order; ask once."""
        data = self.model.SerializeToString(deterministic=True) if self.data is None else self.data
        digest = hashlib.sha256(data)
        for tensor in self.external:
            digest.update(tensor.raw_data)
        self.data = None
        return digest.hexdigest()


def read(given: str | os.PathLike[str] | bytes | onnx.ModelProto) -> Source:
    """Read and parse a model and its external data.

    Raises ModelError for what is no ONNX model, and for external data that is missing, too short or
    outside the model's folder.
    """
    if isinstance(given, onnx.ModelProto):
        model, path, data = given, None, None
    else:
        path = None if isinstance(given, (bytes, bytearray, memoryview)) else Path(given)
        data = bytes(given) if path is None else _file(path)  # type: ignore[arg-type]
        model = _parse(data, "the given bytes" if path is None else f"'{path}'")
    external = tuple(t for t in all_tensors(model) if is_external(t))
    if external:
        _resolve(external, path)
    return Source(model, path, data, external)


def _file(path: Path) -> bytes:
    try:
        return read_file(path)
    except FileNotFoundError as error:
        raise ModelError(f"'{path}' does not exist; check the path") from error
    except IsADirectoryError as error:
        raise ModelError(f"'{path}' is a folder; give the .onnx file in it") from error
    except OSError as error:
        raise ModelError(
            f"'{shortened(str(path))}' cannot be read: {error.strerror}; check the file"
        ) from error


def _parse(data: bytes, where: str) -> onnx.ModelProto:
    if not data:
        raise ModelError(f"{where}: the file is empty; fetch it again")
    what = foreign(data)
    if what:
        raise ModelError(f"{where} {what}")
    try:
        return onnx.ModelProto.FromString(data)
    except DecodeError as error:
        missing = _missing_bytes(data)
        if missing:
            what = f"is truncated: got {len(data)} bytes, expected at least {missing} more; fetch it again"
        else:
            what = f"is no ONNX model: got {len(data)} bytes that are no protobuf message; check the file"
        raise ModelError(f"{where} {what}") from error


def _missing_bytes(data: bytes) -> int:
    """Bytes that the last field of a model lacks; 0 where the bytes are no model at all."""
    position, fields = 0, 0
    while position < len(data):
        tag, position = _varint(data, position)
        kind, number = tag & 7, tag >> 3
        if not 0 < number < 64 or kind not in (_VARINT, _LENGTH):
            return 0
        value, position = _varint(data, position)
        if kind == _LENGTH:
            position += value
        fields += 1
    # Random bytes may look like one field of absurd length; the first of a model is its IR version.
    return position - len(data) if fields > 1 or data[0] == 8 else 0


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80 or shift > 63:
            return value, position
    return value, position + 1


def _resolve(tensors: tuple[onnx.TensorProto, ...], path: Path | None) -> None:
    """Read external data into the tensors, whose model must be ours to change."""
    if path is None:
        location = _entries(tensors[0]).get("location", "")
        raise ModelError(
            f"tensor '{tensors[0].name}': its data is in another file ('{location}'), "
            "and a model given as bytes has no folder; give the path of the model"
        )
    for tensor in tensors:
        tensor.raw_data = _external_bytes(tensor, path)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")


def _entries(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _external_bytes(tensor: onnx.TensorProto, path: Path) -> bytes:
    entries = _entries(tensor)
    where = f"tensor '{tensor.name}': external data '{shortened(entries.get('location', ''))}'"
    expected = raw_size(tensor)
    offset, length = _number(entries, "offset", 0, where), _number(entries, "length", expected, where)
    if length != expected:
        raise ModelError(
            f"{where}: got length {length}, expected {expected} from its dims; export the model again"
        )
    try:
        with open_file(_inside(entries.get("location", ""), path, where)) as handle:
            handle.seek(offset)
            data = handle.read(expected)
    except FileNotFoundError as error:
        raise ModelError(f"{where} does not exist beside '{path}'; fetch it too") from error
    except OSError as error:
        raise ModelError(f"{where} cannot be read: {error.strerror}; check the file") from error
    if len(data) != expected:
        got = f"got {len(data)} bytes at offset {offset}, expected {expected}"
        raise ModelError(f"{where} is too short: {got}; fetch it again")
    return data


def _number(entries: dict[str, str], key: str, default: int, where: str) -> int:
    text = entries.get(key, str(default))
    if not text.isascii() or not text.isdigit():
        raise ModelError(f"{where}: {key} is '{text}', expected a number; export the model again")
    return int(text)


def _inside(location: str, path: Path, where: str) -> Path:
    """The data file, resolved; links may lead out of the folder only to where the model itself lies.

    The exception is the cache layout of Hugging Face: model and data are links into one blobs folder.
    Raises OSError for a path that cannot be followed.
    """
    relative = Path(location)
    outside = (
        f"{where} of '{path}' lies outside the model's folder and was not opened; put it beside the model"
    )
    if not location or relative.is_absolute() or ".." in relative.parts:
        raise ModelError(outside)
    folder = resolved(path.parent)
    found = resolved(folder / relative)
    if not (found.is_relative_to(folder) or found.parent == resolved(path).parent):
        raise ModelError(
            f"{outside}: its path is a link; 'cp -rL' of the folder makes files of links that you trust"
        )
    return found
