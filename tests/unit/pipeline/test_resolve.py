"""Settings against a model: ratios by pattern, limits, exclusions, alignment, and what is gathered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxprune import PruneSettings
from onnxprune.analysis.analyse import Analysis, analyse, load
from onnxprune.errors import NothingToPrune, UsageError
from onnxprune.model.load import Loaded
from onnxprune.pipeline import resolve
from onnxprune.pipeline.resolve import (
    gathered,
    groups_matching,
    machine_step,
    requested,
    require_groups,
    scored,
)
from onnxprune.planning.decide import Request
from tests.unit.recovery.examples import calibration, dense


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load(dense())


@pytest.fixture(scope="module")
def analysis(loaded: Loaded) -> Analysis:
    return analyse(loaded.model)


def request_of(analysis: Analysis, loaded: Loaded, **given: Any) -> Request:
    return requested(analysis, PruneSettings(**given), loaded)


def test_a_pattern_overrides_the_ratio_of_the_groups_that_it_makes(
    analysis: Analysis, loaded: Loaded
) -> None:
    request = request_of(analysis, loaded, ratio=0.5, ratios=(("w", 0.25),))
    (first,) = groups_matching(analysis.units, ["w"], produced=True)
    assert request.ratios == {g.id: 0.25 if g.id == first else 0.5 for g in analysis.units.groups}


def test_a_share_becomes_an_amount_and_an_amount_stays(analysis: Analysis, loaded: Loaded) -> None:
    limits = request_of(analysis, loaded, targets={"params": 0.5, "size": 1000.0}).limits
    assert limits == {"params": 0.5 * (6 * 12 + 12 + 144 + 12 + 36 + 3), "size": 1000.0}


def test_a_target_that_is_met_leaves_nothing_to_do(analysis: Analysis, loaded: Loaded) -> None:
    with pytest.raises(NothingToPrune, match="meets the target as it is"):
        request_of(analysis, loaded, targets={"params": 100_000.0})


def test_alignment_is_the_machine_s_unless_it_is_given(analysis: Analysis, loaded: Loaded) -> None:
    assert request_of(analysis, loaded, ratio=0.5, align=3).step == 3
    assert request_of(analysis, loaded, ratio=0.5).step == machine_step()


@pytest.mark.parametrize(("flags", "step"), [("fpu avx2 avx512f", 16), ("fpu avx2", 8), ("", 8)])
def test_wide_vectors_make_wide_steps(flags: str, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "_cpu_flags", lambda: frozenset(flags.split()))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert machine_step() == step


def test_something_must_be_left_to_prune(analysis: Analysis, loaded: Loaded) -> None:
    require_groups(analysis, request_of(analysis, loaded, ratio=0.5, exclude=("w",)))
    with pytest.raises(NothingToPrune, match="--exclude names all 2 groups"):
        require_groups(analysis, request_of(analysis, loaded, ratio=0.5, exclude=("w", "u")))


@pytest.mark.parametrize(
    ("pattern", "count"), [("w", 1), ("re:^[wv]$", 2), ("type:Gemm", 2), ("?", 2), ("u", 1)]
)
def test_patterns_name_nodes_and_tensors(pattern: str, count: int, analysis: Analysis) -> None:
    assert len(groups_matching(analysis.units, [pattern])) == count


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("weight", "matches no node or tensor"),
        ("re:(", "is not a regular expression"),
        ("type:Conv", "no node"),
    ],
)
def test_a_pattern_that_names_nothing_is_refused(pattern: str, says: str, analysis: Analysis) -> None:
    with pytest.raises(UsageError, match=says):
        groups_matching(analysis.units, [pattern])


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"ratio": 0.5}, 1),
        ({"ratio": 0.5, "scope": "global"}, 2),
        ({"targets": {"macs": 0.5}}, 2),
        ({"targets": {"macs": 0.5}, "criterion": "l2"}, 1),
    ],
)
def test_moments_come_in_halves_where_groups_are_probed(
    given: dict[str, Any], parts: int, analysis: Analysis
) -> None:
    settings = PruneSettings(calib=list(calibration(6).batches), **given)
    evidence = gathered(analysis, settings)
    assert evidence is not None
    assert len(evidence.parts) == parts
    scores = scored(analysis, evidence, settings)
    assert scores.shape == (analysis.units.count,)
    assert np.isfinite(scores).all()


def test_without_data_nothing_is_gathered(analysis: Analysis) -> None:
    assert gathered(analysis, PruneSettings(ratio=0.5)) is None


def test_a_machine_that_does_not_tell_its_flags_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: False)
    assert resolve._cpu_flags() == frozenset()
