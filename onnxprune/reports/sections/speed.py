"""Of a batch: speed against drift, a dot for a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxprune.reports.batch_page import Batch, Row
from onnxprune.reports.chart import Dot, scatter
from onnxprune.reports.outcome import GOOD, decimal
from onnxprune.reports.section import BATCH, SECTIONS, Section

ABOUT = """
The upper left is best: much faster, little moved. Drift is the distance of the outputs from the original’s,
relative to their size, on the best data that a model had.
{%- if unplaced %} {{ number(unplaced, "model") }} without timing or drift
{{ "is" if unplaced == 1 else "are" }} not shown.{% endif %}
"""
KEY = """
<p class="legend"><span><i class="swatch round strong"></i>done</span>
{%- if fell_short %}<span><i class="swatch round care"></i>fell short</span>{% endif %}</p>
"""


def context(batch: Batch) -> Mapping[str, Any] | None:
    """Place the models that were timed and compared, where there are any."""
    dots = list(_dots(batch.board))
    if not dots:
        return None
    return {
        "picture": scatter(dots),
        "fell_short": any(dot.tone != GOOD for dot in dots),
        "unplaced": len(batch.board) - len(dots),
    }


def _dots(board: Sequence[Row]) -> Iterator[Dot]:
    for row in board:
        outcome = row.outcome
        if outcome is not None and outcome.latency is not None and outcome.drift is not None:
            speedup, moved = outcome.latency.speedup, outcome.drift
            place = f"{speedup:.2f}× as fast, drift {decimal(moved.value)} on {moved.inputs}"
            told = f"{row.record.id}: {place}, {row.badge.text}"
            name = row.record.id.rsplit("/", 1)[-1].removesuffix(".onnx")
            yield Dot(name, moved.value, speedup, row.badge.tone, told, row.anchor)


SECTIONS.add(Section(
    "speed", "speed against drift", BATCH, 10, "Speed against drift", context,
    '<figure class="wide">{{ picture|inline }}</figure>', ABOUT, KEY, tall=True,
))  # fmt: skip
