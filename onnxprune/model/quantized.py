"""Which constants are parameters: floats, and the codes of quantised weights."""

from __future__ import annotations

import onnx

from onnxprune.model.tensors import FLOATS

_NARROW_NAMES = (
    "INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2",
    "FLOAT8E5M2FNUZ", "FLOAT4E2M1",
)  # fmt: skip
NARROW = frozenset(getattr(onnx.TensorProto, n) for n in _NARROW_NAMES if hasattr(onnx.TensorProto, n))


def is_parameter(data_type: int, rank: int, coded: bool) -> bool:
    """Tell whether the elements of a constant count as parameters.

    data_type: ONNX's number of its element type; coded: an operator reads it as a quantised weight or bias.
    Floats count, scales among them, and what has two or more axes and at most 8 bits an element; zero points
    and shapes do not.
    """
    return coded or data_type in FLOATS or (rank > 1 and data_type in NARROW)
