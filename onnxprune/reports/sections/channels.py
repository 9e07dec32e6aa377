"""Of one model: how many channels of every group stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxprune.reports.chart import Bar, WidthProfile, width_profile
from onnxprune.reports.model_page import Page
from onnxprune.reports.section import MODEL, SECTIONS, Section

OPEN = 24  # groups that are listed without being asked
PICTURE = WidthProfile(
    "channels", "Channels kept along the depth of the network", "channels", lambda v: f"{v:g}"
)
BODY = """
<figure class="wide">{{ picture|inline }}</figure>
{% call folded(number(groups|length, "group"), open=open) %}
{% call table("Channels by group", "groups") %}
<thead><tr>{{ th("#", "number", "ascending") }}{{ th("Made by") }}{{ th("Before", "number") }}
{{ th("Kept", "number") }}{{ th("Share", "number") }}
<th scope="col"><span class="hidden">Share as a bar</span></th>
{{ th("Asked", "number") }}{{ th("Goes as") }}</tr></thead>
<tbody>
{% for g in groups %}
<tr><td class="num soft" data-v="{{ loop.index }}">{{ g.id }}</td>
<td class="name">{{ (g.maker or g.name)|breakable }}</td>
<td class="num">{{ g.channels }}</td><td class="num">{{ g.kept }}</td>
<td class="num" data-v="{{ g.kept / g.channels }}">{{ share(g.kept, g.channels) }}</td>
<td class="barcell">{{ bar(g.kept, g.channels, g.channels) }}</td>
<td class="num soft">{{ g.asked }}</td><td class="soft">{{ g.constraint }}</td></tr>
{% endfor %}
</tbody>
{% endcall %}
{% endcall %}
"""


def context(page: Page) -> Mapping[str, Any]:
    """Sort the groups along the depth of the network."""
    groups = sorted(page.report.groups, key=lambda g: (g.place, g.id))
    bars = [Bar(g.maker or g.name, g.channels, g.kept) for g in groups]
    return {"groups": groups, "open": len(groups) <= OPEN, "picture": width_profile(bars, PICTURE)}


SECTIONS.add(Section(
    "channels", "channels kept by group", MODEL, 10, "Channels kept", context, BODY,
    "Channels that live and die together are a group. One bar is one group, from the input of the network to "
    "its output.",
    '{{ legend("before", "kept") }}',
))  # fmt: skip
