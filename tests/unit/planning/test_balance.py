"""Even shares are found within a bound on work: what is chosen does not depend on the machine's speed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize

from onnxprune.analysis.analyse import analyse, load
from onnxprune.planning import balance
from onnxprune.planning.balance import BalanceProblem, nested_removals
from onnxprune.planning.constraints import Granularity, bundles
from onnxprune.planning.decide import CandidateCache

SHUFFLE = Path(__file__).parents[3] / "models" / "digits_shuffle.onnx"


def uneven(atoms: int, groups: int, seed: int = 0) -> BalanceProblem:
    """Atoms that take none to three units of every group: no level is solved at the first node."""
    rng = np.random.default_rng(seed)
    taken = rng.integers(0, 4, (atoms, groups))
    taken[taken.sum(axis=1) == 0, 0] = 1
    return BalanceProblem(taken, taken.sum(axis=0), rng.random(atoms))


def test_the_bound_is_on_nodes_and_never_on_time(monkeypatch: pytest.MonkeyPatch) -> None:
    given, real = [], scipy.optimize.milp

    def milp(*args: Any, **more: Any) -> Any:
        given.append(dict(more["options"]))  # scipy empties it
        return real(*args, **more)

    monkeypatch.setattr(scipy.optimize, "milp", milp)
    nested_removals(uneven(8, 2))
    assert given
    assert all(options == {"node_limit": balance.MOST_NODES} for options in given)


def test_a_loaded_machine_chooses_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance, "MOST_NODES", 5)
    problem = uneven(24, 6)
    alone = nested_removals(problem)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    try:
        loaded = nested_removals(problem)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert alone is not None
    assert loaded is not None
    assert [step.tobytes() for step in loaded] == [step.tobytes() for step in alone]


def test_what_the_bound_leaves_holds_all_constraints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nested steps, every atom once; after each of them all rows of a grid have lost as many."""
    monkeypatch.setattr(balance, "MOST_NODES", 1)
    problem = uneven(24, 3)
    rows = (tuple(np.arange(24).reshape(4, 6)), tuple(np.arange(24).reshape(6, 4).T))
    steps = nested_removals(BalanceProblem(problem.taken, problem.widths, problem.costs, rows))
    assert steps
    gone = np.zeros(24, dtype=bool)
    for step in steps:
        assert not gone[step].any()
        gone[step] = True
        assert (problem.taken[gone].sum(axis=0) < problem.widths).all()
        for grid in rows:
            assert len({int(gone[row].sum()) for row in grid}) == 1


def test_a_problem_that_is_too_large_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = BalanceProblem(
        np.ones((6, 1), np.int64), np.array([6]), np.ones(6), [[np.arange(3), np.arange(3, 6)]]
    )
    assert problem.entries == 6 + 2 * (3 + 1)
    monkeypatch.setattr(balance, "MOST_ENTRIES", problem.entries)
    assert nested_removals(problem)
    monkeypatch.setattr(balance, "MOST_ENTRIES", problem.entries - 1)
    assert nested_removals(problem) is None


@pytest.mark.parametrize("most", [0, balance.MOST_ENTRIES])
def test_the_next_granularity_takes_what_is_too_large(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(balance, "MOST_ENTRIES", most)
    units = analyse(load(SHUFFLE).model).units
    cache = CandidateCache(units, np.ones(units.count))
    every = bundles(units)
    granularities = {bundle.id: Granularity.EVEN for bundle in every}
    made = [cache.sequences(bundle, granularities) for bundle in every]
    assert all(made)
    assert (Granularity.EVEN in granularities.values()) == (most > 0)
