"""Of a batch: settings and environment of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxprune.reports.batch_page import Batch
from onnxprune.reports.facts import facts
from onnxprune.reports.section import BATCH, SECTIONS, Section

BODY = """
<h3>Settings</h3>
{{ facts(settings) }}
<h3>Environment</h3>
{{ facts(environment) }}
"""


def context(batch: Batch) -> Mapping[str, Any]:
    """Tell what the run was given."""
    run = batch.run
    return {
        "seconds": run.seconds,
        "settings": list(facts(run.settings)),
        "environment": list(facts(run.environment)),
    }


SECTIONS.add(Section(
    "run", "settings and environment", BATCH, 60, "The run", context, BODY,
    '{{ "%.0f"|format(seconds) }} s in all. The same numbers are in report.json and report.csv, for build '
    "servers in junit.xml.",
))  # fmt: skip
