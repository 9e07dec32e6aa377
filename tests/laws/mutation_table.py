"""The table of mutations: every rule against its operator cases, the rewrite against cases and graphs.

tests/laws/test_mutation.py tries a slice of it, scripts/mutate_rules.py all.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from onnxprune.rules import REGISTRY
from onnxprune.rules.registry import RuleFunction
from tests.laws.forms import feeds_of
from tests.laws.generator import generate
from tests.laws.label_law import bench
from tests.laws.mutants import MUTATIONS, ORDER, Arena, Mutation, altered
from tests.laws.operator_cases import CASES, OperatorCase


@dataclass(frozen=True)
class Row:
    """What became of a mutation: who noticed it first in ORDER, and on which model."""

    subject: str
    mutation: str
    verdict: str
    where: str

    def __str__(self) -> str:
        return f"{self.verdict}: {self.subject}: {self.mutation}: {self.where}"


def rules() -> dict[str, RuleFunction]:
    """The rule functions by name."""
    return {f"{row.family}.{row.apply.__name__}": row.apply for row in REGISTRY.table()}


def cases_of(rule: RuleFunction, most: int) -> list[OperatorCase]:
    """Cases of a rule, each operator in turn."""
    found = [(c, REGISTRY.find(c.domain, c.op, 1 if c.domain else c.opset)) for c in CASES]
    fitting = [c for c, row in found if row is not None and row.apply is rule]
    by_operator = Counter[str]()
    turns = []
    for case in fitting:
        turns.append((by_operator[case.op], case))
        by_operator[case.op] += 1
    return [case for _, case in sorted(turns, key=lambda turn: turn[0])][:most]


def try_rule(name: str, most: int) -> list[Row]:
    """Try all mutations of one rule on at most so many cases."""
    rule = rules()[name]
    found: dict[str, Row] = {}
    for case in cases_of(rule, most):
        table = bench(case)
        arena = Arena.of(table.model, table.feeds)
        for mutation, change in MUTATIONS.items():
            if not _applies(arena, change):
                continue
            for verdict in arena.try_rule(altered(rule, change, "node")):
                before = found.get(mutation)
                if before is None or ORDER.index(verdict) < ORDER.index(before.verdict):
                    found[mutation] = Row(name, mutation, verdict, case.name)
    return list(found.values())


def _applies(arena: Arena, change: Mutation) -> bool:
    step = next(s for s in arena.base.traced.steps if s.site.name == "node")
    return step.met is not None and change(step.met.signature) is not None


def try_rewrites_of_case(place: int) -> list[Row]:
    """Try altered rewrites around one operator."""
    table = bench(CASES[place])
    return _rows(Arena.of(table.model, table.feeds, 6), CASES[place].name)


def try_rewrites_of_graph(seed: int) -> list[Row]:
    """Try altered rewrites on a generated graph."""
    case = generate(seed)
    return _rows(Arena.of(case.model, feeds_of(case, case.input_shapes[0], 0), 3), f"seed {seed}")


def _rows(arena: Arena, where: str) -> list[Row]:
    return [Row("rewrite", change, verdict, where) for change, verdict in arena.try_rewrites()]
