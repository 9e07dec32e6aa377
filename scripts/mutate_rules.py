"""Alter every rule and the rewrite mechanically, and print who notices: python scripts/mutate_rules.py.

Exits with 1 where a mutant survives that changes an output.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from time import monotonic

sys.path.insert(0, str(Path(__file__).parents[1]))

from onnxprune.rules import REGISTRY
from onnxprune.rules.registry import RuleFunction
from tests.generator import generate
from tests.label_law import bench
from tests.laws import feeds_of
from tests.mutants import HOLE, MUTATIONS, ORDER, Arena, altered
from tests.operator_cases import CASES, OperatorCase


def rules() -> dict[str, RuleFunction]:
    """The rule functions by name."""
    return {f"{row.family}.{row.apply.__name__}": row.apply for row in REGISTRY.table()}


def cases_of(rule: RuleFunction, most: int) -> list[OperatorCase]:
    """Cases of a rule, each operator in turn."""
    fitting = [c for c in CASES if (row := REGISTRY.find("", c.op, c.opset)) and row.apply is rule]
    by_operator = Counter[str]()
    turns = []
    for case in fitting:
        turns.append((by_operator[case.op], case))
        by_operator[case.op] += 1
    return [case for _, case in sorted(turns, key=lambda turn: turn[0])][:most]


def try_rule(name: str, most: int) -> dict[str, tuple[str, str]]:
    """Try all mutations of one rule; by mutation: who noticed first in ORDER, and on which case."""
    rule = rules()[name]
    found: dict[str, tuple[str, str]] = {}
    for case in cases_of(rule, most):
        table = bench(case)
        arena = Arena.of(table.model, table.feeds)
        for mutation, change in MUTATIONS.items():
            if not applies(arena, change):
                continue
            for verdict in arena.try_rule(altered(rule, change, "node")):
                before = found.get(mutation, (ORDER[-1], ""))[0]
                if mutation not in found or ORDER.index(verdict) < ORDER.index(before):
                    found[mutation] = (verdict, case.name)
    return found


def applies(arena: Arena, change: object) -> bool:
    step = next(s for s in arena.base.traced.steps if s.site.name == "node")
    return step.met is not None and change(step.met.signature) is not None  # type: ignore[operator]


def try_rewrites(place: int) -> list[tuple[str, str, str]]:
    """Try altered rewrites on a case of an operator, or on a generated graph: change, who, where."""
    if place < len(CASES):
        table = bench(CASES[place])
        model, feeds, name, tries = table.model, table.feeds, CASES[place].name, 6
    else:
        case = generate(place - len(CASES))
        model, feeds, name, tries = (
            case.model,
            feeds_of(case, case.input_shapes[0], 0),
            f"seed {case.seed}",
            3,
        )
    return [(change, verdict, name) for change, verdict in Arena.of(model, feeds, tries).try_rewrites()]


def report(tables: dict[str, dict[str, tuple[str, str]]], rewritten: Sequence[tuple[str, str, str]]) -> int:
    """Print the tables; return the number of survivors."""
    total = Counter(verdict for rows in tables.values() for verdict, _ in rows.values())
    print(f"{'rule':44}" + "".join(f"{v:>9}" for v in ORDER))
    for name, rows in tables.items():
        counts = Counter(verdict for verdict, _ in rows.values())
        print(f"{name:44}" + "".join(f"{counts[v] or '':>9}" for v in ORDER))
    print(f"{'all':44}" + "".join(f"{total[v]:>9}" for v in ORDER))
    for kind in sorted({change for change, _, _ in rewritten}):
        counts = Counter(verdict for change, verdict, _ in rewritten if change == kind)
        print(f"{kind:44}" + "".join(f"{counts[v] or '':>9}" for v in ORDER))
    for name, rows in tables.items():
        for mutation, (verdict, case) in rows.items():
            if verdict in ORDER[:2]:
                print(f"{verdict}: {name}: {mutation}: {case}")
    for change, verdict, where in rewritten:
        if verdict == HOLE:
            print(f"{HOLE}: {change}: {where}")
    return total[HOLE] + sum(verdict == HOLE for _, verdict, _ in rewritten)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=12, help="operator cases tried by rule")
    parser.add_argument("--graphs", type=int, default=20, help="generated graphs for altered rewrites")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    begun = monotonic()
    names = list(rules())
    with ProcessPoolExecutor(options.jobs) as pool:
        tables = dict(zip(names, pool.map(try_rule, names, [options.cases] * len(names)), strict=True))
        places = range(len(CASES) + options.graphs)
        rewritten = [row for rows in pool.map(try_rewrites, places, chunksize=4) for row in rows]
    holes = report(tables, rewritten)
    mutants = sum(len(rows) for rows in tables.values())
    print(f"{mutants} mutants of {len(names)} rules, {len(rewritten)} of rewrites, {holes} survivors")
    print(f"{monotonic() - begun:.0f} s")
    return int(holes > 0)


if __name__ == "__main__":
    sys.exit(main())
