"""The laws on graphs with computed weights, branches, depth multipliers and slices written in place.

Each of these blocks can fail them: a rule, a folding or a branch that is wrong on purpose is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune.analysis import branches
from onnxprune.model import inline
from onnxprune.model.branches import Branch
from onnxprune.model.fold import ConstantPart, Folded
from onnxprune.model.lifting import Lifted
from onnxprune.rules import REGISTRY
from tests.laws.generator import generate
from tests.laws.generator.assemble import DRAWS, draws_of
from tests.laws.laws import check
from tests.laws.mutants import MUTATIONS, altered
from tests.laws.mutation_table import rules

pytestmark = pytest.mark.slow

FIRST = DRAWS["structures"][0]
GRAPHS = 24
BLOCK = 6


@pytest.mark.parametrize("start", range(FIRST, FIRST + GRAPHS, BLOCK))
def test_laws_hold_on_graphs_with_these_structures(start: int) -> None:
    results = [check(seed) for seed in range(start, start + BLOCK) if "structures" in draws_of(seed)]
    broken = [str(b) for r in results for b in r.broken]
    assert not broken, "\n".join(broken)
    assert any(share > 0 for r in results for share in r.shares)


@dataclass(frozen=True)
class Wrong:
    """A rule that is wrong on purpose, and a graph with the block that it breaks."""

    block: str
    rule: str
    mutation: str
    seed: int


RULES = (
    Wrong("computed_layer", "reduction.reduce", "output 0: a letter lost", 20002),
    Wrong("deform_conv", "sampling.deform_conv", "pins left out", 20095),
    Wrong("grid_sample", "sampling.grid_sample", "pins left out", 20117),
    Wrong("grouped_heads", "layout.reshape", "repair left out", 20029),
    Wrong("grouped_heads", "contraction.conv", "input 1: composite reversed", 20010),
    Wrong("multiplied_heads", "contraction.conv", "input 1: composite reversed", 20098),
    Wrong("multiplier_chain", "contraction.conv", "input 1: composite reversed", 20056),
    Wrong("reversed_places.channels", "transforms.reverse_sequence", "pins left out", 20048),
    Wrong("triangle.weight", "transforms.trilu", "pins left out", 20050),
    Wrong("written_slice", "indexing.scatter_nd", "placed shifted by one", 20100),
)


@pytest.mark.parametrize("wrong", RULES, ids=lambda wrong: f"{wrong.block} {wrong.rule}")
def test_a_wrong_rule_breaks_a_law(wrong: Wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wrong.block in generate(wrong.seed).features
    assert not check(wrong.seed).broken
    table = altered(rules()[wrong.rule], MUTATIONS[wrong.mutation], None)
    monkeypatch.setattr(REGISTRY, "_rules", table._rules)
    assert check(wrong.seed).broken


def laws_broken(seed: int, block: str) -> set[str]:
    assert block in generate(seed).features
    return {b.law for b in check(seed).broken}


def test_a_weight_that_is_folded_wrongly_breaks_a_law(monkeypatch: pytest.MonkeyPatch) -> None:
    right: Callable[..., Folded] = ConstantPart.stored

    def wrong(part: ConstantPart, names: Sequence[str]) -> Folded:
        found = right(part, names)
        told = {folded.tensor for folded in found.tensors}
        for tensor in found.model.graph.initializer:
            if tensor.name in told:
                values = np.roll(numpy_helper.to_array(tensor), 1, axis=0)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return found

    assert not laws_broken(20095, "computed_layer")
    monkeypatch.setattr(ConstantPart, "stored", wrong)
    assert laws_broken(20095, "computed_layer") == {"preparation"}


def test_branches_in_each_other_s_place_break_a_law(monkeypatch: pytest.MonkeyPatch) -> None:
    right = inline.lower

    def wrong(model: onnx.ModelProto, lifted: Sequence[Lifted]) -> onnx.ModelProto:
        return right(model, [replace(one, attributes=one.attributes[::-1]) for one in lifted])

    assert not laws_broken(20007, "if_branches")
    monkeypatch.setattr(inline, "lower", wrong)
    assert "lowering" in laws_broken(20007, "if_branches")


def test_a_branch_that_is_never_taken_breaks_a_law(monkeypatch: pytest.MonkeyPatch) -> None:
    right = branches._decided
    other = {"then_branch": "else_branch", "else_branch": "then_branch"}

    def wrong(model: onnx.ModelProto) -> Iterator[Branch]:
        return (replace(branch, attribute=other[branch.attribute]) for branch in right(model))

    assert not laws_broken(20026, "if_decided")
    monkeypatch.setattr(branches, "_decided", wrong)
    assert laws_broken(20026, "if_decided")
