"""What a graph declares of its inputs, and the facts about a tensor that other floors pass around."""

from __future__ import annotations

from dataclasses import dataclass

import onnx


@dataclass(frozen=True)
class ValueInfo:
    """ONNX element type and concrete shape of a tensor; shape None where it is not known."""

    dtype: int
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class InputSpec:
    """Declared type of a graph input: dims None for an unknown rank, one dim None for a nameless one."""

    name: str
    dtype: int
    dims: tuple[int | str | None, ...] | None


def input_specs(model: onnx.ModelProto) -> dict[str, InputSpec]:
    """Inputs a caller must feed: those that are no initializers, in their order."""
    constants = {t.name for t in model.graph.initializer}
    constants.update(s.values.name for s in model.graph.sparse_initializer)
    return {
        info.name: InputSpec(info.name, info.type.tensor_type.elem_type, declared_dims(info))
        for info in model.graph.input
        if info.name not in constants
    }


def declared_dims(info: onnx.ValueInfoProto) -> tuple[int | str | None, ...] | None:
    """Dims of a value description: a size, a symbol, or None for one that is nameless."""
    kind = info.type.tensor_type
    return tuple(_dim(d) for d in kind.shape.dim) if kind.HasField("shape") else None


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        return int(dim.dim_value)
    return str(dim.dim_param) or None
