"""Parts of reports in words, for the terminal and for pages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxprune.evaluation.latency import LatencyRatio
    from onnxprune.oracle.prove import Verification
    from onnxprune.reports.data import PinReport


def milliseconds(value: float) -> str:
    """Print a time with three digits."""
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def comparison_line(versus: LatencyRatio | None) -> str:
    """Print a time relative to the first model's, with its interval and what it says."""
    if versus is None:
        return ""
    return f"{100 * versus.ratio:.1f} % ({100 * versus.low:.1f} to {100 * versus.high:.1f}), {versus.verdict}"


def proof_line(verification: Verification) -> str:
    """Print the outcome of a proof: status, error, tolerance and in how many runs it was compared."""
    return f"{verification.status}: {proof_details(verification)}"


def proof_details(verification: Verification) -> str:
    """Print how a proof came out, without its status."""
    parts = []
    if verification.max_abs_error is not None:
        used = verification.tolerance_ratio
        part = "beyond the tolerance" if used is None else f"{used:.2g} of the tolerance"
        parts.append(f"error {verification.max_abs_error:.2g}, {part}")
    parts.append(f"compared in {number(verification.cases, 'run')}")
    if verification.restricted:
        parts.append(f"{number(len(verification.restricted), 'node')} compared over kept channels only")
    if verification.reason:
        parts.append(verification.reason)
    return "; ".join(parts)


def number(count: int, word: str) -> str:
    """Print a number of things: 1 group, 2 groups."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def pins_by_reason(pinned: Iterable[PinReport]) -> list[tuple[str, str, int, list[PinReport]]]:
    """Collect pins by operator and reason, those with most channels first.

    Reasons that differ only in the names they quote are one, shown with the first.
    """
    found: dict[tuple[str, str], list[PinReport]] = {}
    for pin in pinned:
        kind = re.sub(r"'[^']*'", "''", pin.reason)
        found.setdefault((pin.op or "no operator", kind), []).append(pin)
    rows = [(op, _reason(pins), sum(p.channels for p in pins), pins) for (op, _), pins in found.items()]
    return sorted(rows, key=lambda row: (-row[2], row[0], row[1]))


def _reason(pins: list[PinReport]) -> str:
    others = len({p.reason for p in pins}) - 1
    return pins[0].reason + (f", and {number(others, 'other')}" if others else "")
