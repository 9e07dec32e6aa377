"""MACs, and how a removal changes them."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from onnxprune.analysis.trace import Trace
from onnxprune.rules.signature import Axis, Pinned, Signature


def node_macs(traced: Trace, sizes: Mapping[int, Mapping[str, int]] | None = None) -> dict[int, int]:
    """Count the MACs of every node at the sizes of the trace.

    sizes: subscript sizes after a removal, by node; the trace's own where a node is missing.
    """
    result: dict[int, int] = {}
    for step in traced.steps:
        verdict = step.verdict
        if isinstance(verdict, Pinned) and verdict.macs:
            result[step.number] = verdict.macs
        elif isinstance(verdict, Signature) and verdict.macs and step.met is not None:
            own = {**step.met.sizes, **(sizes or {}).get(step.number, {})}
            result[step.number] = sum(product(subscripts, own) for subscripts in verdict.products)
    return result


def product(subscripts: Axis, sizes: Mapping[str, int]) -> int:
    """Multiply the sizes of subscripts; one that has no axis is 1."""
    return prod(sizes.get(subscript, 1) for subscript in subscripts)


def macs(traced: Trace, sizes: Mapping[int, Mapping[str, int]] | None = None) -> int:
    """Count the MACs of the whole graph."""
    return sum(node_macs(traced, sizes).values())
