"""Operators without a rule: whose they are, and what to give instead where no rule could help."""

from __future__ import annotations

from onnxprune.rules.signature import NO_RULE

_EXTENSIONS = (
    "nodes of onnxruntime-extensions do not run in onnxruntime by itself: give the model without its pre- "
    "and post-processing"
)
_OPTIMISED = "onnxruntime saved the model optimised for one kind of machine: give the model it was made from"
_ADVICE = {
    "ai.onnx.contrib": _EXTENSIONS,
    "com.microsoft.extensions": _EXTENSIONS,
    "com.microsoft.nchwc": _OPTIMISED,
}


def without_rule(domain: str) -> str:
    """Return why an operator of this domain freezes what reaches it."""
    return f"{NO_RULE} of '{domain}'" if domain else NO_RULE


def is_without_rule(reason: str) -> bool:
    """Tell whether a node is frozen because its operator has no rule."""
    return reason.startswith(NO_RULE)


def advice(domain: str) -> str:
    """Return what to give instead of a model with operators of this domain; nothing where that is unknown."""
    return _ADVICE.get(domain, "")
