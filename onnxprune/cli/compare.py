"""The command `compare`: its options and its table."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxprune.cli.options import PATH, common
from onnxprune.cli.screen import Column, Screen, Table
from onnxprune.cli.tables import FACTS, TOP
from onnxprune.errors import TargetMissed
from onnxprune.reports.wording import number

if TYPE_CHECKING:
    from onnxprune.reports.compare import Compared, Finding


class Limited(click.Command):
    """A command with an option for the limit of every column that has one, those of plugins included."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return all parameters, the limits behind the arguments."""
        given = super().get_params(ctx)
        arguments = [p for p in given if isinstance(p, click.Argument)]
        return [*arguments, *self._limits, *(p for p in given if not isinstance(p, click.Argument))]

    @cached_property
    def _limits(self) -> list[click.Parameter]:
        from onnxprune.reports.columns import COLUMNS, RANK

        return [
            click.Option(
                [f"--{c.name}"], type=float, default=c.limit, show_default=True, metavar="X", help=c.summary
            )
            for c in COLUMNS
            if c.limit is not None and c.by != RANK
        ]


@click.command(cls=Limited)
@click.argument("old", type=PATH, metavar="OLD.json")
@click.argument("new", type=PATH, metavar="NEW.json")
@common
def compare(screen: Screen, old: Path, new: Path, **limits: float) -> int:
    """Say what got better or worse between two reports.

    Both are report.json of a batch, or both what `prune --json` printed. Exits with 1 where a model got
    worse, one that was done is missing, or a new one failed.

    \b
    Example:
      onnxprune compare last-week/report.json today/report.json
    """
    from onnxprune.reports.compare import WORSE
    from onnxprune.reports.compare import compare as compared

    found = compared(old, new, limits)
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
    from onnxprune.reports.columns import COLUMNS, SHARE

    change = ""
    if finding.change is not None:
        is_share = COLUMNS.get(finding.what).by == SHARE
        change = f"{100 * finding.change:+.1f} %" if is_share else f"{finding.change:+.3g}"
    return finding.model, finding.what, finding.old, finding.new, change, finding.verdict
