"""All that is known of operators: what each does to labels, its MACs, its repair, and its facets."""

from onnxprune.rules import (
    attention,
    contraction,
    control,
    elementwise,
    fused,
    indexing,
    layout,
    normalisation,
    quantised,
    recurrent,
    reduction,
    sampling,
    selection,
    sequences,
    states,
    transforms,
)
from onnxprune.rules.registry import REGISTRY, Registry, Rule, load_plugins, rule
from onnxprune.rules.signature import (
    Code,
    Facets,
    Fix,
    Normalisation,
    Pinned,
    Shrunk,
    Signature,
    Site,
    Take,
    Verdict,
)

FAMILIES = (
    attention, contraction, control, elementwise, fused, indexing, layout, normalisation, quantised,
    recurrent, reduction, sampling, selection, sequences, states, transforms,
)  # fmt: skip

__all__ = [
    "FAMILIES", "REGISTRY", "Code", "Facets", "Fix", "Normalisation", "Pinned", "Registry", "Rule", "Shrunk",
    "Signature", "Site", "Take", "Verdict", "load_plugins", "rule",
]  # fmt: skip
