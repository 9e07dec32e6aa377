"""Recovery methods: what each starts from, and that it changes values only."""

from __future__ import annotations

import pytest

from onnxprune.errors import OnnxPruneError, UsageError
from onnxprune.oracle.equal import model_differences
from onnxprune.recovery.context import changed
from onnxprune.recovery.methods import RecoveryMethod, methods_up_to
from onnxprune.registries import RECOVERIES
from tests.unit.recovery.examples import example


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("none", ()),
        ("bias", ("bias",)),
        ("ls", ("ls",)),
        ("refit", ("ls", "refit")),
        ("joint", ("ls", "refit", "joint")),
    ],
)
def test_a_method_begins_with_those_that_it_starts_from(name: str, steps: tuple[str, ...]) -> None:
    assert tuple(method.name for method in methods_up_to(name)) == steps


def test_only_what_costs_much_waits_for_the_last_step() -> None:
    assert [method.name for method in RECOVERIES if method.at_end] == ["joint"]
    assert not next(m for m in RECOVERIES if m.name == "none").needs_data


def test_a_method_of_another_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="refit"):
        methods_up_to("refitt")


def test_methods_that_start_from_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    RECOVERIES.names()
    for name, other in (("this", "that"), ("that", "this")):
        method = RecoveryMethod(name, "", lambda _, model: model, starts_from=other)
        monkeypatch.setitem(RECOVERIES._entries, name, method)
    with pytest.raises(OnnxPruneError, match="'this' starts from itself"):
        methods_up_to("this")


@pytest.mark.parametrize("name", ["bias", "ls", "refit", "joint"])
def test_a_method_returns_a_copy_with_other_values(name: str) -> None:
    given = example()
    before = given.pruned.SerializeToString()
    repair = RECOVERIES.get(name).repair
    assert repair is not None
    found = repair(given.context(), given.pruned)
    assert given.pruned.SerializeToString() == before
    names = changed(given.pruned, found)
    assert names
    assert not model_differences(given.pruned, found, frozenset(names))
    if name == "bias":
        assert set(names) <= {"b", "c", "d"}
