"""Alter every rule and the rewrite mechanically, and print who notices: python scripts/mutate_rules.py.

Exits with 1 where a mutant survives that changes an output.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from time import monotonic

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.laws.mutants import HOLE, ORDER
from tests.laws.mutation_table import Row, rules, try_rewrites_of_case, try_rewrites_of_graph, try_rule
from tests.laws.operator_cases import CASES


def report(names: Sequence[str], altered: Sequence[Row], rewritten: Sequence[Row]) -> int:
    """Print the tables; return the number of survivors."""
    print(f"{'rule':44}" + "".join(f"{v:>9}" for v in ORDER))
    for name in names:
        _line(name, [row for row in altered if row.subject == name])
    _line("all", altered)
    for kind in sorted({row.mutation for row in rewritten}):
        _line(kind, [row for row in rewritten if row.mutation == kind])
    for row in (*altered, *rewritten):
        if row.verdict == HOLE or (row.verdict == ORDER[1] and row.subject != "rewrite"):
            print(row)
    return sum(row.verdict == HOLE for row in (*altered, *rewritten))


def followed(what: str, total: int, found: Iterable[list[Row]]) -> list[Row]:
    """Gather rows, and say on stderr how far it is and what survives."""
    rows: list[Row] = []
    for number, more in enumerate(found, 1):
        rows += more
        for row in more:
            if row.verdict == HOLE:
                print(row, file=sys.stderr)
        print(f"{number}/{total} {what}", file=sys.stderr, flush=True)
    return rows


def _line(name: str, rows: Sequence[Row]) -> None:
    counts = Counter(row.verdict for row in rows)
    print(f"{name:44}" + "".join(f"{counts[v] or '':>9}" for v in ORDER))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=12, help="operator cases tried by rule")
    parser.add_argument("--graphs", type=int, default=20, help="generated graphs for altered rewrites")
    parser.add_argument("--start", type=int, default=0, help="seed of the first graph")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    begun = monotonic()
    names = list(rules())
    seeds = range(options.start, options.start + options.graphs)
    with ProcessPoolExecutor(options.jobs) as pool:
        altered = followed("rules", len(names), pool.map(try_rule, names, [options.cases] * len(names)))
        places = range(len(CASES))
        cases = pool.map(try_rewrites_of_case, places, chunksize=4)
        rewritten = followed("operator cases", len(places), cases)
        rewritten += followed("graphs", len(seeds), pool.map(try_rewrites_of_graph, seeds))
    holes = report(names, altered, rewritten)
    print(f"{len(altered)} mutants of {len(names)} rules, {len(rewritten)} of rewrites, {holes} survivors")
    print(f"{monotonic() - begun:.0f} s")
    return int(holes > 0)


if __name__ == "__main__":
    sys.exit(main())
