"""Layers refitted one after the other: what each aims at, and what is left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import helper

from onnxprune.evaluation.drift import drift
from onnxprune.recovery.context import values_of
from onnxprune.recovery.refit import _aim, refitted
from onnxprune.recovery.regression import linears
from onnxprune.recovery.walk import Walk
from tests.laws.test_regressions import model_of
from tests.unit.recovery.examples import example


def test_layers_come_nearer_to_the_original() -> None:
    given = example()
    held = given.evidence.data.judge
    found = refitted(given.context(), given.pruned)
    before, after = (drift(given.analysis.model, m, held) for m in (given.pruned, found))
    assert after < 0.85 * before


def test_every_layer_is_told_of() -> None:
    given, told = example(), list[tuple[int, int]]()
    context = replace(given.context(), progress=lambda done, total: told.append((done, total)))
    refitted(context, given.pruned)
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_the_original_itself_stays_as_it_is() -> None:
    given = example(0)
    found = refitted(given.context(), given.analysis.model)
    for name, values in values_of(given.analysis.model).items():
        assert np.array_equal(values_of(found)[name], values)


def test_the_end_of_a_branch_aims_at_the_sum() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], ["k"]),
        helper.make_node("Add", ["k", "h"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    model = model_of(nodes, {"x": ["B", 4]}, {"y": ["B", 4]}, {"w": (4, 4), "v": (4, 4)})
    walk = Walk(model, [{"x": np.zeros((1, 4), np.float32)}])
    first, second = linears(walk)
    assert _aim(walk, first, second.place).name == "h"
    walk.until(second.place)
    aim = _aim(walk, second, len(walk.nodes))
    assert (aim.name, list(aim.others)) == ("s", ["h"])
    assert _aim(walk, second, 2).name == "k", "a sum behind the next layer is not waited for"
