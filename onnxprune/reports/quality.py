"""How good a result is, in words: drift, agreement and metric, and what inputs they are of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxprune.reports.wording import number

if TYPE_CHECKING:
    from onnxprune.evaluation.closeness import Closeness
    from onnxprune.reports.data import CalibrationReport

UNRELIABLE = 0.5  # a drift beyond this on inputs that are no data
GENERATED = "generated inputs"


@dataclass(frozen=True)
class Kind:
    """What inputs are called, and so many samples of them."""

    inputs: str
    before: str
    behind: str = ""

    def samples(self, count: int) -> str:
        """Print a number of samples."""
        return number(count, f"{self.before} sample") + self.behind


KINDS = {  # by `Closeness.inputs`
    "validation": Kind("validation data", "validation"),
    "held out": Kind("held-out data", "held-out"),
    "fitted": Kind("the data it was fitted to", "calibration", " that it was fitted to"),
    "made up": Kind("made-up inputs", "made-up"),
}


@dataclass(frozen=True)
class Drift:
    """How far the outputs moved; inputs: what it was measured on; judged: whether these are data that nothing
    was fitted to.
    """

    value: float
    samples: int
    inputs: str
    judged: bool


@dataclass(frozen=True)
class Quality:
    """A metric before and after; name: what people call it; worse: by how much it got worse."""

    metric: str
    name: str
    before: float
    after: float
    worse: float
    samples: int
    max_drop: float | None
    passed: bool
    unit: str
    lower_is_better: bool


def inputs_of(close: Closeness) -> str:
    """Say what inputs a result was compared on."""
    return KINDS[close.inputs].inputs


def quality_line(close: Closeness | None, quality: Quality | None, drift: Drift | None) -> str:
    """Say how good a result is on data; where there is none, that it is not judged."""
    if close is None and quality is not None:
        return f"{metric_line(quality)} on {KINDS['validation'].samples(quality.samples)}"
    if close is None:
        told = "" if drift is None else f" ({_unsure(drift.value, f'on {drift.inputs}')})"
        return f"not judged: no data{told}"
    parts = {**_parts(close), **({} if quality is None else {quality.name: metric_line(quality)})}
    first = [] if quality is None else [quality.name]
    line = ", ".join(parts[name] for name in dict.fromkeys((*first, *parts)))
    where = f"on {KINDS[close.inputs].samples(close.samples)}"
    if quality is not None or close.judged or close.ruined:
        return f"{line} {where}"
    if close.loss is None:
        return "not judged: the outputs cannot be compared"
    if close.inputs == "fitted":
        return f"not judged: no data is held out ({line} {where})"
    return f"not judged: no data ({_unsure(close.loss, where, line)})"


def _unsure(loss: float, where: str, line: str = "") -> str:
    """Say what inputs that are no data tell."""
    return f"{'unreliable: ' if loss > UNRELIABLE else ''}{line or f'drift {decimal(loss)}'} {where}"


def _parts(close: Closeness) -> dict[str, str]:
    """Say drift and agreement, by what they are called."""
    found = {} if close.drift is None else {"drift": f"drift {decimal(close.drift)}"}
    if close.agreement is not None:
        found[close.title] = f"{close.title} {metric_value(close.agreement, '%')}"
    return found


def closeness_line(close: Closeness) -> str:
    """Say drift and agreement, and of how many samples."""
    return f"{', '.join(_parts(close).values())} on {KINDS[close.inputs].samples(close.samples)}"


def ruin_line(close: Closeness) -> str:
    """Say of a ruined result what it is beyond, and what to do."""
    limit = f"above a drift of {close.limit:g} or below an agreement of {1 - close.limit:g}"
    return (
        f"the result is ruined, {closeness_line(close)} ({limit}): remove less, give more data, or check "
        "that it is what the model was trained on"
    )


def metric_line(quality: Quality) -> str:
    """Say a metric before and after."""
    before, after = (metric_value(v, quality.unit) for v in (quality.before, quality.after))
    return f"{quality.name} {after} ({before} before)"


def metric_value(value: float, unit: str) -> str:
    """Print a value of a metric in its unit; of `%` it is a share."""
    if not math.isfinite(value):
        return "not finite"
    if unit == "%":
        return f"{100 * value:.1f} %"
    return f"{value:.4g} {unit}".rstrip()


def decimal(value: float) -> str:
    """Print a number with three digits."""
    return f"{value:.3g}" if math.isfinite(value) else "not finite"


def gate_line(close: Closeness) -> str:
    """Say what the gate allows, behind what was measured; "" without a gate."""
    return "" if close.max_drift is None else f", a drift of {close.max_drift:g} is allowed"


def repaired_on(calibration: CalibrationReport | None) -> str:
    """Say what inputs the drift of a repair is of."""
    made_up = calibration is not None and calibration.source == "synthesised"
    return KINDS["made up" if made_up else "held out"].inputs
