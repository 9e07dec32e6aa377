"""Metrics: how good the outputs of a model are on validation data, beside those of the unpruned one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from onnxprune.data.read import Validation
from onnxprune.data.scripts import function_in, guarded
from onnxprune.errors import UsageError
from onnxprune.evaluation.drift import Distances
from onnxprune.registries import METRICS
from onnxprune.settings.kinds import is_script

Answers: TypeAlias = Sequence[Mapping[str, np.ndarray]]
SHARE = "%"  # the unit of shares
MOST_DB = 100.0  # PSNR of equal signals: the drop of a gate is finite


@dataclass(frozen=True)
class Judged:
    """Outputs by name and batch: of the model that is judged, and of the unpruned one."""

    found: Answers
    reference: Answers
    data: Validation


Measure: TypeAlias = Callable[[Judged], float]
Fits: TypeAlias = Callable[[Answers, Validation], bool]


@dataclass(frozen=True)
class Metric:
    """A number that says how good outputs are, by a name; higher is better unless it is said otherwise.

    needs_labels: it compares with the array `labels` of the validation data. unit: SHARE for shares, which
    print as percent, else what stands behind the number. title: what people call it, where that is not the
    name. suits: whether it is the one to take for what the unpruned model makes of data, None for never.
    agreements: where it says how far both models agree, that by sample [n], from 0 to 1; NaN for a sample
    that says nothing.
    """

    name: str
    summary: str
    measure: Measure
    lower_is_better: bool = False
    needs_labels: bool = False
    unit: str = ""
    title: str = ""
    suits: Fits | None = None
    agreements: Callable[[Judged], np.ndarray] | None = None

    def __call__(self, judged: Judged) -> float:
        """Measure outputs.

        Raises UsageError where labels are missing, where outputs do not fit, and where a metric from outside
        fails or gives no finite number.
        """
        if self.needs_labels and judged.data.labels is None:
            raise UsageError(
                f"metric {self.name} compares with labels: the validation data holds no array 'labels'"
            )
        if METRICS.is_ours(self):
            return self.measure(judged)
        value = guarded(lambda: float(self.measure(judged)), f"metric {self.name}")
        if not np.isfinite(value):
            better = "lower" if self.lower_is_better else "higher"
            raise UsageError(
                f"metric {self.name} gives {value}, expected a finite number, {better} is better"
            )
        return float(value)


def metric(
    name: str, summary: str, lower_is_better: bool = False, needs_labels: bool = False, unit: str = ""
) -> Callable[[Measure], Measure]:
    """Register a function as a metric. Raises OnnxPruneError where the name is taken."""

    def add(measure: Measure) -> Measure:
        METRICS.add(Metric(name, summary, measure, lower_is_better, needs_labels, unit))
        return measure

    return add


def suited(reference: Answers, data: Validation) -> str:
    """Choose the first metric that suits what the unpruned model makes of the data, else drift."""
    return next((m.name for m in METRICS if m.suits is not None and m.suits(reference, data)), "drift")


def agreement_of(reference: Answers, data: Validation) -> Metric | None:
    """Return the metric that says how far both models agree on such outputs; None where there is none."""
    found = (m for m in METRICS if m.agreements is not None and m.suits is not None)
    return next((m for m in found if m.suits is not None and m.suits(reference, data)), None)


def metric_of(given: str | Metric | Callable[..., Any]) -> Metric:
    """Return a metric by its name, by `script.py:function`, or from a function (outputs, labels).

    Raises UsageError for an unknown name and a script that fails.
    """
    if isinstance(given, Metric):
        return given
    if isinstance(given, str) and not is_script(given):
        return METRICS.get(given)
    call = function_in(given, "metric") if isinstance(given, str) else given
    name = given if isinstance(given, str) else f"{getattr(given, '__name__', 'function')}()"
    return Metric(name, "given by the user", lambda c: call(_whole(c.found), c.data.labels))


def _whole(answers: Answers) -> dict[str, np.ndarray]:
    """Join the batches of every output."""
    return {name: _joined(answers, name) for name in answers[0]}


def top1(c: Judged) -> float:
    """Return the share of samples whose highest score is that of their label.

    Raises UsageError where labels are no classes of the scores.
    """
    scores, labels = _scores(c.found, "top1"), np.asarray(c.data.labels)
    if labels.dtype.kind not in "iu":
        raise UsageError(f"'labels' of the validation data: got {labels.dtype}, expected integers")
    if labels.size != len(scores) or labels.shape[0] != len(scores):
        raise UsageError(
            f"'labels' of the validation data: got shape {list(labels.shape)}, expected one for each of "
            f"{len(scores)} samples"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= scores.shape[1]:
        raise UsageError(
            f"'labels' of the validation data: got classes {low} to {high}, "
            f"expected 0 to {scores.shape[1] - 1}"
        )
    return float((scores.argmax(axis=1) == labels.ravel()).mean())


def same_class(c: Judged) -> np.ndarray:
    """Tell by sample [n] whether the highest score is that of the unpruned model's."""
    pair = [_scores(answers, "agreement").argmax(axis=1) for answers in (c.found, c.reference)]
    return np.asarray(pair[0] == pair[1], np.float64)


def agreement(c: Judged) -> float:
    """Return the share of samples whose highest score is that of the unpruned model's."""
    return float(same_class(c).mean())


def cosine(c: Judged) -> float:
    """Return the cosine with targets, else with the unpruned model's outputs: mean over samples, of the worst
    output.
    """
    return min(float(np.mean([_cosine(y, t) for y, t in pairs])) for _, pairs in _against(c))


