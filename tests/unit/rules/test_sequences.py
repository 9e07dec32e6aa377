"""Sequences whose tensors are known are written out; the others freeze what goes into them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper

import onnxprune
from onnxprune.model.runtime import open_session, run
from onnxprune.rules.sequences import LOOKED_UP, OPERATORS, without_sequences
from tests.unit.rules.graphs import HALF, graph, halved, reasons

FRONT = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["x", "u"], ["g"])]
BACK = helper.make_node("MatMul", ["s", "v"], ["y"])
PARAMS = {
    "w": (6, 8), "u": (6, 8), "sizes": [3, 5], "four": np.asarray(4), "zero": np.asarray(0),
    "last": np.asarray(-1), "one": np.asarray(1),
}  # fmt: skip


def node(op: str, inputs: str, outputs: str, **attributes: int) -> NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


CASES = {
    "constructed and joined": (
        [node("SequenceConstruct", "h g", "q"), node("ConcatFromSequence", "q", "s", axis=-1)], 16,
    ),
    "stacked": (
        [node("SequenceConstruct", "h g", "q"), node("ConcatFromSequence", "q", "t", axis=0, new_axis=1),
         node("ReduceSum", "t zeros", "s", keepdims=0)], 8,
    ),
    "picked": ([node("SequenceConstruct", "h g", "q"), node("SequenceAt", "q last", "s")], 8),
    "inserted and erased": (
        [node("SequenceEmpty", "", "q0"), node("SequenceInsert", "q0 h", "q1"),
         node("SequenceInsert", "q1 g zero", "q2"), node("SequenceErase", "q2 one", "q3"),
         node("SequenceInsert", "q3 h", "q4"), node("ConcatFromSequence", "q4", "s", axis=2)], 16,
    ),
    "split by sizes": (
        [node("SplitToSequence", "h sizes", "q", axis=-1), node("SequenceAt", "q zero", "a"),
         node("SequenceAt", "q one", "b"), node("Concat", "b a", "s", axis=-1)], 8,
    ),
    "split by one size": (
        [node("SplitToSequence", "h four", "q", axis=2), node("SequenceAt", "q last", "a"),
         node("SequenceAt", "q zero", "b"), node("Add", "b a", "s")], 4,
    ),
    "split into single places": (
        [node("SplitToSequence", "h", "q", axis=1, keepdims=0), node("SequenceAt", "q zero", "s")], 8,
    ),
    "counted": (
        [node("SequenceConstruct", "h g", "q"), node("SequenceLength", "q", "n"),
         node("Cast", "n", "c", to=1), node("Mul", "h c", "s")], 8,
    ),
}  # fmt: skip


def model_of(case: str, opset: int = 21) -> onnx.ModelProto:
    nodes, width = CASES[case]
    params = {**PARAMS, "v": (width, 5), "zeros": [0]}
    return graph([*FRONT, *nodes, BACK], {"x": (2, 3, 6)}, params, opset)


@pytest.mark.parametrize("opset", [11, 13, 21])
@pytest.mark.parametrize("case", CASES)
def test_what_is_written_out_computes_the_same(case: str, opset: int) -> None:
    if opset == 11 and case == "stacked":
        pytest.skip("the sum behind it takes its axes as an attribute there")
    model = model_of(case, opset)
    before = model.SerializeToString()
    made, count = without_sequences(model)
    assert count > 0
    assert model.SerializeToString() == before
    assert not {n.op_type for n in made.graph.node} & set(OPERATORS)
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 3, 6)).astype(np.float32)}
    (wanted,), (found,) = (run(open_session(m), feeds).values() for m in (model, made))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("case", CASES)
def test_channels_go_through_sequences(case: str) -> None:
    model = model_of(case)
    result, kept = halved(model)
    assert kept["w"].shape[1] in (4, 5) or kept["u"].shape[1] == 4
    assert any("sequences are written out" in line for line in result.report.warnings)
    again = onnxprune.apply(model, result.plan.to_json())
    assert again.model.SerializeToString() == result.model.SerializeToString()


def test_a_model_without_sequences_is_not_copied() -> None:
    model = graph(
        [*FRONT[:1], helper.make_node("MatMul", ["h", "v"], ["y"])], {"x": (2, 6)}, {"w": (6, 8), "v": (8, 5)}
    )
    assert without_sequences(model)[0] is model


def test_a_place_that_is_computed_freezes_what_is_in_the_sequence() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["e"]),
        helper.make_node("MatMul", ["e", "w"], ["h"]),
        helper.make_node("MatMul", ["e", "u"], ["g"]),
        node("SequenceConstruct", "h g", "q"),
        node("SequenceAt", "q i", "s"),
        BACK,
    ]
    params = {"first": (6, 6), "w": (6, 8), "u": (6, 8), "v": (8, 5)}
    model = graph(nodes, {"x": (2, 6), "i": ()}, params, integers=["i"])
    assert ("SequenceConstruct", LOOKED_UP) in reasons(model)
    result = onnxprune.prune(model, HALF)
    assert result.report.verification.status == "proved"
    assert [group.kept for group in result.report.groups] == [3]
