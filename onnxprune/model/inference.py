"""Shapes and types that onnx infers at given sizes of the inputs, on a copy without weights."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from onnxprune.errors import ModelError, UsageError
from onnxprune.model.graph import ValueInfo, declared_dims
from onnxprune.model.runtime import one_line
from onnxprune.model.tensors import bits_of, volume, weightless


class Inference:
    """Infers the shapes of one model at any number of input sizes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._bare = weightless(model)
        graph = self._bare.graph
        self._inputs = [onnx.ValueInfoProto.FromString(i.SerializeToString()) for i in graph.input]
        # Stored shapes are of the exporter's example sizes, and symbols would hide the concrete result.
        graph.ClearField("value_info")
        for info in graph.output:
            if info.type.HasField("tensor_type"):
                info.type.tensor_type.ClearField("shape")

    @property
    def graph(self) -> onnx.GraphProto:
        """Return the main graph without its weights; not to be changed."""
        return self._bare.graph

    def at(self, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, ValueInfo]:
        """Infer shape and type of inputs, outputs and what lies between, the inputs having the given sizes.

        Shape is None where inference stops. Raises UsageError where a size contradicts the declared
        rank, ModelError where inference fails altogether.
        """
        for info, declared in zip(self._bare.graph.input, self._inputs, strict=True):
            info.CopyFrom(declared)
            if info.name in sizes:
                _fix(info, sizes[info.name])
        inferred = _inferred(self._bare)
        return {
            info.name: ValueInfo(info.type.tensor_type.elem_type, _concrete(info))
            for info in (*inferred.input, *inferred.output, *inferred.value_info)
            if info.type.HasField("tensor_type")
        }

    def largest(self, sizes: Mapping[str, tuple[int, ...]]) -> int:
        """Return the bytes of the largest tensor at these input sizes, as far as shapes can be inferred."""
        try:
            found = self.at(sizes).values()
        except ModelError:  # onnxruntime says what is wrong with the model
            return 0
        return max((volume(v.shape) * bits_of(v.dtype) // 8 for v in found if v.shape is not None), default=0)


def _inferred(bare: onnx.ModelProto) -> onnx.GraphProto:
    try:
        return onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError) as error:
        raise ModelError(
            f"shape inference failed: {one_line(error)}; run onnx.checker on the model"
        ) from error


def _fix(info: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
    dims = info.type.tensor_type.shape
    if info.type.tensor_type.HasField("shape") and len(dims.dim) != len(shape):
        got = f"got {len(shape)} sizes, expected {len(dims.dim)}"
        raise UsageError(f"input '{info.name}': {got}; give one size for each of its dimensions")
    info.type.tensor_type.ClearField("shape")
    info.type.tensor_type.shape.SetInParent()
    for size in shape:
        info.type.tensor_type.shape.dim.add(dim_value=size)


def _concrete(info: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    dims = declared_dims(info)
    sizes = tuple(d for d in dims or () if isinstance(d, int))
    return sizes if dims is not None and len(sizes) == len(dims) else None
