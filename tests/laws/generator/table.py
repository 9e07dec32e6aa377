"""The table of blocks: one row is one function that adds nodes behind a live tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .core import Net, T

Build = Callable[[Net, T], "T | list[T] | None"]


@dataclass(frozen=True)
class Block:
    """`build` returns None, before it adds anything, where the tensor does not suit it."""

    name: str
    build: Build
    forms: tuple[str, ...]
    weight: float
    ranks: tuple[int, ...]
    since: int
    notes: tuple[str, ...]
    draw: str

    def fits(self, net: Net, x: T) -> bool:
        return (
            x.form in self.forms
            and net.opset >= self.since
            and (not self.draw or self.draw in net.draws)
            and (x.form != "map" or len(x.spatial) in self.ranks)
        )


BLOCKS: dict[str, Block] = {}


def block(
    forms: str,
    weight: float = 1.0,
    ranks: tuple[int, ...] = (1, 2, 3),
    since: int = 9,
    notes: tuple[str, ...] = (),
    draw: str = "",
) -> Callable[[Build], Build]:
    """Register a block under its function's name; `notes` are the variations it may report.

    draw: only models with this draw have it (`assemble.DRAWS`), so that it does not change the others.
    """

    def register(build: Build) -> Build:
        name = build.__name__
        if name in BLOCKS:
            raise ValueError(f"block {name!r} is registered twice")
        BLOCKS[name] = Block(name, build, tuple(forms.split()), weight, ranks, since, notes, draw)
        return build

    return register
