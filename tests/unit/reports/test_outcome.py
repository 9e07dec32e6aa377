"""What came of a model, in words and tones."""

from __future__ import annotations

import math
from typing import Any

import pytest

from onnxprune.evaluation.profile import SampledDrift
from onnxprune.reports.data import TargetReport
from onnxprune.reports.model_page import Page, model_page
from onnxprune.reports.outcome import Outcome
from tests.report_data import bench, harmless, report


@pytest.mark.parametrize(
    ("given", "tone", "wanted"),
    [
        ({"dropped": ()}, "good", "2.00× as fast, with 30.0 % of the MACs and 50.0 % of the bytes"),
        ({}, "care", "2.00× as fast"),
        ({"dropped": (), "bench": bench(1.0, 1.0)}, "care", "No faster than the original"),
        ({"dropped": (), "bench": bench(1.0, 1.5)}, "care", "Slower than the original"),
        ({"dropped": (), "bench": None}, "good", "Not timed"),
        ({"dropped": (), "targets": {"macs": TargetReport(1.0, 2.0)}}, "care", "2.00× as fast"),
        (
            {"drift": SampledDrift(math.inf, 8, "generated")},
            "care",
            "not judged: no data (unreliable: drift not finite on generated inputs)",
        ),
    ],
)
def test_the_verdict(given: dict[str, Any], tone: str, wanted: str) -> None:
    outcome = Outcome(report(**given))
    assert outcome.tone == tone
    assert wanted in outcome.headline
    assert outcome.headline in harmless(model_page(Page(outcome.report, {}))).text
