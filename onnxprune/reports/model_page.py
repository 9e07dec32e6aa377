"""The page of one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any

from onnxprune.planning.plan import Plan
from onnxprune.reports.data import PruneReport, SensitivityReport
from onnxprune.reports.outcome import Outcome
from onnxprune.reports.pages import page
from onnxprune.reports.section import MODEL, drawn


@dataclass(frozen=True)
class Page:
    """What the page of one model tells; output: where the model was written, "" where it was not."""

    report: PruneReport
    environment: Mapping[str, Any]
    plan: Plan | None = None
    output: str = ""
    curves: SensitivityReport | None = None

    @cached_property
    def outcome(self) -> Outcome:
        """Return how the model came out."""
        return Outcome(self.report)


def model_page(given: Page) -> bytes:
    """Return the page as HTML."""
    source = given.report.source
    name = PurePath(source.name).name if source is not None and source.name else "a model given in memory"
    parts = list(drawn(MODEL, given))
    return page(
        "model.html", {"report": given.report, "outcome": given.outcome, "name": name, "sections": parts}
    )
