"""Of one model: the proof, and what the choice costs in accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxprune.evaluation.closeness import Closeness
from onnxprune.quantities import amount
from onnxprune.reports.model_page import Page
from onnxprune.reports.outcome import TARGETS
from onnxprune.reports.quality import closeness_line, gate_line, metric_line, repaired_on
from onnxprune.reports.section import MODEL, SECTIONS, Section
from onnxprune.reports.wording import proof_line

BODY = """
<dl class="facts">
<div><dt>Proof</dt><dd>{{ proof }}</dd></div>
{% if quality %}
<div><dt>Validation</dt><dd>{{ metric }} on {{ number(quality.samples, "sample") }}
{%- if quality.max_drop is not none %}; a drop of {{ quality.max_drop }} is allowed{% endif %}</dd></div>
{% endif %}
{% if close %}
<div><dt>{{ close[0] }}</dt><dd>{{ close[1] }}</dd></div>
{% endif %}
{% if recovery %}
<div><dt>Repair</dt><dd>{{ number(recovery.repaired, "tensor") }} by {{ recovery.method }} on
{{ number(recovery.samples, "sample") }}: drift {{ recovery.drift_before|decimal }} →
{{ recovery.drift_after|decimal }} on {{ judged_on }}</dd></div>
{% for reason, entries in recovery.unrepaired|groupby("reason") %}
<div><dt>Not repaired</dt><dd>{{ number(entries|length, "weight") }}, such as
{{ entries[0].tensor|breakable }}: {{ reason }}</dd></div>
{% endfor %}
{% endif %}
{% if drift and not close %}
<div><dt>Drift</dt><dd>{{ drift.value|decimal }} on {{ number(drift.samples, "sample") }} of
{{ drift.inputs }}, |y − y₀| / |y₀|</dd></div>
{% endif %}
{% for key, limit, reached, missed in targets %}
<div><dt>Target {{ key }}</dt><dd>{{ reached }}, {{ limit }} allowed
{%- if missed %}: missed{% endif %}</dd></div>
{% endfor %}
</dl>
{% if trials %}
{% call folded("Search, " ~ number(trials|length, "trial")) %}
<div class="scroll">
<table>
<thead><tr>
{% for key in trials[0] %}
<th scope="col" class="num">{{ key|replace("_", " ") }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for trial in trials %}
<tr>
{% for value in trial.values() %}
<td class="num">{{ ("yes" if value else "no") if value is boolean else value|decimal }}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
{% endcall %}
{% endif %}
"""


def context(page: Page) -> Mapping[str, Any]:
    """Collect what was checked and measured."""
    report, quality = page.report, page.outcome.quality
    targets = [
        (TARGETS.get(k, k), amount(k, t.limit), amount(k, t.reached), k in report.missed)
        for k, t in report.targets.items()
    ]
    return {
        "close": _close(report.closeness),
        "judged_on": repaired_on(report.calibration),
        "proof": proof_line(report.verification), "recovery": report.recovery, "drift": page.outcome.drift,
        "quality": quality, "metric": "" if quality is None else metric_line(quality), "targets": targets,
        "trials": report.search,
    }  # fmt: skip


def _close(close: Closeness | None) -> tuple[str, str] | None:
    """Say how close the result is, and whether that judges it."""
    if close is None or close.loss is None:
        return None
    return "Judged" if close.judged else "Not judged", closeness_line(close) + gate_line(close)


SECTIONS.add(Section(
    "accuracy", "proof, repair and validation", MODEL, 30, "Accuracy and proof", context, BODY,
    "The proof says that shrinking changed nothing but what was chosen to go. Drift and metric say what that "
    "choice costs.",
))  # fmt: skip
