"""Of one model: channels that cannot go, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxprune.quantities import count, share
from onnxprune.reports.model_page import Page
from onnxprune.reports.section import MODEL, SECTIONS, Section
from onnxprune.reports.wording import pins_by_reason

BODY = """
{% if frozen %}
{% call table("Frozen channels by reason") %}
<thead><tr>{{ th("Channels", "number", "descending") }}{{ th("Operator") }}{{ th("Reason") }}
{{ th("Places", "number") }}{{ th("For instance") }}</tr></thead>
<tbody>
{% for op, reason, channels, pins in frozen %}
<tr><td class="num">{{ channels }}</td><td>{{ op }}</td><td>{{ reason }}</td>
<td class="num">{{ pins|length }}</td>
<td class="name soft">{{ (pins[0].node or pins[0].tensor)|breakable }}</td></tr>
{% endfor %}
</tbody>
{% endcall %}
{% else %}
<p>Nothing is frozen.</p>
{% endif %}
"""


def context(page: Page) -> Mapping[str, Any]:
    """Collect the pins by their reasons."""
    report = page.report
    part = share(report.frozen_params, report.before.params)
    return {
        "frozen": pins_by_reason(report.pinned),
        "part": part,
        "frozen_params": count(report.frozen_params),
    }


SECTIONS.add(Section(
    "frozen", "channels that cannot go", MODEL, 50, "What cannot go", context, BODY,
    "{{ part }} of the parameters ({{ frozen_params }}) stay whatever goes, for these reasons.",
))  # fmt: skip
