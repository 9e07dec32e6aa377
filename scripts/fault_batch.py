"""Batches under many faults: python scripts/fault_batch.py [--workers 100] [--runs 50] [--seed 0].

Kills workers and whole runs at random moments, stops runs with SIGINT and SIGTERM, lets every write, fsync,
rename and mkdir fail (no space, read-only, no permission; every --calls-th one), and cuts the journal at
every byte of its last two lines. After each fault the invariants of tests/batch/batch_invariants.py are
checked, the run is resumed, and its models are compared with those of a calm run. Needs Linux.
"""

from __future__ import annotations

import argparse
import errno
import io
import random
import signal
import sys
import tempfile
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from time import monotonic

sys.path.insert(0, str(Path(__file__).parents[1]))

import pytest

from tests.batch import batch_faults as faults
from tests.batch.test_batch_faults import cut_everywhere
from tests.signals import hear_interrupts

CODES = {"no space": errno.ENOSPC, "read-only": errno.EROFS, "no permission": errno.EACCES}
LONGEST = 5.0  # seconds after which a run is hit, at most; it takes about as long


def kill_workers(bench: faults.Bench, count: int, rng: random.Random) -> str:
    """Kill workers, some in every run, until there are enough."""
    killed = runs = 0
    while killed < count:
        killed += faults.kill_workers(bench, min(count - killed, rng.randint(1, 8)), rng)
        runs += 1
    return f"{killed} workers killed in {runs} runs"


def stop_runs(bench: faults.Bench, number: int, count: int, rng: random.Random) -> str:
    """Stop runs, up to five times before one may come to its end."""
    hits = ends = 0
    while hits < count:
        bench.fresh()
        for _ in range(rng.randint(1, 5)):
            hits += faults.stop_run(bench, number, rng, LONGEST)
        bench.finish()
        ends += 1
    return f"{hits} runs hit, {ends} came to their end"


def fail_calls(bench: faults.Bench, folder: Path, step: int) -> str:
    """Let one call after the other fail, in the run and in the workers, until there are no more."""
    hit: Counter[str] = Counter()
    for where in ("run", "worker"):
        for code in CODES.values():
            place = 1
            while name := faults.fail_call(bench, folder, where, code, place):
                hit[f"{where} {name}"] += 1
                place += step
    return ", ".join(f"{name} {count}" for name, count in sorted(hit.items()))


def cut_journal(folder: Path) -> str:
    """Cut the journal, behind a short record and behind a long one."""
    quiet = (redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()))  # models run in this process
    with pytest.MonkeyPatch.context() as patch, quiet[0], quiet[1]:
        (folder / "short").mkdir()
        (folder / "long").mkdir()
        short = cut_everywhere(folder / "short", patch, "bad", 1)
        long = cut_everywhere(folder / "long", patch, "tiny", 7)
    return f"{short} cuts at every byte, {long} at every seventh of a longer record"


def main() -> None:
    """Run all and print a line each."""
    parser = argparse.ArgumentParser(description="Batches under many faults.")
    parser.add_argument("--workers", type=int, default=100, help="workers to kill")
    parser.add_argument("--runs", type=int, default=50, help="runs to kill")
    parser.add_argument("--stops", type=int, default=10, help="runs to stop with each of SIGINT and SIGTERM")
    parser.add_argument("--calls", type=int, default=1, help="every how many-th call fails; 0 for none")
    parser.add_argument("--no-cuts", action="store_true", help="do not cut the journal")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    hear_interrupts()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = faults.prepared(folder / "many")
        few = faults.prepared(folder / "few", ("shuffle",))
        steps = {
            "workers killed": lambda: kill_workers(bench, args.workers, rng),
            "runs killed": lambda: stop_runs(bench, signal.SIGKILL, args.runs, rng),
            "interrupted": lambda: stop_runs(bench, signal.SIGINT, args.stops, rng),
            "terminated": lambda: stop_runs(bench, signal.SIGTERM, args.stops, rng),
            "calls that fail": lambda: fail_calls(few, folder, args.calls) if args.calls else "none",
            "journal cut": lambda: "none" if args.no_cuts else cut_journal(folder),
        }
        for title, step in steps.items():
            begun = monotonic()
            print(f"{title}: {step()} ({monotonic() - begun:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
