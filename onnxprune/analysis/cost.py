"""MACs, and how a removal changes them."""

from __future__ import annotations

from collections.abc import Mapping

from onnxprune.analysis.trace import Trace
from onnxprune.rules.signature import Pinned, Signature


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
            own = (sizes or {}).get(step.number, step.met.sizes)
            count = 1
            for letter in verdict.macs:
                count *= own.get(letter, step.met.sizes.get(letter, 1))
            found[step.number] = count
    return found


def macs(traced: Trace, sizes: Mapping[int, Mapping[str, int]] | None = None) -> int:
    """Count the MACs of the whole graph."""
    return sum(node_macs(traced, sizes).values())
