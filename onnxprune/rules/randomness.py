"""Which nodes give the same outputs for the same inputs, wherever and whenever they run.

Specification: https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from onnxprune.model.graph import plain
from onnxprune.model.tensors import subgraphs
from onnxprune.rules.registry import REGISTRY

RANDOM = frozenset(
    ("Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
     "RandomUniformLike")
)  # fmt: skip


def is_repeatable(node: onnx.NodeProto, opsets: Mapping[str, int]) -> bool:
    """Tell whether a node computes from its inputs alone, and no codes of real numbers come in or out.

    Operators of other domains may do as they like; what a node with a subgraph does, its subgraph says.
    """
    if plain(node.domain) or node.op_type in RANDOM or next(subgraphs(node), None) is not None:
        return False
    return bool(node.input) and REGISTRY.facets_of(node, opsets).quantisation is None
