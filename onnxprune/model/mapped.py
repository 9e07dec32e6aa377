"""Models without their weights, cheap to copy and to change: these lie beside, in memory or in a file."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from onnxprune.model.tensors import BIG, copy_except, copy_header, is_external, raw_bytes, raw_size

HEAVY = 1 << 20  # bytes; smaller tensors of a large model stay in it
MUCH = 1 << 28  # bytes; the weights of models with less are held in memory
FILE = "weights"
_PAGE = 4096
_SHARED = frozenset(
    getattr(onnx.TensorProto, name)
    for name in ("FLOAT", "FLOAT16", "DOUBLE", "INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32",
                 "INT64", "UINT64", "BOOL")
)  # fmt: skip  # element types of which onnxruntime takes numpy's arrays


@dataclass(frozen=True, eq=False)
class MappedModel:
    """A model that is cheap to copy and to change.

    weights: OrtValues by name, which the model refers to; folder: where a file with the weights lies
    that the model refers to; it goes away with the last model that does. A model with neither holds its
    weights itself.
    """

    model: onnx.ModelProto
    folder: tempfile.TemporaryDirectory[str] | None = None
    weights: Mapping[str, Any] = field(default_factory=dict)


def light(model: onnx.ModelProto) -> MappedModel:
    """Put the weights beside the model: into memory, or those of a large model into a temporary file."""
    much = sum(raw_size(t) for t in model.graph.initializer if _goes(t) and raw_size(t) > HEAVY) > MUCH
    return _in_file(model) if much else _in_memory(model)


def _in_memory(model: onnx.ModelProto) -> MappedModel:
    from onnxruntime import OrtValue

    result, weights = _without_initializers(model), {}
    for tensor in model.graph.initializer:
        copy = result.graph.initializer.add()
        if tensor.data_type not in _SHARED or is_external(tensor) or raw_size(tensor) <= BIG:
            copy.CopyFrom(tensor)
            continue
        _refer(tensor, copy, 0)
        weights[tensor.name] = OrtValue.ortvalue_from_numpy(numpy_helper.to_array(tensor))
    return MappedModel(result, weights=weights)


def _in_file(model: onnx.ModelProto) -> MappedModel:
    folder = tempfile.TemporaryDirectory(prefix="onnxprune-", ignore_cleanup_errors=True)
    result = _without_initializers(model)
    with (Path(folder.name) / FILE).open("wb") as file:
        for tensor in model.graph.initializer:
            copy = result.graph.initializer.add()
            if not _goes(tensor) or raw_size(tensor) <= HEAVY:
                copy.CopyFrom(tensor)
                continue
            file.seek(-(-file.tell() // _PAGE) * _PAGE)
            _refer(tensor, copy, file.tell())
            file.write(raw_bytes(tensor))
    return MappedModel(result, folder)


def _without_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    result = onnx.ModelProto()
    copy_except(model, result, frozenset(("graph",)))
    result.graph.SetInParent()
    copy_except(model.graph, result.graph, frozenset(("initializer",)))
    return result


def _refer(tensor: onnx.TensorProto, copy: onnx.TensorProto, offset: int) -> None:
    copy_header(tensor, copy)
    copy.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": FILE, "offset": offset, "length": raw_size(tensor)}.items():
        copy.external_data.add(key=key, value=str(value))


def _goes(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type != onnx.TensorProto.STRING and not is_external(tensor)
