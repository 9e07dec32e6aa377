"""How one model came out, in the few numbers and words that people look for first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from onnxprune.quantities import share
from onnxprune.reports.quality import (
    GENERATED,
    UNRELIABLE,
    Drift,
    Quality,
    decimal,
    inputs_of,
    quality_line,
    ruin_line,
)

if TYPE_CHECKING:
    from onnxprune.oracle.prove import Verification
    from onnxprune.reports.data import PruneReport

GOOD, CARE, BAD, PLAIN = "good", "care", "bad", "plain"  # tones
RUINED = "ruined"  # the status, and the badge
TARGETS = {"macs": "MACs", "params": "parameters"}


@dataclass(frozen=True)
class Latency:
    """Milliseconds before and after, and the ratio with its 95 % interval."""

    before: float
    after: float
    ratio: float
    low: float
    high: float
    verdict: str

    @property
    def speedup(self) -> float:
        """Return how many times as fast the result is."""
        return 1 / self.ratio if self.ratio else math.inf


@dataclass(frozen=True)
class Badge:
    """A finding in two or three words; tone: GOOD, CARE or BAD; told: the same in a sentence."""

    text: str
    tone: str
    told: str = ""


@dataclass(frozen=True)
class Outcome:
    """A report, read for people."""

    report: PruneReport

    @cached_property
    def latency(self) -> Latency | None:
        """Return the timing, None where there is none."""
        if self.report.bench is None:
            return None
        first, second = self.report.bench.timings
        versus = second.versus_first
        if versus is None:
            return None
        return Latency(
            first.median_ms, second.median_ms, versus.ratio, versus.low, versus.high, versus.verdict
        )

    @cached_property
    def drift(self) -> Drift | None:
        """Return the drift of the result on the best inputs there are."""
        close, made = self.report.closeness, self.report.drift
        if close is not None and close.drift is not None:
            return Drift(close.drift, close.samples, inputs_of(close), close.judged)
        return None if made is None else Drift(made.value, made.samples, GENERATED, judged=False)

    @property
    def judged(self) -> bool:
        """Tell whether data says how good the result is."""
        return self.report.closeness is not None and self.report.closeness.judged

    @property
    def ruined(self) -> bool:
        """Tell whether the result is beyond the limit on data."""
        return self.report.closeness is not None and self.report.closeness.ruined

    @property
    def loss(self) -> float | None:
        """Return the larger of drift and missing agreement on data; None where it is not judged."""
        close = self.report.closeness
        return close.loss if close is not None and (close.judged or close.ruined) else None

    @property
    def shade(self) -> str:
        """Return the tone of the quality: GOOD up to half of the limit, BAD beyond it, PLAIN if unknown."""
        close, loss = self.report.closeness, self.loss
        if close is None or loss is None:
            return PLAIN
        return BAD if close.ruined else GOOD if loss <= close.limit / 2 else CARE

    @cached_property
    def quality(self) -> Quality | None:
        """Return the metric, None without validation."""
        found = self.report.validation
        if found is None:
            return None
        return Quality(
            found.metric, found.title or found.metric, found.before, found.after, found.drop, found.samples,
            found.max_drop, found.passed, found.unit, found.lower_is_better,
        )  # fmt: skip

    @cached_property
    def told(self) -> str:
        """Say how good the result is, and on what."""
        return quality_line(self.report.closeness, self.quality, self.drift)

    @cached_property
    def badges(self) -> tuple[Badge, ...]:
        """Return what was checked and how it came out."""
        found = [_proof_badge(self.report.verification)]
        for key in self.report.targets:
            missed = key in self.report.missed
            found.append(
                Badge(
                    f"{TARGETS.get(key, key)} target {'missed' if missed else 'reached'}",
                    CARE if missed else GOOD,
                )
            )
        if self.gates:
            passed = all(self.gates)
            found.append(Badge(f"gate {'passed' if passed else 'failed'}", GOOD if passed else BAD))
        found += _quality_badges(self)
        if self.latency is not None:
            found.append(Badge(self.latency.verdict, GOOD if self.latency.verdict == "faster" else CARE))
        if self.report.dropped:
            found.append(
                Badge(
                    f"{len(self.report.dropped)} dropped", CARE, "groups that could not be proved stay whole"
                )
            )
        return tuple(found)

    @cached_property
    def gates(self) -> tuple[bool, ...]:
        """Return of every gate whether it let the result through."""
        quality, close = self.quality, self.report.closeness
        found = [quality.passed] if quality is not None and quality.max_drop is not None else []
        found += [close.passed] if close is not None and close.max_drift is not None else []
        return tuple(found)

    @property
    def tone(self) -> str:
        """Return the worst tone of all badges."""
        tones = {badge.tone for badge in self.badges}
        return next(tone for tone in (BAD, CARE, GOOD) if tone in tones)

    @property
    def headline(self) -> str:
        """Say in one sentence what came of it."""
        before, after = self.report.before, self.report.after
        macs, size = share(after.macs, before.macs), share(after.bytes, before.bytes)
        kept, good = f"{macs} of the MACs and {size} of the bytes", self.told
        if not all(self.gates):
            return f"Refused by the gate: {kept}, but {good}."
        if self.ruined:
            return f"Ruined: {kept}, but {good}."
        return f"{_speed(self.latency)} {kept}; {good}."

    @property
    def verdict(self) -> str:
        """Say in one line how small, how fast and how good the result is."""
        before, after = self.report.before.macs, self.report.after.macs
        kept = f"kept {100 * after / before:.0f} % of MACs" if before else "no MACs"
        return f"{'ruined: ' if self.ruined else ''}{kept}, {_faster(self.latency)}, {self.told}"


def _proof_badge(verification: Verification) -> Badge:
    status = verification.status
    told = {
        "proved": "the pruned model equals the masked original in onnxruntime",
        "weak": "equal, but the outputs hardly vary on the inputs of the proof",
    }
    tones = {"proved": GOOD, "weak": CARE, "unproved": CARE}
    names = {"weak": "weak proof", "unproved": "not proved"}
    return Badge(names.get(status, status), tones.get(status, BAD), told.get(status, verification.reason))


def _speed(latency: Latency | None) -> str:
    if latency is None:
        return "Not timed:"
    if latency.verdict == "faster":
        return f"{latency.speedup:.2f}× as fast, with"
    return ("Slower" if latency.verdict == "slower" else "No faster") + " than the original, with"


def _faster(latency: Latency | None) -> str:
    if latency is None:
        return "not timed"
    if latency.verdict == "faster":
        return f"{latency.speedup:.2g}x faster"
    return f"{latency.ratio:.2g}x slower" if latency.verdict == "slower" else "no faster"


def _quality_badges(outcome: Outcome) -> Iterator[Badge]:
    """Say that a result is ruined, or that nothing sure is known of how good it is."""
    close, drift = outcome.report.closeness, outcome.drift
    if close is not None and outcome.ruined:
        yield Badge(RUINED, BAD, ruin_line(close))
    elif not outcome.judged:
        yield Badge("not judged", PLAIN, "no data says how good it is")
        if drift is not None and drift.value > UNRELIABLE:
            yield Badge("unreliable", CARE, f"the outputs drift by {decimal(drift.value)} on {drift.inputs}")
