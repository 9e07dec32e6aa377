"""A proof goes over the model no more often than it must: imports, traces, sessions, runs of the original."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

import onnxprune
from onnxprune import PruneSettings
from onnxprune.analysis.analyse import analyse
from onnxprune.analysis.replay import Removal, replay
from onnxprune.model import runtime
from onnxprune.oracle import cases as cases_module
from onnxprune.oracle.cases import cases, cases_of, proof
from onnxprune.oracle.prove import FAILED, PROVED
from onnxprune.rewrite.apply import apply

MODELS = Path(__file__).parents[3] / "models"


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    found: Counter[str] = Counter()

    def counted(place: Any, name: str) -> None:
        real = getattr(place, name)

        def run(*args: Any, **kwargs: Any) -> Any:
            found[name] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(place, name, run)

    counted(gs, "import_onnx")
    counted(runtime, "_Session")
    counted(cases_module, "trace")
    return found


def removed_half(analysis: Any) -> np.ndarray:
    """Remove every other unit of the first group that can go by itself."""
    units = analysis.units
    for group in units.groups:
        removed = np.zeros(units.count, dtype=bool)
        removed[group.units[::2]] = True
        removed = units.rows.close(removed)
        if group.level == 0 and not replay(units.traced, units.alive(removed)).conflicts:
            return np.asarray(removed)
    raise AssertionError("no group can go by itself")


def test_a_run_imports_the_model_once_and_opens_six_sessions(counts: Counter[str]) -> None:
    """The original twice, masked original and result twice each; two sizes share those of one level."""
    result = onnxprune.prune(MODELS / "digits_resnet.onnx", PruneSettings(ratio=0.5, bench=False))
    assert result.report.verification.cases == 3
    assert counts["import_onnx"] == 1
    assert counts["_Session"] == 6
    assert counts["trace"] == 1


def test_a_second_proof_traces_nothing_and_runs_no_original(counts: Counter[str]) -> None:
    analysis = analyse(onnx.load(MODELS / "digits_resnet.onnx"))
    found = cases(analysis, {}, {}, 0)
    removal = Removal.of(analysis.units, removed_half(analysis))
    pruned = apply(analysis.model, removal)
    outcomes = []
    for _ in range(2):
        outcomes.append(proof(analysis, pruned, removal, found))
        counts["proofs"] += 1
        if counts["proofs"] == 1:
            first = Counter(counts)
    assert [outcome.status for outcome in outcomes] == [PROVED, PROVED]
    assert outcomes[0].worst == outcomes[1].worst
    assert counts["trace"] == first["trace"] == 1
    assert counts["_Session"] - first["_Session"] == 4
    assert counts["import_onnx"] == 1


def test_sessions_that_are_shared_do_not_hide_a_wrong_weight() -> None:
    """Wrong at the first inputs, and at the second."""
    analysis = analyse(onnx.load(MODELS / "digits_resnet.onnx"))
    removal = Removal.of(analysis.units, removed_half(analysis))
    pruned = apply(analysis.model, removal)
    tensor = next(t for t in pruned.graph.initializer if len(t.dims) == 4)
    values = onnx.numpy_helper.to_array(tensor)[::-1]
    tensor.raw_data = values.tobytes()
    outcome = proof(analysis, pruned, removal, cases(analysis, {}, {}, 0))
    assert outcome.status == FAILED
    assert len({difference.case for difference in outcome.failures}) == 2


def test_rewriting_and_proving_leave_graph_and_model_alone() -> None:
    model = onnx.load(MODELS / "digits_resnet.onnx")
    before = model.SerializeToString(deterministic=True)
    analysis = analyse(model)
    network = analysis.units.traced.network

    def seen() -> list[Any]:
        return [(n.op, [t.name for t in n.inputs], [t.name for t in n.outputs]) for n in network.nodes] + [
            (name, stored.shape, stored.values.tobytes()) for name, stored in network.stored.items()
        ]

    read = seen()
    removal = Removal.of(analysis.units, removed_half(analysis))
    first = apply(model, removal)
    proof(analysis, first, removal, cases(analysis, {}, {}, 0))
    assert apply(model, removal) == first
    assert seen() == read
    assert model.SerializeToString(deterministic=True) == before


def test_cases_of_given_inputs_are_proved_at_their_sizes() -> None:
    analysis = analyse(onnx.load(MODELS / "digits_resnet.onnx"))
    removal = Removal.of(analysis.units, removed_half(analysis))
    pruned = apply(analysis.model, removal)
    rng = np.random.default_rng(0)
    feeds = [{"input": rng.standard_normal((n, 1, 16, 16)).astype(np.float32)} for n in (1, 4)]
    found = cases_of(analysis, feeds)
    outcome = proof(analysis, pruned, removal, found)
    assert (outcome.status, outcome.cases) == (PROVED, 3)
    assert found.others[0].info["input"].shape == (4, 1, 16, 16)
