"""MACs, and how a removal changes them."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from onnxprune.analysis.trace import Trace
from onnxprune.rules.signature import Axis, Pinned, Signature


def node_macs(traced: Trace, sizes: Mapping[int, Mapping[str, int]] | None = None) -> dict[int, int]:
    """Count the MACs of every node at the sizes of the trace.

    sizes: letter sizes after a removal, by node; the trace's own where a node is missing.
    """
    found: dict[int, int] = {}
    for step in traced.steps:
        verdict = step.verdict
        if isinstance(verdict, Pinned) and verdict.macs:
            found[step.number] = verdict.macs
        elif isinstance(verdict, Signature) and verdict.macs and step.met is not None:
            own = {**step.met.sizes, **(sizes or {}).get(step.number, {})}
            found[step.number] = sum(product(letters, own) for letters in verdict.products)
    return found


def product(letters: Axis, sizes: Mapping[str, int]) -> int:
    """Multiply the sizes of letters; one that has no axis is 1."""
    return prod(sizes.get(letter, 1) for letter in letters)


def macs(traced: Trace, sizes: Mapping[int, Mapping[str, int]] | None = None) -> int:
    """Count the MACs of the whole graph."""
    return sum(node_macs(traced, sizes).values())
