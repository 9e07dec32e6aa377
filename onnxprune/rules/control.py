"""Control flow: If.

Specification: https://onnx.ai/onnx/operators/onnx__If.html.
"""

from __future__ import annotations

from onnxprune.rules.registry import rule
from onnxprune.rules.signature import Branching, Facets, Pinned, Site, Verdict

LEFT = "If whose branches stay in it"
FACETS = Facets(opaque=LEFT, branching=Branching(("then_branch", "else_branch"), "Where"))


@rule("If", facets=FACETS)
def if_(_site: Site) -> Verdict:
    """Takes one of two branches, which lie outside of it when labels are traced, where that is possible."""
    return Pinned(LEFT)
