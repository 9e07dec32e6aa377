"""How one model came out, in the few numbers and words that people look for first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from onnxprune.quantities import share

if TYPE_CHECKING:
    from onnxprune.oracle.prove import Verification
    from onnxprune.reports.data import PruneReport

GOOD, CARE, BAD, PLAIN = "good", "care", "bad", "plain"  # tones
FAR = 1.0  # a drift as large as the outputs themselves
SHARES = ("top1", "agreement")  # metrics that print as percent
NAMES = {"top1": "top-1 accuracy", "psnr": "PSNR"}
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
class Drift:
    """How far the outputs moved; inputs: what it was measured on; samples: None where a part of these."""

    value: float
    samples: int | None
    inputs: str


@dataclass(frozen=True)
class Quality:
    """A metric before and after; worse: by how much it got worse."""

    metric: str
    before: float
    after: float
    worse: float
    samples: int
    max_drop: float | None
    passed: bool

    @property
    def name(self) -> str:
        """Return what people call the metric."""
        return NAMES.get(self.metric, self.metric)


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
        """Return the drift of the result on the best data there is."""
        found, repair = self.report.validation, self.report.recovery
        if found is not None and found.metric == "drift":
            return Drift(found.after, found.samples, "validation data")
        if repair is not None:
            data = self.report.calibration
            made_up = data is not None and data.source == "synthesised"
            return Drift(repair.drift_after, None, "synthesised data" if made_up else "calibration data")
        if self.report.drift is not None:
            return Drift(self.report.drift.value, self.report.drift.samples, "generated inputs")
        return None

    @cached_property
    def quality(self) -> Quality | None:
        """Return the metric, None without validation."""
        found = self.report.validation
        if found is None:
            return None
        return Quality(
            found.metric, found.before, found.after, found.drop, found.samples, found.max_drop, found.passed
        )

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
        if self.quality is not None and self.quality.max_drop is not None:
            passed = self.quality.passed
            found.append(Badge(f"gate {'passed' if passed else 'failed'}", GOOD if passed else BAD))
        if self.latency is not None:
            found.append(Badge(self.latency.verdict, GOOD if self.latency.verdict == "faster" else CARE))
        if self.drift is not None and self.drift.value >= FAR:
            found.append(Badge("large drift", CARE, f"the outputs moved by {FAR:g} times their size or more"))
        if self.report.dropped:
            found.append(
                Badge(
                    f"{len(self.report.dropped)} dropped", CARE, "groups that could not be proved stay whole"
                )
            )
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
        kept = f"{macs} of the MACs and {size} of the bytes"
        if self.quality is not None and not self.quality.passed:
            return f"Refused by the gate: {kept}, but {metric_line(self.quality)}."
        return f"{_speed(self.latency)} {kept}{_accuracy(self)}."


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


def _accuracy(outcome: Outcome) -> str:
    if outcome.quality is not None:
        return f"; {metric_line(outcome.quality)}"
    if outcome.drift is not None:
        return f"; the outputs drift by {decimal(outcome.drift.value)} on {outcome.drift.inputs}"
    return ""


def metric_line(quality: Quality) -> str:
    """Say a metric before and after."""
    before, after = (metric_value(v, quality.metric) for v in (quality.before, quality.after))
    return f"{quality.name} {before} → {after}"


def metric_value(value: float, metric: str) -> str:
    """Print a value of a metric."""
    if not math.isfinite(value):
        return "not finite"
    return (
        f"{100 * value:.1f} %" if metric in SHARES else f"{value:.4g}" + (" dB" if metric == "psnr" else "")
    )


def decimal(value: float) -> str:
    """Print a number with three digits."""
    return f"{value:.3g}" if math.isfinite(value) else "not finite"
