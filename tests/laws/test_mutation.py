"""Rules and rewrites that are wrong on purpose: whoever changes an output must be noticed.

A slice of the table that scripts/mutate_rules.py makes in full.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from onnxprune.oracle.prove import PROVED, Proof
from tests.laws.mutants import HOLE, LOADING, ORACLE, REPLAY, TRACE
from tests.laws.mutation_table import Row, try_rewrites_of_case, try_rewrites_of_graph, try_rule
from tests.laws.operator_cases import CASES

pytestmark = pytest.mark.slow

RULES = (
    "contraction.conv", "contraction.gemm", "contraction.matmul", "elementwise.broadcasting",
    "normalisation.group_normalization_21", "normalisation.layer_normalization", "layout.depth_to_space",
    "indexing.scatter_nd",
    "layout.expand", "layout.refit", "layout.reshape", "layout.transpose", "reduction.reduce",
    "sampling.deform_conv", "sampling.grid_sample", "sampling.roi_align",
    "selection.concat", "selection.gather", "selection.pad", "selection.slice_", "selection.split",
    "states.experts", "states.linear_attention",
    "transforms.dft_17", "transforms.reverse_sequence", "transforms.trilu",
)  # fmt: skip
REWRITTEN = ("Conv", "GroupNormalization", "Gather", "MatMul", "Reshape", "Slice", "Split")
NOTICED = {LOADING, ORACLE, REPLAY, TRACE}


def check(rows: Sequence[Row]) -> None:
    survivors = [str(row) for row in rows if row.verdict == HOLE]
    assert not survivors, "\n".join(survivors)
    assert any(row.verdict in NOTICED for row in rows), "no mutation was one that can be noticed"


@pytest.mark.parametrize("name", RULES)
def test_no_altered_rule_survives(name: str) -> None:
    check(try_rule(name, 1))


@pytest.mark.parametrize("op", REWRITTEN)
def test_no_altered_rewrite_survives_around_an_operator(op: str) -> None:
    check(try_rewrites_of_case(next(i for i, case in enumerate(CASES) if case.op == op)))


@pytest.mark.parametrize("seed", [1, 21], ids=["plain", "float16 inside"])
def test_no_altered_rewrite_survives_in_a_graph(seed: int) -> None:
    check(try_rewrites_of_graph(seed))


def test_a_survivor_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.laws.mutants.prove", lambda *_: Proof(PROVED, 1, None))
    rows = try_rewrites_of_case(next(i for i, case in enumerate(CASES) if case.op == "Conv"))
    assert HOLE in {row.verdict for row in rows}
