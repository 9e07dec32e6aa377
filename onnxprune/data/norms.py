"""What a model tells of its training data: the means and variances that its BatchNormalizations store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxprune.model.graph import opsets_of
from onnxprune.rules.registry import facets_of


@dataclass(frozen=True)
class Norm:
    """A BatchNormalization: its node and operator, the tensor it reads, and what is stored [channels]."""

    node: str
    op: str
    tensor: str
    output: str
    mean: np.ndarray
    deviation: np.ndarray


def norms_of(model: onnx.ModelProto) -> Iterator[Norm]:
    """Yield the nodes that normalise by stored statistics, in the order of the graph."""
    stored, opsets = {t.name: t for t in model.graph.initializer}, opsets_of(model)
    for node in model.graph.node:
        where = facets_of(node, opsets).statistics
        if where is None or where.variance >= len(node.input):
            continue
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        names = [node.input[place] for place in (where.mean, where.variance)]
        if not attributes.get("training_mode") and all(name in stored for name in names):
            mean, variance = (numpy_helper.to_array(stored[name]).astype(np.float64) for name in names)
            deviation = np.sqrt(np.maximum(variance, 0) + attributes.get("epsilon", 1e-5))
            yield Norm(node.name, node.op_type, node.input[0], node.output[0], mean, deviation)


def first_of(model: onnx.ModelProto, norms: Iterable[Norm]) -> list[Norm]:
    """Return those that no other one stands in front of: what reaches them depends on inputs the most."""
    by_output = {norm.output: norm for norm in norms}
    behind: set[str] = set()
    found = []
    for node in model.graph.node:
        own = by_output.get(node.output[0]) if node.output else None
        later = any(name in behind for name in node.input)
        if own is not None and not later:
            found.append(own)
        if own is not None or later:
            behind.update(node.output)
    return found
