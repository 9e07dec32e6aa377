"""Where numbers lie on an axis, and which of them are written there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

DECADES = 5  # that a logarithmic axis spans, at most


@dataclass(frozen=True)
class Scale:
    """place: from a number to 0 … 1; ticks: numbers with their text."""

    place: Callable[[float], float]
    ticks: Sequence[tuple[float, str]]


def linear(low: float, top: float, most: int, printed: Callable[[float], str]) -> Scale:
    """Return a scale from the low end to a round number at or above the top, with ticks at round numbers."""
    step = nice_ticks(top - low, most)[1]
    first, last = math.ceil(low / step - 1e-9), math.ceil(top / step - 1e-9)
    high = step * last
    ticks = [(step * i, printed(step * i)) for i in range(first, last + 1)]
    return Scale(lambda v: min(max((v - low) / (high - low), 0.0), 1.0), ticks)


def nice_ticks(top: float, most: int) -> list[float]:
    """Return round numbers from 0 to at least the top: steps of 1, 2, 2.5 or 5 times a power of ten."""
    rough = top / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * f for f in (1, 2, 2.5, 5, 10) if power * f >= rough * (1 - 1e-9))
    return [step * i for i in range(math.ceil(top / step - 1e-9) + 1)]


def logarithmic(values: Sequence[float]) -> Scale:
    """Return a scale of whole decades around the numbers above 0.

    Where these span too many it shows those decades that hold most of them; what is outside lies at the ends.
    """
    seen = [math.log10(v) for v in values if math.isfinite(v) and v > 0] or [0.0]
    first, last = math.floor(min(seen) + 1e-9), math.ceil(max(seen) - 1e-9)
    windows = range(first, max(last - DECADES, first) + 1)
    low = max(windows, key=lambda start: sum(start <= v <= start + DECADES for v in seen))
    high = max(min(last, low + DECADES), low + 1)

    def place(value: float) -> float:
        if value <= 0:
            return 0.0
        return min(max((math.log10(value) - low) / (high - low), 0.0), 1.0) if math.isfinite(value) else 1.0

    return Scale(place, [(10.0**e, f"{10.0**e:g}") for e in range(low, high + 1)])
