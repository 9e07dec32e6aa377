"""Of a batch: models that failed or fell short, with reasons and logs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxprune.reports.batch_page import Batch
from onnxprune.reports.section import BATCH, SECTIONS, Section

BODY = """
{% call table("Models that failed or fell short", "failures") %}
<thead><tr>{{ th("Model", order="ascending") }}{{ th("Status") }}{{ th("Reason") }}
{{ th("Exit code", "number") }}{{ th("Runs", "number") }}{{ th("Seconds", "number") }}
<th scope="col">Log</th></tr></thead>
<tbody>
{% for row in failures %}
{% set code = row.record.exit_code %}
<tr><th scope="row" class="name">{{ row.record.id|breakable }}</th><td>{{ badge(row.badge) }}</td>
<td class="reason">{{ row.record.reason }}</td>
<td class="num" data-v="{{ code if code is not none else "" }}">{{ code if code is not none else "–" }}</td>
<td class="num">{{ row.record.attempts }}</td>
<td class="num" data-v="{{ row.record.seconds }}">{{ "%.1f"|format(row.record.seconds) }}</td>
<td><a href="{{ row.log }}">log</a></td></tr>
{% endfor %}
</tbody>
{% endcall %}
"""


def context(batch: Batch) -> Mapping[str, Any] | None:
    """List them, where there are any."""
    return {"failures": batch.failures} if batch.failures else None


SECTIONS.add(Section(
    "attention", "models that failed or fell short", BATCH, 20, "Needs attention", context, BODY,
    '{{ number(failures|length, "model") }} {{ "is" if failures|length == 1 else "are" }} not as asked for, '
    "each with its reason and its log.",
    tall=True,
))  # fmt: skip
