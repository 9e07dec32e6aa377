"""The label law of the design, for every operator of the table."""

from __future__ import annotations

import pytest

from onnxprune.rules import REGISTRY
from tests.laws.label_law import bench, broken, removals
from tests.laws.operator_cases import CASES, OperatorCase

pytestmark = pytest.mark.slow

UNLABELLED = {"ConstantOfShape", "Range", "Shape", "Size"}


@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{c.op}" for i, c in enumerate(CASES)])
def test_deleting_and_running_commute(case: OperatorCase) -> None:
    table = bench(case)
    clean = 0
    for removed in removals(table.units):
        found = broken(table, removed)
        clean += found is None
        assert found in (None, "refused"), (
            f"{case.name}, without units {removed.nonzero()[0].tolist()}: {found}"
        )
    assert (clean > 0) != case.whole or case.op in UNLABELLED, f"{case.name}: {clean} removals replay"


def test_every_operator_has_a_case() -> None:
    found = [REGISTRY.find(c.domain, c.op, 1 if c.domain else c.opset) for c in CASES]
    tried = {(r.domain, r.op, r.since) for r in found if r is not None}
    missing = [
        f"{r.domain or 'ai.onnx'}::{r.op} since {r.since}"
        for r in REGISTRY.table()
        if (r.domain, r.op, r.since) not in tried and not r.facets.opaque
    ]
    assert not missing, "add a line to tests/laws/operator_cases.py for " + ", ".join(missing)
