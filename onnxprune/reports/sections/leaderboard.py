"""Of a batch: all models that were pruned, with every column, those first that data calls the best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxprune.reports.batch_page import Batch
from onnxprune.reports.columns import tabled
from onnxprune.reports.section import BATCH, SECTIONS, Section

BODY = """
{% call table("All models that were pruned", "models", style="board") %}
<thead><tr>{{ th("Model") }}{{ th("Status") }}
{% for column in columns %}
{{ th(column.title, "number") }}
{% endfor %}
</tr></thead>
<tbody>
{% for row in board %}
{% set record, report = row.record, row.outcome.report %}
<tr id="{{ row.anchor }}">
<th scope="row" class="name" data-v="{{ record.id }}"><details><summary>{{ record.id|breakable }}</summary>
<dl class="facts">
{% if record.reason %}
<div><dt>Reason</dt><dd>{{ record.reason }}</dd></div>
{% endif %}
<div><dt>Verdict</dt><dd>{{ row.outcome.verdict }}</dd></div>
<div><dt>Proof</dt><dd>{{ row.proof }}</dd></div>
{% for text in report.warnings %}
<div><dt>Warning</dt><dd>{{ text }}</dd></div>
{% endfor %}
{% for group in report.dropped %}
<div><dt>Dropped</dt><dd>{{ group.id }} ({{ group.name }}): {{ group.reason }}</dd></div>
{% endfor %}
{% if record.output %}
<div><dt>Written</dt><dd>{{ record.output }}</dd></div>
{% endif %}
<div><dt>Source</dt><dd>{{ record.source }}</dd></div>
<div><dt>SHA-256</dt><dd>{{ record.input_sha256[:16] }}…</dd></div>
<div><dt>Run</dt><dd>{{ "%.1f"|format(record.seconds) }} s
{%- if record.peak_bytes %}, {{ record.peak_bytes|size }} of memory at most{% endif %}</dd></div>
<div><dt>More</dt><dd>{% if row.page %}<a href="{{ row.page }}">page</a>, {% endif %}
<a href="{{ row.log }}">log</a></dd></div>
</dl></details></th>
<td data-v="{{ row.badge.text }}">{{ badge(row.shaded) }}
{% if report.verification.status != "proved" and record.status == "done" %}
<small>{{ report.verification.status }} proof</small>
{% endif %}
{% if record.status == "done" and not row.outcome.judged %}
<small>not judged</small>
{% endif %}
</td>
{% for column in columns %}
{{ measured(column.read(row.outcome)) }}
{% endfor %}
</tr>
{% endfor %}
</tbody>
{% endcall %}
"""


def context(batch: Batch) -> Mapping[str, Any] | None:
    """List them, where there are any."""
    known = [row.outcome for row in batch.board if row.outcome is not None]
    columns = [c for c in tabled() if any(c.read(outcome) is not None for outcome in known)]
    return {"board": batch.board, "columns": columns} if known else None


SECTIONS.add(Section(
    "leaderboard", "all models that were pruned", BATCH, 30, "Leaderboard", context, BODY,
    "Those that are nearest to the original on data stand on top, then those that no data judged, then those "
    "that fell short; what stands in brackets is not of data. Speed is against the original; MACs, "
    "parameters and bytes are what remains. A model’s name opens its details.", tall=True,
))  # fmt: skip
