"""Repairs: the best state stays, what is the same for all is worked out once, and nodes are left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import pytest

from onnxprune.errors import OnnxPruneError
from onnxprune.evaluation import drift as measuring
from onnxprune.evaluation.drift import drift
from onnxprune.recovery.context import RecoveryContext, values_of, with_values
from onnxprune.recovery.methods import RecoveryMethod
from onnxprune.recovery.repair import Repairs
from onnxprune.registries import RECOVERIES
from tests.unit.recovery.examples import Example, example

Repair = Callable[[RecoveryContext, onnx.ModelProto], onnx.ModelProto]


@pytest.fixture
def given() -> Example:
    return example()


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    RECOVERIES.names()

    def added(name: str, repair: Repair, **more: Any) -> None:
        monkeypatch.setitem(RECOVERIES._entries, name, RecoveryMethod(name, "", repair, **more))

    return added


def repairs(given: Example, name: str, limit: int = 1 << 30) -> Repairs:
    return Repairs(given.analysis.model, name, given.evidence.data, limit)


def doubled(_: RecoveryContext, model: onnx.ModelProto) -> onnx.ModelProto:
    return with_values(model, {name: 2 * values for name, values in values_of(model).items()})


def test_without_a_method_there_is_no_repair(given: Example) -> None:
    assert repairs(given, "none").repaired(given.pruned, given.removal, given.evidence) is None


def test_the_drift_is_that_of_the_batches_held_out(given: Example) -> None:
    found = repairs(given, "refit").repaired(given.pruned, given.removal, given.evidence)
    assert found is not None
    held, original = given.evidence.data.judge, given.analysis.model
    assert found.drift_before == drift(original, given.pruned, held)
    assert found.drift_after == drift(original, found.model, held) < found.drift_before
    assert found.samples == given.evidence.data.samples


def test_a_step_that_does_harm_is_taken_back(given: Example, add: Callable[..., None]) -> None:
    add("worse", doubled, starts_from="ls")
    ls, worse = (
        repairs(given, name).repaired(given.pruned, given.removal, given.evidence) for name in ("ls", "worse")
    )
    assert ls is not None
    assert worse is not None
    assert worse.method == "worse"
    assert worse.model == ls.model
    assert worse.repaired == ls.repaired


def test_where_nothing_helps_the_pruned_model_stays(given: Example, add: Callable[..., None]) -> None:
    add("worse", doubled)
    found = repairs(given, "worse").repaired(given.pruned, given.removal, given.evidence)
    assert found is not None
    assert found.model is given.pruned
    assert found.repaired == {}
    assert found.drift_after == found.drift_before


def test_a_step_begins_where_the_one_before_ended_and_the_last_with_the_best(
    given: Example, add: Callable[..., None]
) -> None:
    seen: list[onnx.ModelProto] = []

    def looks(_: RecoveryContext, model: onnx.ModelProto) -> onnx.ModelProto:
        seen.append(model)
        return model

    add("worse", doubled, starts_from="ls")
    add("next", looks, starts_from="worse")
    add("end", looks, starts_from="next", at_end=True)
    chain = repairs(given, "end")
    found = chain.repaired(given.pruned, given.removal, given.evidence)
    assert found is not None
    assert len(seen) == 1
    assert seen[0] != found.model
    assert chain.finished(found, given.removal, given.evidence).model == found.model
    assert seen[1] == found.model


def test_a_method_may_not_change_nodes(given: Example, add: Callable[..., None]) -> None:
    def renamed(context: RecoveryContext, model: onnx.ModelProto) -> onnx.ModelProto:
        refit = RECOVERIES.get("refit").repair
        assert refit is not None
        result = refit(context, model)
        result.graph.node[0].name = "another"
        return result

    add("renaming", renamed)
    found = repairs(given, "renaming").repaired(given.pruned, given.removal, given.evidence)
    assert found is not None
    with pytest.raises(OnnxPruneError, match="'renaming' may change values of tensors only, but node"):
        _ = found.repaired


def test_the_original_and_the_room_are_worked_out_once(
    given: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = measuring.opened
    monkeypatch.setattr(measuring, "opened", lambda m, name: (opened.append(name), real(m, name))[1])
    chain = repairs(given, "refit")
    for _ in range(2):
        chain.repaired(given.pruned, given.removal, given.evidence)
    assert opened.count("the original") == 1
    assert chain.room is chain.room
    assert chain.used is chain.used


def test_methods_that_keep_no_activations_take_all_samples(given: Example) -> None:
    assert repairs(given, "ls", 1).used is given.evidence.data
    assert repairs(given, "ls", 1).room is None
    short = repairs(given, "bias", 1)
    assert len(short.used.batches) == 2
    assert short.used.samples == 32


def test_a_repair_of_several_steps_is_compared_with_what_was_proved(given: Example) -> None:
    chain = repairs(given, "ls")
    found = chain.repaired(given.pruned, given.removal, given.evidence)
    assert found is not None
    worse = doubled(given.context(), given.pruned)
    assert chain.since(worse, found).drift_before == chain.drift(worse)
    assert chain.since(worse, found).model is found.model
    kept = chain.since(given.analysis.model, found)
    assert kept.model is given.analysis.model
    assert kept.drift_after == kept.drift_before == 0
