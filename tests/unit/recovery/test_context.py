"""What a method works with: mirrored images where there are images, and room for them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxprune.data.read import Calibration
from onnxprune.recovery.context import ActivationBudget
from tests.unit.recovery.examples import example

IMAGES = Calibration(
    tuple({"x": np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2) + i} for i in range(5)), 5
)


@pytest.mark.parametrize(("limit", "found"), [(9, 4), (8, 0)])
def test_images_are_mirrored_where_there_is_room_for_twice_as_many(limit: int, found: int) -> None:
    context = replace(example().context(), data=IMAGES, room=ActivationBudget(1, limit))
    mirrored = context.mirrored()
    assert len(mirrored) == found
    for one, other in zip(mirrored, IMAGES.fit, strict=bool(found)):
        assert np.array_equal(one["x"], other["x"][..., ::-1])


def test_what_is_no_image_is_not_mirrored() -> None:
    context = example().context()
    assert context.mirrored() == []
    assert replace(context, data=IMAGES, room=None).mirrored() == ()
