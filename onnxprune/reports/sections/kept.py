"""Of a batch: how what the models kept of the original spreads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxprune.reports.batch_page import Batch, Row
from onnxprune.reports.chart import Distribution, distribution_chart
from onnxprune.reports.columns import COLUMNS
from onnxprune.reports.section import BATCH, SECTIONS, Section


def context(batch: Batch) -> Mapping[str, Any] | None:
    """Draw a row of dots for each quantity, where a model was pruned."""
    return {"picture": distribution_chart(list(_rows(batch.board)))} if batch.board else None


def _rows(board: Sequence[Row]) -> Iterator[Distribution]:
    for column in COLUMNS:
        if column.spread:
            found = [(column.read(r.outcome), r.record.id) for r in board if r.outcome is not None]
            kept = [(f.kept, name) for f, name in found if f is not None and f.kept is not None]
            yield Distribution(column.spread, kept)


SECTIONS.add(Section(
    "kept", "how what was kept spreads", BATCH, 40, "What the models kept", context,
    '<figure class="wide">{{ picture|inline }}</figure>',
    "A dot is a model, the line is the median. Left is smaller and faster; 100 % is as before.", tall=True,
))  # fmt: skip