def _cosine(found: np.ndarray, wanted: np.ndarray) -> float:
    lengths = float(np.linalg.norm(found)), float(np.linalg.norm(wanted))
    if not all(lengths):
        return float(lengths[0] == lengths[1])
    return float(found @ wanted) / (lengths[0] * lengths[1])


def psnr(c: Judged) -> float:
    """Return the PSNR in dB, at most 100, as cosine; the peak is the range of what is wanted."""
    return min(_psnr(pairs) for _, pairs in _against(c))


def _psnr(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    peak = max(float(t.max()) for _, t in pairs) - min(float(t.min()) for _, t in pairs)
    errors = np.asarray([np.square(y - t).mean() for y, t in pairs])
    least = peak**2 * 10 ** (-MOST_DB / 10)
    with np.errstate(divide="ignore"):
        return float((10 * np.log10(peak**2 / np.maximum(errors, max(least, 1e-300)))).mean())


def drift(c: Judged) -> float:
    """Return |y - y0|_2 / |y0|_2 to the unpruned model: mean over samples, of the outputs the largest."""
    found = Distances()
    add_distances(found, c)
    return found.worst


def add_distances(found: Distances, c: Judged) -> None:
    """Add the distance of each sample of each float output from the unpruned model's.

    Raises UsageError where no output is float.
    """
    for name, pairs in _against(Judged(c.found, c.reference, Validation(c.data.batches))):
        for value, reference in pairs:
            found.add(name, value, reference)


def _against(c: Judged) -> Iterator[tuple[str, list[tuple[np.ndarray, np.ndarray]]]]:
    """Pair the samples of each float output with its targets, or with the unpruned model's outputs."""
    names = [n for n in _floats(c.reference) if n in c.data.targets] or _floats(c.reference)
    for name in names:
        found = [_samples(a[name], b) for a, b in zip(c.found, c.data.batches, strict=True)]
        if name not in c.data.targets:
            wanted = [_samples(a[name], b) for a, b in zip(c.reference, c.data.batches, strict=True)]
            yield name, [p for x, y in zip(found, wanted, strict=True) for p in zip(x, y, strict=True)]
            continue
        targets, shape = c.data.targets[name], _joined(c.found, name).shape
        if targets.shape != shape or targets.dtype.kind not in "fiu":
            raise UsageError(
                f"target '{name}' of the validation data: got {targets.dtype} {list(targets.shape)}, "
                f"expected numbers {list(shape)}"
            )
        rows = targets.astype(np.float64).reshape(sum(map(len, found)), -1)
        yield name, list(zip((row for part in found for row in part), rows, strict=True))


def _samples(array: np.ndarray, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """Arrange an output as [samples, elements]; where its first axis is not that of the inputs, as one."""
    sizes = [a.shape[0] for a in batch.values() if a.ndim]
    count = len(array) if array.ndim and sizes and len(array) == max(sizes) else 1
    return array.reshape(count, -1).astype(np.float64)


def _floats(answers: Answers) -> list[str]:
    """Name the float outputs. Raises UsageError where there is none."""
    names = [name for name, array in answers[0].items() if array.dtype.kind == "f"]
    if not names:
        raise UsageError("the model has no float output to judge: give --metric script.py:function")
    return names


def _first(answers: Answers) -> str:
    return _floats(answers)[0]


def _classifies(reference: Answers, data: Validation) -> bool:
    """Tell whether the first float output is [samples, classes]."""
    names = [n for n, a in reference[0].items() if a.dtype.kind == "f"]
    if not names or not _is_scores(reference[0][names[0]]):
        return False
    sizes = [a.shape[0] for a in data.batches[0].values() if a.ndim]
    return not sizes or len(reference[0][names[0]]) == max(sizes)


def _is_scores(array: np.ndarray) -> bool:
    return array.ndim >= 2 and array.shape[1] > 1 and array.size == array.shape[0] * array.shape[1]


def _scores(answers: Answers, metric: str) -> np.ndarray:
    """Return the first float output as [samples, classes]."""
    name = _first(answers)
    array = _joined(answers, name)
    if not _is_scores(array):
        raise UsageError(
            f"metric {metric} needs class scores, [samples, classes]: output '{name}' is "
            f"{list(array.shape)}; take another metric or script.py:function"
        )
    return array.reshape(len(array), -1)


def _joined(answers: Answers, name: str) -> np.ndarray:
    try:
        return np.concatenate([np.atleast_1d(batch[name]) for batch in answers])
    except ValueError as error:
        raise UsageError(
            f"output '{name}' differs in shape from batch to batch, which this metric cannot take: {error}"
        ) from error


METRICS.add(Metric(
    "top1", "share of samples whose highest score is that of their label", top1, needs_labels=True,
    unit=SHARE, title="top-1 accuracy", suits=lambda _reference, data: data.labels is not None,
))  # fmt: skip
METRICS.add(Metric(
    "agreement", "share of samples whose highest score is that of the unpruned model's", agreement,
    unit=SHARE, suits=_classifies, agreements=same_class,
))  # fmt: skip
METRICS.add(Metric(
    "cosine", "cosine with targets, else with the unpruned model's outputs; the worst output counts", cosine,
))  # fmt: skip
METRICS.add(Metric(
    "psnr", "peak signal-to-noise ratio in dB, at most 100, with what cosine compares with", psnr,
    unit="dB", title="PSNR",
))  # fmt: skip
METRICS.add(Metric(
    "drift", "distance from the unpruned model's outputs, relative to these", drift, lower_is_better=True,
))  # fmt: skip
