"""Other sizes of the inputs: below, at and above those that were traced, up to where the original stops."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from onnxprune.model.graph import InputSpec
from onnxprune.oracle.sizes import SizeSearch, bytes_of

SPECS = {"x": InputSpec("x", 1, ("batch", "seq", 8)), "mask": InputSpec("mask", 7, ("batch", "seq"))}
BASE = {"x": (1, 16, 8), "mask": (1, 16)}


def found(accepts: Callable[[int, int], bool], given: tuple[str, ...] = ()) -> list[tuple[int, ...]]:
    """The sizes of batch and sequence that are chosen where the original accepts them."""

    def attempt(sizes: dict[str, tuple[int, ...]]) -> tuple | None:
        assert sizes["x"][:2] == sizes["mask"]
        return (sizes, {}) if accepts(*sizes["mask"]) else None

    return [sizes["mask"] for sizes, _ in SizeSearch(SPECS, BASE, attempt).found(given)]


def test_each_symbol_is_tried_below_and_at_four_times_its_size() -> None:
    assert found(lambda b, s: True) == [(4, 16), (1, 8), (1, 64), (2, 32)]


@pytest.mark.parametrize("limit", [17, 40, 63])
def test_the_limit_of_the_original_is_found(limit: int) -> None:
    assert (1, limit) in found(lambda b, s: s <= limit)


def test_sizes_that_hang_together_are_varied_together() -> None:
    assert found(lambda b, s: s == 16 * b) == [(4, 64)]


def test_sizes_that_are_given_stay() -> None:
    assert found(lambda b, s: True, given=("x",)) == []


def test_a_sum_of_symbols_follows() -> None:
    specs = {
        "past": InputSpec("past", 1, ("past_length",)),
        "mask": InputSpec("mask", 7, ("past_length + 1",)),
    }
    seen: list[tuple[int, ...]] = []
    search = SizeSearch(specs, {"past": (8,), "mask": (9,)}, lambda s: seen.append((*s["past"], *s["mask"])))
    assert list(search.found(())) == []
    assert (4, 5) in seen
    assert (32, 33) in seen


def test_bytes_are_those_of_known_shapes() -> None:
    assert bytes_of({"a": (2, 3), "b": None, "c": ()}) == 28
