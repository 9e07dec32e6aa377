"""Of one model: MACs of every layer, and MACs and time by kind of operator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from onnxprune.quantities import count
from onnxprune.reports.chart import Bar, WidthProfile, width_profile
from onnxprune.reports.data import PruneReport
from onnxprune.reports.model_page import Page
from onnxprune.reports.section import MODEL, SECTIONS, Section

PICTURE = WidthProfile("work", "MACs along the depth of the network", "MACs", count)
ABOUT = """
Multiply-accumulates of every layer, from input to output{% if profile %}; below, time as onnxruntime's
profiler saw it on {{ number(profile.threads, "thread") }}. The profiler itself takes time, so these are
shares rather than the latency above{% endif %}.
"""
BODY = """
{% if picture is not none %}
<figure class="wide">{{ picture|inline }}</figure>
{% endif %}
{% macro pair(values, most, printed) %}
{% if values and values[0] or values and printed == "ms" %}
<td class="num" data-v="{{ values[0] }}">{{ values[0]|count if printed == "count" else values[0]|ms }}</td>
<td class="num" data-v="{{ values[1] }}">{{ values[1]|count if printed == "count" else values[1]|ms }}</td>
<td class="barcell">{{ bar(values[1], values[0], most) }}</td>
{% else %}
<td class="num soft" data-v="0">–</td><td class="num soft" data-v="0">–</td><td class="barcell"></td>
{% endif %}
{% endmacro %}
{% if kinds %}
{% call table("MACs and time by kind of operator") %}
<thead><tr>{{ th("Operator") }}{{ th("MACs", "number") }}{{ th("After", "number") }}
<th scope="col"><span class="hidden">MACs as bars</span></th>
{% if profile %}
{{ th("Time", "number") }}{{ th("After", "number") }}
<th scope="col"><span class="hidden">Time as bars</span></th>
{% endif %}
</tr></thead>
<tbody>
{% for kind in kinds %}
<tr><td>{{ kind.op }}</td>
{{ pair(kind.macs, most_macs, "count") }}
{% if profile %}
{{ pair(kind.ms, most_ms, "ms") }}
{% endif %}
</tr>
{% endfor %}
</tbody>
{% endcall %}
{% endif %}
"""


@dataclass(frozen=True)
class Kind:
    """What one kind of operator costs before and after: MACs, and milliseconds where these were measured."""

    op: str
    macs: tuple[int, int]
    ms: tuple[float, float] | None


def kinds(report: PruneReport) -> Iterator[Kind]:
    """Sum up MACs and milliseconds by kind of operator, those first that take most."""
    work: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for layer in report.layers:
        work[layer.op][0] += layer.before
        work[layer.op][1] += layer.after
    rows = report.profile.operators if report.profile is not None else ()
    spent = {row.op: (row.before, row.after) for row in rows}
    order = sorted(work.keys() | spent.keys(), key=lambda op: (-max(spent.get(op, (0, 0))), -work[op][0], op))
    for op in order:
        before, after = work[op]
        yield Kind(op, (before, after), spent.get(op))


def context(page: Page) -> Mapping[str, Any] | None:
    """Sum up the layers, where there are any."""
    report, found = page.report, tuple(kinds(page.report))
    if not found:
        return None
    bars = [Bar(f"{x.node} ({x.op})", x.before, x.after) for x in report.layers]
    return {
        "profile": report.profile, "kinds": found, "picture": width_profile(bars, PICTURE) if bars else None,
        "most_macs": max(max(k.macs) for k in found),
        "most_ms": max((max(k.ms) for k in found if k.ms is not None), default=0.0),
    }  # fmt: skip


SECTIONS.add(Section(
    "work", "MACs and time along the network", MODEL, 20, "Where the work goes", context, BODY, ABOUT,
    '{{ legend("before", "after") }}',
))  # fmt: skip
