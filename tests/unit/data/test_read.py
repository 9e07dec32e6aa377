"""Choosing some of many, evenly."""

from __future__ import annotations

import pytest

from onnxprune.data.read import spread


@pytest.mark.parametrize(
    ("most", "found"), [(0, []), (1, [0]), (2, [0, 9]), (4, [0, 3, 6, 9]), (10, list(range(10)))]
)
def test_items_are_chosen_evenly(most: int, found: list[int]) -> None:
    assert spread(range(10), most) == found


def test_no_more_are_chosen_than_there_are() -> None:
    assert spread("abc", 7) == ["a", "b", "c"]
    assert spread([], 3) == []
