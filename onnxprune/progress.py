"""How far long work is: one function that stages call, and nothing is shown unless somebody passes one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, int, int], None]  # the stage, the steps done, and of how many
Steps: TypeAlias = Callable[[int, int], None]  # the same of one stage


def silent(stage: str, done: int, total: int) -> None:
    """Show nothing."""


def unseen(done: int, total: int) -> None:
    """Show nothing of one stage."""
