"""Of a batch: models with nothing to prune."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxprune.reports.batch_page import Batch
from onnxprune.reports.section import BATCH, SECTIONS, Section

BODY = """
{% call table("Models without anything to prune") %}
<thead><tr>{{ th("Model", order="ascending") }}{{ th("Reason") }}<th scope="col">Log</th></tr></thead>
<tbody>
{% for row in whole %}
<tr><th scope="row" class="name">{{ row.record.id|breakable }}</th>
<td class="reason">{{ row.record.reason }}</td>
<td><a href="{{ row.log }}">log</a></td></tr>
{% endfor %}
</tbody>
{% endcall %}
"""


def context(batch: Batch) -> Mapping[str, Any] | None:
    """List them, where there are any."""
    whole = [row for row in batch.rows if row.record.status == "nothing"]
    return {"whole": whole} if whole else None


SECTIONS.add(Section(
    "whole", "models with nothing to prune", BATCH, 50, "Nothing to prune", context, BODY, tall=True,
))  # fmt: skip
