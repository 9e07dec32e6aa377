"""Other sizes of the inputs at which the original runs: below, at and above those that were traced."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.model.graph import InputSpec, ValueInfo
from onnxprune.model.sizes import Sizes, free_symbols, sized_by

ABOVE = 4  # times the traced size, where the original runs so far
TRIES = 8  # to find where it stops
LIMIT = 1 << 28  # bytes of all tensors of the original at once; twice those at the traced size are allowed

Ran = tuple[dict[str, np.ndarray], Mapping[str, ValueInfo]]
Attempt = Callable[[Sizes], "Ran | None"]


@dataclass(frozen=True)
class SizeSearch:
    """Looks for inputs of other sizes on which the original runs.

    attempt: makes inputs of these sizes and runs the original, None where it does not run or takes too much.
    """

    specs: Mapping[str, InputSpec]
    base: Sizes
    attempt: Attempt

    def found(self, given: Collection[str]) -> Iterator[Ran]:
        """Vary one symbol at a time, and all of them at once.

        given: inputs whose sizes stay. A symbol of size 1, a batch, grows only.
        """
        symbols = free_symbols(self.specs, self.base, given)
        lone = [self._varied({symbol: size}) for symbol, size in symbols.items()]
        for runs in lone:
            yield from runs
        if len(symbols) > 1:
            if any(runs for runs, size in zip(lone, symbols.values(), strict=True) if size > 1):
                yield from self._one({symbol: 2 * size for symbol, size in symbols.items()})
            else:  # their sizes hang together
                yield from self._varied(symbols)

    def _varied(self, symbols: Mapping[str, int]) -> list[Ran]:
        half = {symbol: max(size // 2, 1) for symbol, size in symbols.items()}
        below = self._one(half) if half != dict(symbols) else []
        return [*below, *self._longest(symbols)]

    def _longest(self, symbols: Mapping[str, int]) -> list[Ran]:
        """Return the run at four times these sizes, else the one at the largest found up to there."""
        unit = min(symbols.values())
        low, high, best = unit, ABOVE * unit + 1, list[Ran]()
        size = ABOVE * unit
        for _ in range(TRIES):
            ran = self._one({symbol: many * size // unit for symbol, many in symbols.items()})
            best = ran or best
            low, high = (size, high) if ran else (low, size)
            if high - low < 2:
                break
            size = (low + high) // 2
        return best

    def _one(self, symbols: Mapping[str, int]) -> list[Ran]:
        ran = self.attempt(sized_by(self.specs, self.base, symbols))
        return [] if ran is None else [ran]


def bytes_of(shapes: Mapping[str, tuple[int, ...] | None]) -> int:
    """Return the bytes of all tensors whose shapes are known, four for each element."""
    return 4 * sum(math.prod(shape) for shape in shapes.values() if shape is not None)
