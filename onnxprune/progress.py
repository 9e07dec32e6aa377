"""How far long work is, and what it took: stages call a function, which by default shows nothing."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, int, int], None]  # the stage, the steps done, and of how many
Steps: TypeAlias = Callable[[int, int], None]  # the same of one stage


def silent(stage: str, done: int, total: int) -> None:
    """Show nothing."""


def unseen(done: int, total: int) -> None:
    """Show nothing of one stage."""


class Stopwatch:
    """Seconds by stage, in the order in which the stages end; progress: whom to tell within a stage."""

    def __init__(self, progress: Progress = silent) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self._last = perf_counter()

    def lap(self, stage: str) -> None:
        """End a stage."""
        now = perf_counter()
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + now - self._last, 4)
        self._last = now
