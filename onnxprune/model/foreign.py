"""Files of other kinds, recognised by their content, and what to give instead."""

from __future__ import annotations

import io
import zipfile

_FOREIGN = (
    (b"version https://git-lfs", "is a git-LFS pointer, not the model; run 'git lfs pull'"),
    (b"\x1f\x8b", "is gzip-compressed; gunzip it first"),
    (b"BZh", "is bzip2-compressed; bunzip2 it first"),
    (b"\xfd7zXZ", "is xz-compressed; unxz it first"),
    (b"\x28\xb5\x2f\xfd", "is zstd-compressed; unzstd it first"),
    (b"\x80\x02", "is a Python pickle (PyTorch checkpoint); export it to ONNX first"),
    (b"\x80\x03", "is a Python pickle; export the model to ONNX first"),
    (b"\x80\x04", "is a Python pickle; export the model to ONNX first"),
    (b"\x80\x05", "is a Python pickle; export the model to ONNX first"),
    (b"\x89HDF", "is an HDF5 file (Keras); convert it to ONNX first"),
    (b"GGUF", "is a GGUF file; a model in ONNX format is needed"),
    (b"\x93NUMPY", "is a numpy array; a model in ONNX format is needed"),
    (b"ptrt", "is a TensorRT engine; give the .onnx file that it was built from"),
    (b"ftrt", "is a TensorRT engine; give the .onnx file that it was built from"),
    (b"\x7fELF", "is a program; a model in ONNX format is needed"),
)


def foreign(data: bytes) -> str | None:
    """Say what bytes are that are plainly no model, and what to do; None where they may be one."""
    head = data[:512]
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            return what
    if head.startswith(b"PK\x03\x04"):
        return _archive(data)
    if head[257:262] == b"ustar":
        return "is a tar archive; unpack it and give the .onnx file in it"
    if head.lstrip().startswith(b"<?xml") and b"<net " in head:
        return "is an OpenVINO model; give the .onnx file that it was made from"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page, not the model; the download went wrong, fetch the raw file"
    if head[4:8] == b"ORTM":
        return "is in ORT format; give the .onnx file that it was made from"
    if head[4:8] == b"TFL3":
        return "is a TensorFlow Lite file; convert it to ONNX first"
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < len(data):
        return "is a safetensors file; export the model to ONNX first"
    return None


def _archive(data: bytes) -> str:
    """Say what a zip archive is by the names in it, which stand at its end; an archive may be cut short."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        names = [data[30 : 30 + int.from_bytes(data[26:28], "little")].decode("latin-1")]
    if any(name.endswith(("data.pkl", "constants.pkl", "/version")) for name in names):
        return "is a PyTorch checkpoint; export it to ONNX first"
    if "config.json" in names and any(name.endswith(".h5") for name in names):
        return "is a Keras model; convert it to ONNX first"
    model = next((name for name in names if name.endswith(".onnx")), None)
    if model is not None:
        return f"is a zip archive; unzip it and give {model!r}"
    if all(name.endswith(".npy") for name in names):
        return "is an archive of numpy arrays; a model in ONNX format is needed"
    return "is a zip archive; unzip it first"
