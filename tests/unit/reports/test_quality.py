"""The verdict of a run: small, fast, and how good, on what."""

from __future__ import annotations

from typing import Any

import pytest

from onnxprune.evaluation.closeness import Closeness, Inputs
from onnxprune.evaluation.latency import LatencyRatio
from onnxprune.evaluation.metrics import Metric
from onnxprune.evaluation.profile import SampledDrift
from onnxprune.evaluation.validation import Validated
from onnxprune.registries import METRICS
from onnxprune.reports.outcome import Latency, Outcome, _faster
from onnxprune.reports.quality import metric_value
from tests.report_data import report


def close(
    drift: float | None, agreement: float | None = None, inputs: Inputs = "held out", samples: int = 51
) -> dict[str, Any]:
    title = "" if agreement is None else "agreement"
    return {"closeness": Closeness(inputs, samples, drift, agreement, title, title, 0.5, None)}


def validated(metric: Metric, before: float, after: float) -> dict[str, Any]:
    return {"validation": Validated.of(metric, before, after, 500)}


BARE: dict[str, Any] = {"drift": None}
SAID: list[tuple[dict[str, Any], str]] = [
    (close(0.04), "kept 30 % of MACs, 2x faster, drift 0.04 on 51 held-out samples"),
    (close(0.04, samples=1), "kept 30 % of MACs, 2x faster, drift 0.04 on 1 held-out sample"),
    (BARE, "kept 30 % of MACs, 2x faster, not judged: no data"),
    ({**BARE, "bench": None}, "kept 30 % of MACs, not timed, not judged: no data"),
    (close(0.04, 0.98), "kept 30 % of MACs, 2x faster, drift 0.04, agreement 98.0 % on 51 held-out samples"),
    (
        {**close(0.04, 0.98, "validation", 500), **validated(METRICS.get("top1"), 0.91, 0.9)},
        "kept 30 % of MACs, 2x faster, top-1 accuracy 90.0 % (91.0 % before), drift 0.04, agreement 98.0 % "
        "on 500 validation samples",
    ),
    (
        {**close(0.04, None, "validation", 500), **validated(METRICS.get("drift"), 0, 0.04)},
        "kept 30 % of MACs, 2x faster, drift 0.04 (0 before) on 500 validation samples",
    ),
    (
        {**close(0.04, None, "validation", 500), **validated(METRICS.get("psnr"), 100, 31.25)},
        "kept 30 % of MACs, 2x faster, PSNR 31.25 dB (100 dB before), drift 0.04 on 500 validation samples",
    ),
    (close(0.82), "ruined: kept 30 % of MACs, 2x faster, drift 0.82 on 51 held-out samples"),
    (
        close(0.2, 0.4),
        "ruined: kept 30 % of MACs, 2x faster, drift 0.2, agreement 40.0 % on 51 held-out samples",
    ),
    (
        close(0.3, inputs="made up"),
        "kept 30 % of MACs, 2x faster, not judged: no data (drift 0.3 on 51 made-up samples)",
    ),
    (
        close(0.7, inputs="made up"),
        "kept 30 % of MACs, 2x faster, not judged: no data (unreliable: drift 0.7 on 51 made-up samples)",
    ),
    (
        {"drift": SampledDrift(0.7, 8, "generated")},
        "kept 30 % of MACs, 2x faster, not judged: no data (unreliable: drift 0.7 on generated inputs)",
    ),
    (
        close(0.1, inputs="fitted", samples=1),
        "kept 30 % of MACs, 2x faster, not judged: no data is held out (drift 0.1 on 1 calibration sample "
        "that it was fitted to)",
    ),
    (close(None), "kept 30 % of MACs, 2x faster, not judged: the outputs cannot be compared"),
]


@pytest.mark.parametrize(("given", "verdict"), SAID)
def test_the_verdict_puts_quality_beside_speed(given: dict[str, Any], verdict: str) -> None:
    outcome = Outcome(report(**{"dropped": (), **given}))
    assert outcome.verdict == verdict
    assert outcome.told in outcome.headline


@pytest.mark.parametrize(
    ("given", "shade", "tone"),
    [
        (close(0.25), "good", "good"),
        (close(0.26), "care", "good"),
        (close(0.51), "bad", "bad"),
        (close(0.1, 0.4), "bad", "bad"),
        (close(0.9, inputs="made up"), "plain", "care"),
        (close(0.1, inputs="made up"), "plain", "good"),
        (BARE, "plain", "good"),
    ],
)
def test_colours_go_by_quality_on_data(given: dict[str, Any], shade: str, tone: str) -> None:
    outcome = Outcome(report(**{"dropped": (), **given}))
    assert (outcome.shade, outcome.tone) == (shade, tone)


@pytest.mark.parametrize(("ratio", "says"), [(0.59, "1.7x faster"), (1.2, "1.2x slower"), (1.0, "no faster")])
def test_speed_is_told_within_its_interval(ratio: float, says: str) -> None:
    versus = LatencyRatio.of(ratio, ratio - 0.01, ratio + 0.01)
    assert _faster(Latency(1, ratio, ratio, versus.low, versus.high, versus.verdict)) == says


@pytest.mark.parametrize(
    ("unit", "says"), [("%", "50.0 %"), ("dB", "0.5 dB"), ("", "0.5"), ("nats", "0.5 nats")]
)
def test_a_metric_prints_in_its_own_unit(unit: str, says: str) -> None:
    assert metric_value(0.5, unit) == says
    own = Metric("own", "my own", lambda judged: 0.5, unit=unit)
    found = Outcome(report(**validated(own, 0.5, 0.5), drift=None))
    assert f"own {says} ({says} before)" in found.headline
