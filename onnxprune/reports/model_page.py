"""The page of one model."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePath
from typing import Any

from onnxprune.planning.plan import Plan
from onnxprune.quantities import amount, count
from onnxprune.reports.command import command
from onnxprune.reports.data import PruneReport, SensitivityReport
from onnxprune.reports.facts import facts
from onnxprune.reports.outcome import TARGETS, Outcome
from onnxprune.reports.pages import page
from onnxprune.reports.plain import plain
from onnxprune.reports.sensitivity_chart import sketched
from onnxprune.reports.width_profile import Bar, WidthProfile, width_profile
from onnxprune.reports.wording import pins_by_reason, proof_details

CHANNELS = WidthProfile(
    "channels", "Channels kept along the depth of the network", "channels", lambda v: f"{v:g}"
)
WORK = WidthProfile("work", "MACs along the depth of the network", "MACs", count)


@dataclass(frozen=True)
class Page:
    """What the page of one model tells; output: where the model was written, "" where it was not."""

    report: PruneReport
    environment: Mapping[str, Any]
    plan: Plan | None = None
    output: str = ""
    curves: SensitivityReport | None = None


@dataclass(frozen=True)
class Kind:
    """What one kind of operator costs before and after: MACs, and milliseconds where these were measured."""

    op: str
    macs: tuple[int, int]
    ms: tuple[float, float] | None


def model_page(given: Page) -> bytes:
    """Return the page as HTML."""
    report, outcome = given.report, Outcome(given.report)
    groups = sorted(report.groups, key=lambda g: (g.place, g.id))
    source = report.source
    return page(
        "model.html",
        report=report,
        outcome=outcome,
        name=PurePath(source.name).name if source is not None and source.name else "a model given in memory",
        output=given.output,
        proof=proof_details(report.verification),
        groups=groups,
        channels=width_profile([Bar(g.maker or g.name, g.channels, g.kept) for g in groups], CHANNELS),
        work=width_profile([Bar(f"{x.node} ({x.op})", x.before, x.after) for x in report.layers], WORK),
        kinds=tuple(kinds(report)),
        frozen=pins_by_reason(report.pinned),
        targets=[
            (TARGETS.get(k, k), amount(k, t.limit), amount(k, t.reached), k in report.missed)
            for k, t in report.targets.items()
        ],
        trials=[plain(t) for t in report.search],
        curves=None if given.curves is None else sketched(given.curves),
        keeps=[] if given.plan is None else [(g.id, g.name, ranges(g.keep)) for g in given.plan.groups],
        plan=None if given.plan is None else _attached(given.plan),
        command=command(report.settings, source.name if source is not None else "", given.output),
        settings=list(facts(report.settings)),
        environment=list(facts(given.environment)),
    )


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


def ranges(keep: Sequence[int]) -> str:
    """Write rising numbers briefly: 0–3, 5, 7–9."""
    starts = [k for i, k in enumerate(keep) if not i or k != keep[i - 1] + 1]
    ends = [a for a, b in pairwise(keep) if b != a + 1] + list(keep[-1:])
    return ", ".join(f"{a}" if a == b else f"{a}–{b}" for a, b in zip(starts, ends, strict=True))


def _attached(plan: Plan) -> Mapping[str, str]:
    return {"sha256": plan.sha256, "data": base64.b64encode(plan.to_json()).decode()}
