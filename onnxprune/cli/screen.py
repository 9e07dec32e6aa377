"""What goes to stdout and to stderr: tables, one JSON object, messages, how far work is."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import click

from onnxprune.errors import printable
from onnxprune.progress import Progress, silent
from onnxprune.reports.plain import versioned

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

_COLOURS = {"error": "red", "internal error": "red", "warning": "yellow", "dropped": "yellow", "note": "cyan"}
_TONES = {"good": "green", "care": "yellow", "bad": "red"}
_FOLDED = 12  # subscripts that a folded column keeps
_GAP = 2  # spaces between columns


@dataclass(frozen=True)
class Column:
    """A column of a table; `right` aligns numbers, `fold` may take several lines in a narrow terminal."""

    name: str = ""
    right: bool = False
    fold: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of text. Without column names it is a list of facts.

    tones: of the rows, one of _TONES each; none where all are plain.
    """

    columns: tuple[Column, ...]
    rows: Sequence[tuple[str, ...]]
    title: str = ""
    tones: Sequence[str] = ()


@dataclass(frozen=True)
class Screen:
    """The two streams of one run. verbosity: -1 quiet, 0 usual, 1 and 2 for -v and -vv."""

    as_json: bool = False
    verbosity: int = 0

    @property
    def detailed(self) -> bool:
        """Return whether -v was given."""
        return self.verbosity > 0

    def result(self, report: Any, tables: Sequence[Table]) -> None:
        """Print the result: one JSON object, or tables for people."""
        if self.as_json:
            click.echo(json.dumps(versioned(report), allow_nan=False))
        elif _is_terminal(sys.stdout):
            _print_rich(tables)
        else:
            click.echo("\n\n".join(_lines(t) for t in tables))

    def say(self, messages: Sequence[str]) -> None:
        """Print messages, unless quiet."""
        for text in messages if self.verbosity >= 0 else ():
            message(text)

    @property
    def drawing(self) -> bool:
        """Return whether the characters of bars arrive as they are."""
        return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")

    @property
    def animated(self) -> bool:
        """Return whether progress is drawn: on a terminal, unless quiet or JSON is asked for."""
        return self.verbosity >= 0 and not self.as_json and _is_terminal(sys.stderr)

    def working(self, text: str) -> AbstractContextManager[Progress]:
        """Show how far something is while it runs: on a terminal, unless quiet or JSON is asked for.

        What is returned on entering is to be called as `Progress`.
        """
        return _bar(text) if self.animated else nullcontext(silent)


def message(text: str) -> None:
    """Print one line on stderr; the word before its colon is coloured on a terminal."""
    line = printable(text)
    kind, colon, rest = line.partition(":")
    if colon and kind in _COLOURS and _has_colours(sys.stderr):
        line = click.style(kind + colon, fg=_COLOURS[kind], bold=True) + rest
    click.echo(line, err=True, color=_has_colours(sys.stderr))


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _has_colours(stream: TextIO | None) -> bool:
    return _is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


@contextmanager
def _bar(text: str) -> Iterator[Progress]:
    """Show one line: what runs; of a stage that counts its steps a bar, their number and the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.table import Column as RichColumn
    from rich.text import Text

    class Counted(ProgressColumn):
        """The columns of a stage, which stay empty while nothing is counted."""

        def __init__(self, column: ProgressColumn) -> None:
            super().__init__()
            self.column = column

        def render(self, task: Task) -> Any:
            return Text("") if task.total is None else self.column(task)

    counted = (
        BarColumn(24),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeRemainingColumn(compact=True),
    )
    folded = RichColumn(overflow="fold", no_wrap=False)
    spinner = SpinnerColumn("line")
    name = TextColumn("{task.description}", markup=False, table_column=folded)
    with Bars(spinner, name, *map(Counted, counted), console=Console(stderr=True), transient=True) as bars:
        yield _Line(bars, printable(text)).told


class _Line:
    """The line of a run: its text, and the stage that counts its steps now.

    A task of rich cannot lose its number of steps again, so that every stage is a task of its own.
    """

    def __init__(self, bars: Bars, text: str) -> None:
        self.bars, self.text, self.stage = bars, text, ""
        self.task = bars.add_task(text, total=None)

    def told(self, stage: str, done: int, total: int) -> None:
        """Show how far a stage is; its last step ends it."""
        if stage != self.stage:
            self._turn(stage, f"{self.text}: {stage}", total)
        self.bars.update(self.task, completed=done)
        if done >= total:
            self._turn("", self.text, None)

    def _turn(self, stage: str, text: str, total: int | None) -> None:
        self.bars.remove_task(self.task)
        self.stage, self.task = stage, self.bars.add_task(text, total=total)


def _lines(table: Table) -> str:
    """Write a table in plain lines of any width: nothing is cut, whoever reads it."""
    rows = [tuple(printable(cell) for cell in row) for row in table.rows]
    names = tuple(c.name for c in table.columns)
    if any(names):
        rows.insert(0, names)
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(len(names))]
    lines = [printable(table.title)] if table.title else []
    for row in rows:
        cells = [
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, table.columns, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _print_rich(tables: Sequence[Table]) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    for number, table in enumerate(tables):
        if number:
            console.print()
        if sum(_least(table)) + _GAP * (len(table.columns) - 1) > console.width:
            click.echo(_lines(table))  # the terminal wraps lines better than columns of a few subscripts
        else:
            console.print(_rich(table))


def _rich(table: Table) -> Any:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    header = any(c.name for c in table.columns)
    result = RichTable(
        box=box.SIMPLE_HEAD if header else None, show_header=header, show_edge=False, pad_edge=False,
        padding=(0, 1, 0, 0) if header else (0, 1),
        title=Text(printable(table.title)) if table.title else None, title_justify="left", title_style="bold",
    )  # fmt: skip
    for number, (column, least) in enumerate(zip(table.columns, _least(table), strict=True)):
        result.add_column(
            Text(column.name), justify="right" if column.right else "left", overflow="fold",
            no_wrap=not column.fold, min_width=least, style=None if header or number else "bold",
        )  # fmt: skip
    for number, row in enumerate(table.rows):
        style = _TONES.get(table.tones[number]) if table.tones else None
        result.add_row(*(Text(printable(cell)) for cell in row), style=style)
    return result


def _least(table: Table) -> list[int]:
    """Width that each column needs: all of it, or some subscripts where it may be folded."""
    longest = [
        max((len(printable(row[i])) for row in table.rows), default=0) for i in range(len(table.columns))
    ]
    wanted = [max(n, len(c.name)) for n, c in zip(longest, table.columns, strict=True)]
    return [min(n, _FOLDED) if c.fold else n for n, c in zip(wanted, table.columns, strict=True)]
