"""Boxes of detectors: the share of them that the pruned and the unpruned model find alike.

Two boxes are alike where they overlap by half or more (intersection over union) and have one class: what
PASCAL VOC (Everingham et al. 2010) counts as found. Shapes and values tell which outputs are boxes:

    [n, m, 4] beside [n, m, classes]       boxes and scores from 0 to 1
    [m, 4] beside [m], with [m] integers   what is left after a suppression inside the model, with its classes
    [n, m, 5 + classes]                    boxes, one score for being an object, scores from 0 to 1
    [n, 4 + classes, m]                    the same without it, the other way round

Boxes are corners, or centres with widths and heights. Outputs that still have to be decoded (offsets from
anchors, logarithms of sizes, grids) are no boxes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.data.read import Validation
from onnxprune.errors import UsageError
from onnxprune.evaluation.metrics import SHARE, Answers, Judged, Metric
from onnxprune.registries import METRICS

SURE = 0.5  # a score from here on is a box that was found
ALIKE = 0.5  # intersection over union of boxes that are one
MOST = 1000  # boxes of a sample, the surest
NEARLY = 0.99  # of all boxes
ROUNDING = 1e-3  # of scores


@dataclass(frozen=True)
class Form:
    """Where boxes stand in the outputs of a model.

    boxes, scores: names of outputs, equal where one holds both; classes: of integers, "" for none. start: the
    place of the first score in a row. objects: whether it is one for being an object. turned: rows are the
    last axis. corners: boxes are two corners. background: the class that stands for nothing, None for none.
    """

    boxes: str
    scores: str
    classes: str = ""
    start: int = 0
    objects: bool = False
    turned: bool = False
    corners: bool = True
    background: int | None = None

    def rows(self, answers: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return boxes as they are [n, m, 4] and scores by class [n, m, classes]."""
        boxes, scores = (np.asarray(answers[name], np.float64) for name in (self.boxes, self.scores))
        if self.turned:
            boxes, scores = boxes.transpose(0, 2, 1), scores.transpose(0, 2, 1)
        if boxes.ndim == 2:
            boxes, scores = boxes[None], scores[None, :, None]
        scores = scores[..., self.start :]
        if self.objects:
            scores = scores[..., :1] * scores[..., 1:]
        return boxes[..., :4], scores


@dataclass(frozen=True)
class Found:
    """Boxes of one sample, the surest first: corners [m, 4] and classes [m]."""

    corners: np.ndarray
    classes: np.ndarray


def form_of(answers: Mapping[str, np.ndarray]) -> Form | None:
    """Tell where boxes stand in what an unpruned model gives; None where it is no detector."""
    for form in _shaped(answers):
        boxes, scores = form.rows(answers)
        if not boxes.size or not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            continue
        if scores.min() < -ROUNDING or scores.max() > 1 + ROUNDING:
            continue
        sizes = boxes[..., 2:] > 0, boxes[..., 2:] > boxes[..., :2]
        by_centre, by_corner = (float(good.all(axis=-1).mean()) >= NEARLY for good in sizes)
        if not by_centre and not by_corner:
            continue
        return Form(
            form.boxes, form.scores, form.classes, form.start, form.objects, form.turned,
            by_corner and (not form.start or not by_centre), _background(scores),
        )  # fmt: skip
    return None


def _shaped(answers: Mapping[str, np.ndarray]) -> Iterator[Form]:
    """Yield the forms that outputs have the shapes of."""
    floats = {n: a for n, a in answers.items() if a.dtype.kind == "f"}
    boxes = [n for n, a in floats.items() if a.ndim in (2, 3) and a.shape[-1] == 4]
    if len(boxes) == 1:
        (name,) = boxes
        sizes = answers[name].shape[:-1]
        others = [n for n, a in floats.items() if n != name and a.shape[: len(sizes)] == sizes]
        ranks = [n for n in others if floats[n].ndim == (3 if len(sizes) == 2 else 1)]
        numbers = [n for n, a in answers.items() if a.dtype.kind in "iu" and a.shape == sizes]
        if len(ranks) == 1 and sizes[-1] > 1:
            yield Form(name, ranks[0], numbers[0] if len(sizes) == 1 and numbers else "")
    if len(floats) == 1:
        (name,) = floats
        sizes = floats[name].shape
        if len(sizes) == 3 and 5 < sizes[2] < sizes[1]:
            yield Form(name, name, start=4, objects=True)
        if len(sizes) == 3 and 4 < sizes[1] < sizes[2]:
            yield Form(name, name, start=4, turned=True)


