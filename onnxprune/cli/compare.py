"""The command `compare`: its options and its table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxprune.cli.options import PATH, common
from onnxprune.cli.screen import Column, Screen, Table
from onnxprune.cli.tables import FACTS, TOP
from onnxprune.errors import TargetMissed
from onnxprune.reports.wording import number

if TYPE_CHECKING:
    from onnxprune.reports.compare import Compared, Finding


def limit(name: str, default: float, text: str) -> Any:
    """Add the option of a limit."""
    return click.option(f"--{name}", type=float, default=default, show_default=True, metavar="X", help=text)


@click.command()
@click.argument("old", type=PATH, metavar="OLD.json")
@click.argument("new", type=PATH, metavar="NEW.json")
@limit("size", 0.0, "Share by which bytes may grow.")
@limit("macs", 0.0, "Share by which MACs may grow.")
@limit("latency", 0.05, "Share by which time, relative to the original's, may grow; it counts only where the "
       "95 % intervals are apart as well.")  # fmt: skip
@limit("drift", 0.05, "Share by which drift may grow.")
@limit("metric", 0.005, "How much worse the metric may get, in its own units (0.01 of top1 is one point).")
@common
def compare(screen: Screen, old: Path, new: Path, **limits: float) -> int:
    """Say what got better or worse between two reports.

    Both are report.json of a batch, or both what `prune --json` printed. Exits with 1 where a model got
    worse, one that was done is missing, or a new one failed.

    \b
    Example:
      onnxprune compare last-week/report.json today/report.json
    """
    from onnxprune.reports.compare import WORSE, CompareLimits
    from onnxprune.reports.compare import compare as compared

    found = compared(old, new, CompareLimits(**limits))
    screen.say([f"note: {text}" for text in found.notes])
    screen.result(found, tables(found, screen.detailed))
    worse = found.having(WORSE)
    if worse:
        more = f" and {len(worse) - TOP} more" if len(worse) > TOP else ""
        raise TargetMissed(f"{number(len(worse), 'model')} got worse: {', '.join(worse[:TOP])}{more}")
    return 0


def tables(found: Compared, detailed: bool) -> list[Table]:
    """Show what changed, the worst first; with -v also what did not."""
    from onnxprune.reports.compare import BETTER, CHANGED, SAME, WORSE

    order = (WORSE, CHANGED, BETTER, SAME)
    rows = sorted(found.findings, key=lambda f: order.index(f.verdict))
    shown = [_row(f) for f in rows if detailed or f.verdict != SAME]
    counts = [f"{len(found.having(v))} {v}" for v in (WORSE, BETTER, CHANGED)]
    facts = [("models", f"{found.models}: {', '.join(counts)}")]
    columns = (
        Column("model", fold=True), Column("what"), Column("old", fold=True), Column("new", fold=True),
        Column("change", right=True), Column("verdict"),
    )  # fmt: skip
    return [*([Table(columns, shown)] if shown else []), Table(FACTS, facts)]


def _row(finding: Finding) -> tuple[str, ...]:
    change = ""
    if finding.change is not None:
        change = f"{finding.change:+.3g}" if finding.what == "metric" else f"{100 * finding.change:+.1f} %"
    return finding.model, finding.what, finding.old, finding.new, change, finding.verdict
