"""The two operators that are structure and compute nothing: Constant holds a tensor, Identity renames one.

All else that is known of an operator stands in its rule, in `onnxprune.rules`.
"""

from __future__ import annotations

import onnx

STANDARD = ("", "ai.onnx")


def is_constant(op: str, domain: str | None) -> bool:
    """Tell whether a node of this type holds a tensor (https://onnx.ai/onnx/operators/onnx__Constant.html)."""
    return op == "Constant" and (domain or "") in STANDARD


def is_alias(op: str, domain: str | None) -> bool:
    """Tell whether a node of this type is a name of its input and no more."""
    return op == "Identity" and (domain or "") in STANDARD


def held_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Return the dense tensor that a Constant node holds; None for other nodes and other attributes."""
    if not is_constant(node.op_type, node.domain):
        return None
    return next((a.t for a in node.attribute if a.name == "value" and a.HasField("t")), None)
