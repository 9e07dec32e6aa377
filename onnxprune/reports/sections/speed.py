"""Of a batch: speed against drift, a dot for a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxprune.reports.batch_page import Batch, Row
from onnxprune.reports.chart import Dot, scatter
from onnxprune.reports.outcome import BAD, CARE, GOOD, PLAIN
from onnxprune.reports.quality import decimal
from onnxprune.reports.section import BATCH, SECTIONS, Section

ABOUT = """
The upper left is best: much faster, little moved. Drift is the distance of the outputs from the original’s,
relative to their size. Hollow dots are of models that no data judged: their drift is on random or made-up
inputs, and says little.
{%- if unplaced %} {{ number(unplaced, "model") }} without timing or drift
{{ "is" if unplaced == 1 else "are" }} not shown.{% endif %}
"""
KEY = """
<p class="legend">{% for tone, text in tones %}
<span><i class="swatch round {{ tone }}"></i>{{ text }}</span>{% endfor %}</p>
"""


LEGEND = (
    (GOOD, "near the original"), (CARE, "further off, or fell short"), (BAD, "ruined, or failed"),
    (PLAIN, "not judged"),
)  # fmt: skip


def context(batch: Batch) -> Mapping[str, Any] | None:
    """Place the models that were timed and compared, where there are any."""
    dots = list(_dots(batch.board))
    if not dots:
        return None
    return {
        "picture": scatter(dots),
        "tones": [(tone, text) for tone, text in LEGEND if any(dot.tone == tone for dot in dots)],
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
            yield Dot(name, moved.value, speedup, row.tone, told, row.anchor)


SECTIONS.add(Section(
    "speed", "speed against drift", BATCH, 10, "Speed against drift", context,
    '<figure class="wide">{{ picture|inline }}</figure>', ABOUT, KEY, tall=True,
))  # fmt: skip
