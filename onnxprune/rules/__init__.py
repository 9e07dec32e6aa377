"""What each operator does to labels, its MACs and its repair."""

from onnxprune.rules import (
    attention,
    contraction,
    elementwise,
    fused,
    indexing,
    layout,
    quantised,
    recurrent,
    reduction,
    selection,
)
from onnxprune.rules.plugins import load_plugins
from onnxprune.rules.registry import REGISTRY, Registry, Rule, rule
from onnxprune.rules.signature import Code, Fix, Pinned, Shrunk, Signature, Site, Take, Verdict

FAMILIES = (
    attention, contraction, elementwise, fused, indexing, layout, quantised, recurrent, reduction, selection,
)  # fmt: skip

__all__ = [
    "FAMILIES", "REGISTRY", "Code", "Fix", "Pinned", "Registry", "Rule", "Shrunk", "Signature", "Site",
    "Take", "Verdict", "load_plugins", "rule",
]  # fmt: skip
