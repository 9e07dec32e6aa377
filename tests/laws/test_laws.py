"""The laws of the design on random graphs: oracle, exact prices, plans, conservation, determinism."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import onnxprune
from onnxprune import PruneSettings
from onnxprune.analysis.replay import replay
from onnxprune.errors import NothingToPrune
from tests.laws.composing import compose
from tests.laws.generator import generate
from tests.laws.laws import Result, Subject, check, same_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BLOCK = 10
GRAPHS = 150
REPEATED = (1, 3, 5, 21)


@pytest.mark.parametrize("start", range(0, GRAPHS, BLOCK))
def test_laws_hold_on_random_graphs(start: int) -> None:
    results = [check(seed) for seed in range(start, start + BLOCK)]
    broken = [str(b) for r in results for b in r.broken]
    assert not broken, "\n".join(broken)
    assert any(share > 0 for r in results for share in r.shares)


@pytest.mark.parametrize(
    "seed",
    [1423, 1617, 1985, 2104, 2715, 2950, 3234, 3302, 3478, 5146, 112, 893, 1528],
    ids=[
        "no end",
        "rows without a group",
        "mean in float16",
        *["float16 inside"] * 3,
        "spatial phases",
        "optimiser fails",
        "fused codes",
        "index of one",
        "left a vector",
        *["uneven grid"] * 2,
    ],
)
def test_laws_hold_where_they_were_broken(seed: int) -> None:
    broken = [str(b) for b in check(seed).broken]
    assert not broken, "\n".join(broken)


def test_prune_does_what_its_stages_do() -> None:
    for seed in REPEATED:
        subject = Subject.of(generate(seed))
        settings = PruneSettings(ratio=0.5, criterion="random", seed=seed, align=1, bench=False)
        decision = subject.decide(settings)
        result = onnxprune.prune(subject.case.model, settings)
        assert result.report.verification.status in ("proved", "weak"), f"seed {seed}"
        assert not result.report.dropped, f"seed {seed}"
        plan = subject.plan_of(decision.removal)
        assert [g.keep for g in result.plan.groups] == [g.keep for g in plan.groups], f"seed {seed}"
        again = onnxprune.apply(subject.case.model, result.plan.to_json())
        assert again.model.SerializeToString() == result.model.SerializeToString(), f"seed {seed}"
        assert again.plan == result.plan, f"seed {seed}"


def digests() -> list[str]:
    """Hashes of the model and plan of some seeds."""
    found = []
    for seed in REPEATED:
        for scope in ("local", "global"):
            settings = PruneSettings(ratio=0.5, scope=scope, seed=seed, align=1, bench=False)
            try:
                result = onnxprune.prune(generate(seed).model, settings)
            except NothingToPrune as error:
                found.append(str(error))
                continue
            model = result.model.SerializeToString(deterministic=True)
            found.append(hashlib.sha256(model + result.plan.to_json()).hexdigest())
    return found


def test_two_processes_write_the_same_bytes() -> None:
    code = "from tests.laws.test_laws import digests; print('\\n'.join(digests()))"
    runs = []
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        runs.append(done.stdout.splitlines())
    assert len(runs[0]) == 2 * len(REPEATED)
    assert runs[0] == runs[1]


def test_compose_reads_the_second_plan_in_the_first_one_s_result() -> None:
    subject = Subject.of(generate(1))
    units, nothing = subject.analysis.units, np.zeros(subject.analysis.units.count, dtype=bool)
    whole = replay(units.traced, units.alive(nothing))
    decision = subject.decide(PruneSettings(ratio=0.5, align=1, bench=False))
    found = compose(units, whole, units, decision.removal.removed)
    assert found is not None
    assert np.array_equal(units.rows.close(found), decision.removal.removed)


def test_the_composition_law_sees_a_channel_in_another_s_place() -> None:
    subject = Subject.of(generate(1))
    seeds = [PruneSettings(ratio=0.5, criterion="random", seed=s, align=1, bench=False) for s in (0, 0, 1)]
    models = [subject.rewrite(subject.decide(settings).removal) for settings in seeds]
    result = Result(1)
    same_model(subject, "twice", (models[0], models[1]), result)
    assert not result.broken
    same_model(subject, "other channels", (models[0], models[2]), result)
    assert result.broken


def test_conservation_sees_every_label() -> None:
    units = Subject.of(generate(1)).analysis.units
    grouped = np.concatenate([g.units for g in units.groups])
    assert len(np.unique(grouped)) == len(grouped)
    assert not units.pinned[grouped].any()
