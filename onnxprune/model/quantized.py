"""Which constants are codes: integers, or floats of few bits, that stand for real numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

MICROSOFT = "com.microsoft"
_NARROW_NAMES = (
    "INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2",
    "FLOAT8E5M2FNUZ", "FLOAT4E2M1",
)  # fmt: skip
NARROW = frozenset(getattr(onnx.TensorProto, n) for n in _NARROW_NAMES if hasattr(onnx.TensorProto, n))
_CODED: dict[tuple[str, str], tuple[int, ...]] = {
    ("", "DequantizeLinear"): (0,), ("", "QLinearConv"): (3, 8), ("", "ConvInteger"): (1,),
    ("", "QLinearMatMul"): (0, 3), ("", "MatMulInteger"): (0, 1),
    (MICROSOFT, "DequantizeLinear"): (0,), (MICROSOFT, "QGemm"): (0, 3, 6),
    (MICROSOFT, "QLinearAdd"): (0, 3), (MICROSOFT, "QLinearMul"): (0, 3), (MICROSOFT, "QLinearWhere"): (1, 4),
    (MICROSOFT, "DynamicQuantizeMatMul"): (1,), (MICROSOFT, "MatMulIntegerToFloat"): (0, 1),
    (MICROSOFT, "MatMulNBits"): (1,), (MICROSOFT, "GatherBlockQuantized"): (0,),
}  # fmt: skip


def coded_inputs(domain: str, op: str) -> tuple[int, ...]:
    """Return the inputs of an operator at which a constant is a quantised weight or bias."""
    return _CODED.get(("" if domain == "ai.onnx" else domain, op), ())


def is_narrow(dtype: Any) -> bool:
    """Tell whether elements of a type, ONNX's or numpy's, have at most 8 bits; booleans are none."""
    if not isinstance(dtype, int):
        try:
            dtype = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        except (KeyError, ValueError, TypeError):
            return False
    return dtype in NARROW
