"""Operator domains: the standard one has two names."""

from __future__ import annotations

import onnx

_SPELLED = "ai.onnx"


def plain(domain: str) -> str:
    """Return a domain, the standard one under its empty name."""
    return "" if domain == _SPELLED else domain


def opsets_of(holder: onnx.ModelProto | onnx.FunctionProto) -> dict[str, int]:
    """Return versions by domain, the standard one under its empty name."""
    return {plain(o.domain): o.version for o in holder.opset_import}
