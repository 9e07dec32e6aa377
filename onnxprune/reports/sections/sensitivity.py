"""Of one model: what `onnxprune sensitivity` measured of the unpruned one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxprune.reports.model_page import Page
from onnxprune.reports.section import MODEL, SECTIONS, Section
from onnxprune.reports.sensitivity_chart import sketched


def context(page: Page) -> Mapping[str, Any] | None:
    """Draw the curves, where they are given."""
    return None if page.curves is None else {"picture": sketched(page.curves)}


SECTIONS.add(Section(
    "sensitivity", "drift by group and share removed", MODEL, 40, "Sensitivity", context,
    '<figure class="wide">{{ picture|inline }}</figure>',
    "How far the outputs move when shares of one group go alone, without repair.", tall=True,
))  # fmt: skip
