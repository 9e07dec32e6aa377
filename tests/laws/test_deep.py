"""Time stays near linear in depth: what is counted here does not depend on the machine."""

from __future__ import annotations

import pytest

from onnxprune import PruneSettings
from onnxprune.analysis.analyse import analyse, load
from onnxprune.analysis.replay import replay
from onnxprune.pipeline.resolve import requested
from onnxprune.planning import decide as planner
from scripts.build_deep_model import build


def replays(layers: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, float]:
    """Plan a model cut to half; return how often it was replayed and the share of units that go."""
    calls: list[int] = []

    def counted(*args: object) -> object:
        calls.append(1)
        return replay(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("onnxprune.analysis.replay.replay", counted)
    loaded = load(build(layers))
    analysis = analyse(loaded.model)
    settings = PruneSettings(ratio=0.5, align=1)
    request = requested(analysis, settings, loaded)
    decision = planner.decide(analysis.units, request, planner.score(analysis.units, settings))
    return len(calls), float(decision.removal.removed.mean())


def test_layers_that_clash_are_found_in_one_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    few, share = replays(2, monkeypatch)
    many, same = replays(8, monkeypatch)
    assert many == few
    assert share > 0.4
    assert same > 0.4
