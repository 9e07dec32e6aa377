"""Boxes of detectors: which outputs are some, which boxes are alike, and what both models find."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxprune.data.read import Validation
from onnxprune.errors import UsageError
from onnxprune.evaluation.boxes import Found, alike, form_of, found_in, overlaps
from onnxprune.evaluation.metrics import Answers, Judged, suited
from onnxprune.registries import METRICS

NEAR = [[0.1, 0.1, 0.3, 0.3], [0.6, 0.6, 0.9, 0.8], [0.61, 0.6, 0.9, 0.8], [0.0, 0.5, 0.2, 0.7]]
SCORES = [[0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.95, 0.05]]  # nothing, and a face


def faces(boxes: Any = NEAR, scores: Any = SCORES) -> dict[str, np.ndarray]:
    """Scores [1, m, 2] and boxes [1, m, 4], after a softmax: of ten places more there is nothing."""
    more = [[0.0, 0.0, 1.0, 1.0]] * 10, [[1.0, 0.0]] * 10
    return {
        "scores": np.asarray([[*scores, *more[1]]], np.float32),
        "boxes": np.asarray([[*boxes, *more[0]]], np.float32),
    }


def judged(found: Answers, reference: Answers) -> Judged:
    batches = tuple({"x": np.zeros((1, 3))} for _ in reference)
    return Judged(found, reference, Validation(batches))


def agreement(found: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> float:
    return METRICS.get("boxes")(judged([found], [reference]))


def yolo(corner: bool = False, turned: bool = False) -> dict[str, np.ndarray]:
    """Centres, sizes, an object's score and those of three classes [1, m, 8], or without it [1, 7, m]."""
    rows = np.asarray(
        [[50, 40, 8, 6, 0.9, 0.9, 0.1, 0.2], [20, 90, 4, 4, 0.8, 0.1, 0.9, 0.0]] * 8, np.float32
    )
    rows[2:, 4:] = 0.01
    return {"y": np.delete(rows, 4, axis=1).T[None] if turned else rows[None]}


def test_overlap_is_intersection_over_union() -> None:
    one, others = (
        np.asarray([0.0, 0, 2, 2]),
        np.asarray([[0.0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6], [1, 1, 1, 1]]),
    )
    assert overlaps(one, others).tolist() == pytest.approx([1, 1 / 3, 0, 0])


def test_a_softmax_has_a_background_and_boxes_that_overlap_are_one() -> None:
    form = form_of(faces())
    assert form is not None
    assert (form.boxes, form.scores, form.background, form.corners) == ("boxes", "scores", 0, True)
    (found,) = found_in(faces(), form)
    assert found.corners == pytest.approx(np.asarray(NEAR[:2]), abs=1e-6)


def test_boxes_of_both_models_are_matched() -> None:
    moved = np.asarray(NEAR) + 0.02  # an overlap above one half
    away = np.asarray(NEAR) + np.asarray([[0.3], [0], [0], [0]])
    unsure = [[0.9, 0.1], *SCORES[1:]]
    assert agreement(faces(), faces()) == 1
    assert agreement(faces(moved), faces()) == 1
    assert agreement(faces(away), faces()) == 0.5
    assert agreement(faces(scores=unsure), faces()) == pytest.approx(2 / 3)
    assert agreement(faces(scores=[[1, 0]] * 4), faces()) == 0
    broken = faces(np.full((4, 4), np.nan))
    assert agreement(broken, faces()) == 0


def test_another_class_is_another_box() -> None:
    one = Found(np.asarray([[0.0, 0, 1, 1]]), np.asarray([2]))
    assert alike(one, one) == 1
    assert alike(one, Found(one.corners, np.asarray([3]))) == 0
    assert np.isnan(alike(Found(np.zeros((0, 4)), np.zeros(0)), Found(np.zeros((0, 4)), np.zeros(0))))


@pytest.mark.parametrize("turned", [False, True])
def test_one_output_holds_boxes_and_scores(turned: bool) -> None:
    found = yolo(turned=turned)
    form = form_of(found)
    assert form is not None
    assert (form.objects, form.turned, form.corners) == (not turned, turned, False)
    (boxes,) = found_in(found, form)
    assert sorted(boxes.classes.tolist()) == [0, 1]
    assert [46.0, 37.0, 54.0, 43.0] in boxes.corners.tolist()
    assert agreement(found, found) == 1


def test_what_a_suppression_in_the_model_left_may_differ_in_number() -> None:
    def left(count: int) -> dict[str, np.ndarray]:
        return {
            "boxes": np.asarray(NEAR[:count], np.float32).reshape(-1, 4), "labels": np.arange(count),
            "scores": np.full(count, 0.9, np.float32),
        }  # fmt: skip

    assert agreement(left(1), left(2)) == pytest.approx(2 / 3)
    assert agreement(left(0), left(2)) == 0
    assert agreement(left(2), left(2)) == 1


NO_BOXES: dict[str, dict[str, np.ndarray]] = {
    "classes": {"y": np.asarray([[0.2, 0.8, 0.0, 0.0]], np.float32)},
    "logits": {"boxes": faces()["boxes"], "scores": 9 * faces()["scores"]},
    "offsets": {"boxes": faces(-np.asarray(NEAR))["boxes"][:, :4], "scores": faces()["scores"][:, :4]},
    "grid": {"y": np.random.default_rng(0).normal(size=(1, 40, 8)).astype(np.float32)},
    "levels": {"a": np.ones((1, 9, 4), np.float32), "b": np.ones((1, 5, 4), np.float32)},
    "image": {"y": np.ones((1, 3, 8, 8), np.float32)},
    "ids": {"y": np.ones((1, 9, 4), np.int64)},
}


@pytest.mark.parametrize("name", NO_BOXES)
def test_what_is_not_sure_to_be_boxes_is_none(name: str) -> None:
    given = NO_BOXES[name]
    assert form_of(given) is None
    with pytest.raises(UsageError, match="metric boxes needs boxes with scores from 0 to 1"):
        agreement(given, given)


def test_a_detector_is_judged_by_its_boxes() -> None:
    assert suited([faces()], judged([faces()], [faces()]).data) == "boxes"


def test_without_an_object_there_is_nothing_to_compare() -> None:
    empty = faces(scores=[[1, 0]] * 4)
    samples = METRICS.get("boxes").agreements
    assert samples is not None
    assert np.isnan(samples(judged([empty], [empty]))).all()
    with pytest.raises(UsageError, match=r"nothing to compare: no box of score .* in 1 samples"):
        agreement(empty, empty)