def _background(scores: np.ndarray) -> int | None:
    """Return the class that stands for nothing: where scores are shares of a whole, that of most boxes."""
    if scores.shape[-1] < 2 or np.abs(scores.sum(axis=-1) - 1).max() > ROUNDING:
        return None
    counts = np.bincount(scores.argmax(axis=-1).ravel(), minlength=scores.shape[-1])
    return int(counts.argmax()) if 2 * counts.max() > counts.sum() else None


def found_in(answers: Mapping[str, np.ndarray], form: Form) -> list[Found]:
    """Return the boxes that a model is sure of, by sample, each once."""
    boxes, scores = form.rows(answers)
    if form.background is not None:
        scores = scores.copy()
        scores[..., form.background] = 0
    named = np.asarray(answers[form.classes]) if form.classes else None
    return [_surest(b, s, form, named) for b, s in zip(boxes, scores, strict=True)]


def _surest(boxes: np.ndarray, scores: np.ndarray, form: Form, named: np.ndarray | None) -> Found:
    if not len(boxes):
        return Found(boxes, np.zeros(0, np.int64))
    sure, classes = scores.max(axis=1), scores.argmax(axis=1) if named is None else named
    good = (sure >= SURE) & np.isfinite(boxes).all(axis=1)
    order = np.flatnonzero(good)[np.argsort(-sure[good], kind="stable")][:MOST]
    chosen, classes = boxes[order], classes[order]
    if not form.corners:
        half = chosen[:, 2:] / 2
        chosen = np.concatenate([chosen[:, :2] - half, chosen[:, :2] + half], axis=1)
    left = np.ones(len(chosen), bool)
    kept = []
    for place in range(len(chosen)):
        if left[place]:
            kept.append(place)
            left &= (overlaps(chosen[place], chosen) < ALIKE) | (classes != classes[place])
            left[place] = False  # a box without an area overlaps nothing, itself included
    return Found(chosen[kept], classes[kept])


def overlaps(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the intersection over union of a box [4] with others [m, 4], as corners; 0 without an area."""
    low, high = np.maximum(one[:2], others[:, :2]), np.minimum(one[2:], others[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    areas = (
        np.clip(one[2:] - one[:2], 0, None).prod(),
        np.clip(others[:, 2:] - others[:, :2], 0, None).prod(axis=1),
    )
    whole = areas[0] + areas[1] - shared
    return np.asarray(np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0))


def alike(found: Found, wanted: Found) -> float:
    """Return the share of the boxes of both that have a partner; NaN where neither has a box."""
    total = len(found.classes) + len(wanted.classes)
    left = np.ones(len(found.classes), bool)
    pairs = 0
    for box, kind in zip(wanted.corners, wanted.classes, strict=True):
        near = np.where(left & (found.classes == kind), overlaps(box, found.corners), 0.0)
        if near.size and near.max() >= ALIKE:
            left[int(near.argmax())] = False
            pairs += 1
    return 2 * pairs / total if total else float("nan")


def same_boxes(c: Judged) -> np.ndarray:
    """Return by sample [n] the share of boxes that both models find; NaN where neither finds one.

    Raises UsageError where the outputs of the unpruned model are no boxes.
    """
    form = next((f for f in map(form_of, c.reference) if f is not None), None)
    if form is None:
        raise UsageError(
            "metric boxes needs boxes with scores from 0 to 1, such as [n, m, 4] beside [n, m, classes]: the "
            f"outputs are {_told(c.reference[0])}; decode them in script.py:function, or take another metric"
        )
    pairs = zip(c.found, c.reference, strict=True)
    shares = [
        alike(a, b)
        for found, wanted in pairs
        for a, b in zip(found_in(found, form), found_in(wanted, form), strict=True)
    ]
    return np.asarray(shares, np.float64)


def boxes(c: Judged) -> float:
    """Return the share of boxes that both models find, mean over the samples with boxes.

    Raises UsageError where the outputs are no boxes, and where there is none to compare.
    """
    found = same_boxes(c)
    if np.isnan(found).all():
        raise UsageError(
            f"metric boxes has nothing to compare: no box of score {SURE:g} or more in {len(found)} samples; "
            "give inputs with objects, or take another metric"
        )
    return float(np.nanmean(found))


def _told(answers: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"'{name}' {list(array.shape)}" for name, array in answers.items())


def _detects(reference: Answers, _data: Validation) -> bool:
    return form_of(reference[0]) is not None


METRICS.add(Metric(
    "boxes", "share of boxes that both the pruned and the unpruned model find, overlapping by half or more",
    boxes, unit=SHARE, title="agreement of boxes", suits=_detects, agreements=same_boxes,
))  # fmt: skip
