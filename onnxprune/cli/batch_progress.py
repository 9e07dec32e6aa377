"""How far a batch is: a line for the whole and one for every model under way; plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from onnxprune.batches.watch import Watch
from onnxprune.cli.screen import Screen, message
from onnxprune.errors import printable
from onnxprune.reports.record import GOOD, Record


class Lines(Watch):
    """One line for every step that somebody may look for in a log."""

    def __init__(self) -> None:
        self._done, self._total = 0, 0

    def planned(self, total: int, finished: int) -> None:
        """Say how much there is."""
        self._done, self._total = finished, total
        before = f", {finished} finished by an earlier run" if finished else ""
        message(f"batch: {total} model{'' if total == 1 else 's'}{before}")

    def retried(self, name: str, reason: str) -> None:
        """Say that a model is run again."""
        message(f"warning: {name}: {reason}; it runs a second time")

    def ended(self, record: Record) -> None:
        """Say how a model ended."""
        self._done += 1
        why = f": {record.reason}" if record.reason else ""
        message(f"{self._done}/{self._total} {record.status} {record.id} ({record.seconds:.1f} s){why}")

    def warned(self, text: str) -> None:
        """Pass a warning on."""
        message(f"warning: {text}")


class _Bars(Watch):
    """A bar for the whole with the time left; for every model under way a line with its stage and a clock."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._whole = bars.add_task("models", total=None, stage="")
        self._each: dict[str, Any] = {}
        self._failed = 0

    def planned(self, total: int, finished: int) -> None:
        """Set the length of the bar; what an earlier run finished tells nothing of the speed."""
        self._bars.update(self._whole, total=total - finished)

    def begun(self, name: str, attempt: int) -> None:
        """Add a line."""
        again = " (second run)" if attempt > 1 else ""
        self._each[name] = self._bars.add_task(printable(name) + again, total=None, stage="")

    def at(self, name: str, stage: str) -> None:
        """Say behind the name how far it is."""
        self._bars.update(self._each[name], stage=stage)

    def retried(self, name: str, reason: str) -> None:
        """Take the line away; what happened stays above the bars."""
        self._bars.remove_task(self._each.pop(name))
        self._bars.console.print(
            printable(f"warning: {name}: {reason}; it runs a second time"), markup=False, highlight=False
        )

    def ended(self, record: Record) -> None:
        """Take the line away and move the bar; failures stay above the bars."""
        self._bars.remove_task(self._each.pop(record.id))
        if record.status not in GOOD:
            self._failed += 1
            text = f"{record.status}: {record.id}: {record.reason}"
            self._bars.console.print(printable(text), markup=False, highlight=False)
        failed = f", {self._failed} failed" if self._failed else ""
        self._bars.update(self._whole, advance=1, description=f"models{failed}")

    def warned(self, text: str) -> None:
        """Print a warning above the bars."""
        self._bars.console.print(printable(f"warning: {text}"), markup=False, highlight=False)


@contextmanager
def watching(screen: Screen) -> Iterator[Watch]:
    """Show progress as the screen can: bars on a terminal, lines elsewhere, nothing with -q."""
    if screen.verbosity < 0:
        yield Watch()
    elif not screen.animated:
        yield Lines()
    else:
        with _bars() as bars:
            yield _Bars(bars)


@contextmanager
def _bars() -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        SpinnerColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column
    from rich.text import Text

    class Left(TimeRemainingColumn):
        """The time left of what has a length."""

        def render(self, task: Task) -> Text:
            return Text("") if task.total is None else Text.assemble(super().render(task), " left")

    class Bar(BarColumn):
        """The bar of what has a length."""

        def render(self, task: Task) -> Any:
            return Text("") if task.total is None else super().render(task)

    class Counted(TextColumn):
        """How many of how many."""

        def render(self, task: Task) -> Text:
            return Text("") if task.total is None else super().render(task)

    name = TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold"))
    count = Counted("{task.completed:.0f}/{task.total:.0f}")
    stage = TextColumn("{task.fields[stage]}", markup=False)
    columns = (SpinnerColumn("line"), name, stage, Bar(24), count, TimeElapsedColumn(), Left(compact=True))
    with Progress(*columns, console=Console(stderr=True), transient=True, speed_estimate_period=3600) as bars:
        yield bars
