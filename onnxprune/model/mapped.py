"""Large models without a copy of their weights in memory: these lie in a file that onnxruntime maps."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnxprune.model.tensors import copy_except, copy_header, is_external, raw_bytes, raw_size

HEAVY = 1 << 20  # bytes; smaller tensors stay in the model
MUCH = 1 << 28  # bytes; models with less are copied as they are
_PAGE = 4096
_FILE = "weights"


@dataclass(frozen=True)
class MappedModel:
    """A model that is cheap to copy and to change.

    folder: where the weights lie that the model refers to; None where it holds them itself. The folder
    goes away with the last model that refers to it.
    """

    model: onnx.ModelProto
    folder: tempfile.TemporaryDirectory[str] | None = None


def light(model: onnx.ModelProto) -> MappedModel:
    """Put the heavy weights of a large model into a temporary file; a small model stays as it is."""
    heavy = [t for t in model.graph.initializer if _goes(t)]
    if sum(raw_size(t) for t in heavy) <= MUCH:
        return MappedModel(model)
    folder = tempfile.TemporaryDirectory(prefix="onnxprune-", ignore_cleanup_errors=True)
    result = onnx.ModelProto()
    copy_except(model, result, frozenset(("graph",)))
    result.graph.SetInParent()
    copy_except(model.graph, result.graph, frozenset(("initializer",)))
    with (Path(folder.name) / _FILE).open("wb") as file:
        for tensor in model.graph.initializer:
            copy = result.graph.initializer.add()
            if not _goes(tensor):
                copy.CopyFrom(tensor)
                continue
            file.seek(-(-file.tell() // _PAGE) * _PAGE)
            copy_header(tensor, copy)
            copy.data_location = onnx.TensorProto.EXTERNAL
            place = {"location": _FILE, "offset": file.tell(), "length": raw_size(tensor)}
            for key, value in place.items():
                copy.external_data.add(key=key, value=str(value))
            file.write(raw_bytes(tensor))
    return MappedModel(result, folder)


def _goes(tensor: onnx.TensorProto) -> bool:
    kept = tensor.data_type == onnx.TensorProto.STRING or is_external(tensor)
    return not kept and raw_size(tensor) > HEAVY
