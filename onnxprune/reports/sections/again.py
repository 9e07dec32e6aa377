"""Of one model: the command, the plan, settings and environment, so that the run can be repeated."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from onnxprune.reports.facts import command, facts
from onnxprune.reports.model_page import Page
from onnxprune.reports.section import MODEL, SECTIONS, Section

ABOUT = """
The command stands for the settings of this run. The plan alone repeats the removal:
<code>onnxprune apply MODEL --plan plan.json</code>
"""
BODY = """
<pre><code>{% for word in command %}<span class="word">{{ word }}</span> {% endfor %}</code></pre>
<dl class="facts">
{% if source %}
<div><dt>Model</dt><dd class="name">{{ source.name or "given in memory" }}</dd></div>
<div><dt>SHA-256</dt><dd class="name">{{ source.sha256 }}</dd></div>
{% endif %}
<div><dt>Written</dt><dd class="name">{{ output or "nothing" }}</dd></div>
{% if plan is not none %}
<div><dt>Plan</dt><dd class="name">
<a download="plan.json" href="data:application/json;base64,{{ data }}">plan.json</a>
<span class="soft">SHA-256 {{ plan.sha256 }}</span></dd></div>
{% endif %}
</dl>
{% if keeps %}
{% call folded("Channels that the plan keeps") %}
<div class="scroll">
<table>
<thead><tr><th scope="col">Group</th><th scope="col">Name</th><th scope="col">Kept</th></tr></thead>
<tbody>
{% for id, title, kept in keeps %}
<tr><td class="soft">{{ id }}</td><td class="name">{{ title|breakable }}</td><td>{{ kept }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% endcall %}
{% endif %}
{% call folded("Settings") %}
{{ facts(settings) }}
{% endcall %}
{% call folded("Environment") %}
{{ facts(environment) }}
{% endcall %}
{% call folded("Seconds by stage, " ~ "%.1f"|format(timings.values()|sum) ~ " in all") %}
<div class="scroll"><table class="narrow"><tbody>
{% for stage, seconds in timings.items() %}
<tr><th scope="row">{{ stage }}</th><td class="num">{{ "%.2f"|format(seconds) }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endcall %}
"""


def context(page: Page) -> Mapping[str, Any]:
    """Collect what the run was given."""
    report, plan = page.report, page.plan
    name = report.source.name if report.source is not None else ""
    return {
        "command": command(report.settings, name, page.output), "source": report.source,
        "output": page.output, "plan": plan,
        "data": "" if plan is None else base64.b64encode(plan.to_json()).decode(),
        "keeps": [] if plan is None else [(g.id, g.name, ranges(g.keep)) for g in plan.groups],
        "settings": list(facts(report.settings)), "environment": list(facts(page.environment)),
        "timings": report.timings,
    }  # fmt: skip


def ranges(keep: Sequence[int]) -> str:
    """Write rising numbers briefly: 0–3, 5, 7–9."""
    starts = [k for i, k in enumerate(keep) if not i or k != keep[i - 1] + 1]
    ends = [a for a, b in pairwise(keep) if b != a + 1] + list(keep[-1:])
    return ", ".join(f"{a}" if a == b else f"{a}–{b}" for a, b in zip(starts, ends, strict=True))


SECTIONS.add(Section(
    "again", "command, plan and settings", MODEL, 60, "To do it again", context, BODY, ABOUT,
))  # fmt: skip
