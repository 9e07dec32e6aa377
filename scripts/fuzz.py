"""The laws on many random graphs: python scripts/fuzz.py [N] [--start SEED] [--drawn KIND] [--jobs J].

Prints every broken law with its seed, and exits with 1 where there is one.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import count, islice
from pathlib import Path
from time import monotonic

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.laws.generator.assemble import DRAWS, draws_of
from tests.laws.laws import Result, check, summary

LIMIT = 120
PATIENCE = 10


def limited(seed: int) -> Result:
    """Check one graph; one that takes too long is broken.

    Processor time counts, so that other work on the machine breaks nothing; many times as long on the clock
    is a hang.
    """

    def stop(_signal: int, _frame: object) -> None:
        raise TimeoutError(f"no end after {LIMIT} s of processor time or {PATIENCE * LIMIT} s")

    signal.signal(signal.SIGPROF, stop)
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    signal.alarm(PATIENCE * LIMIT)
    try:
        return check(seed)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("graphs", nargs="?", type=int, default=5000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--drawn", choices=sorted(DRAWS), help="only models that may have such blocks")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    wanted = (s for s in count(options.start) if not options.drawn or options.drawn in draws_of(s))
    seeds = list(islice(wanted, options.graphs))
    results: list[Result] = []
    begun = monotonic()
    with ProcessPoolExecutor(options.jobs) as pool:
        for result in pool.map(limited, seeds, chunksize=4):
            results.append(result)
            for broken in result.broken:
                print(f"\r{broken}", flush=True)
            progress(len(results), len(seeds), sum(len(r.broken) for r in results), monotonic() - begun)
    print(file=sys.stderr)
    print("\n".join(summary(results)))
    print(f"{monotonic() - begun:.0f} s")
    return int(any(r.broken for r in results))


def progress(done: int, total: int, broken: int, seconds: float) -> None:
    if done % 10 == 0 or done == total:
        left = seconds / done * (total - done)
        line = f"\r{done}/{total} graphs, {broken} mismatches, {left:.0f} s left "
        print(line, end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
