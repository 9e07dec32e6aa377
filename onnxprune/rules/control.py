"""Control flow: If.

Specification: https://onnx.ai/onnx/operators/onnx__If.html.
"""

from __future__ import annotations

from onnxprune.rules.registry import rule
from onnxprune.rules.signature import Branching, Facets, Pinned, Site, Verdict


@rule("If", facets=Facets(branching=Branching(("then_branch", "else_branch"), "Where")))
def if_(_site: Site) -> Verdict:
    """Takes one of two branches; one that is always taken is written out before the labels are traced."""
    return Pinned("If whose condition is known only at run time")
