"""How large tensors get at given input sizes, before anything is run."""

from __future__ import annotations

import onnx

from onnxprune.model.sizes import Sizes
from onnxprune.model.tensors import bits_of, volume, weightless


class Footprint:
    """Infers shapes on a copy of a model without weights."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._bare = weightless(model)
        self._bare.graph.ClearField("value_info")  # of the exporter's example sizes
        for info in self._bare.graph.output:
            if info.type.HasField("tensor_type"):
                info.type.tensor_type.ClearField("shape")

    def largest(self, sizes: Sizes) -> int:
        """Return the bytes of the largest tensor at these input sizes, as far as shapes can be inferred."""
        for info in self._bare.graph.input:
            shape = info.type.tensor_type.shape
            if info.name in sizes:
                shape.ClearField("dim")
                for size in sizes[info.name]:
                    shape.dim.add(dim_value=size)
        try:
            graph = onnx.shape_inference.infer_shapes(self._bare, data_prop=True).graph
        except (RuntimeError, ValueError):  # onnxruntime says what is wrong with the model
            return 0
        return max(map(_bytes, (*graph.input, *graph.output, *graph.value_info)), default=0)


def _bytes(info: onnx.ValueInfoProto) -> int:
    kind = info.type.tensor_type
    if not kind.HasField("shape") or not all(d.HasField("dim_value") for d in kind.shape.dim):
        return 0
    return volume([d.dim_value for d in kind.shape.dim]) * bits_of(kind.elem_type) // 8
