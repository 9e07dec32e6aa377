"""A walk: every node once, values while somebody needs them, weights that can be replaced."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxprune.errors import UsageError
from onnxprune.model.runtime import open_session, run
from onnxprune.model.tensors import read_by
from onnxprune.recovery.walk import Walk
from tests.unit.recovery.examples import calibration, dense

DATA = calibration(3, 4)


def test_a_walk_ends_with_the_outputs_of_the_model() -> None:
    walk = Walk(dense(), DATA.batches)
    for place in range(1, len(walk.nodes) + 1):
        walk.until(place)
    session = open_session(dense(), optimised=True)
    for values, batch in zip(walk.values, DATA.batches, strict=True):
        np.testing.assert_allclose(values["y"], run(session, batch)["y"], rtol=1e-5, atol=1e-5)


def test_values_are_forgotten_behind_their_last_reader() -> None:
    walk = Walk(dense(), DATA.batches)
    walk.until(2)
    assert set(walk.values[0]) == {"r"}
    assert walk.size == sum(values["r"].nbytes for values in walk.values)
    walk.until(1)
    assert walk.at == 2, "it does not go back"


def test_looking_ahead_changes_nothing() -> None:
    walk = Walk(dense(), DATA.batches)
    walk.until(1)
    found = walk.ahead(4, ["s"], [2, 0])
    assert [f["s"].shape for f in found] == [(4, 12)] * 2
    assert walk.at == 1
    assert set(walk.values[0]) == {"h"}
    (seen,) = {tuple(p) for p in walk.preview(["r"])}
    assert seen == ("r",)


def test_a_weight_that_is_replaced_counts_from_then_on() -> None:
    walk = Walk(dense(), DATA.batches)
    walk.store("d", np.full(3, 100, np.float32))
    walk.until(len(walk.nodes))
    plain = Walk(dense(), DATA.batches)
    plain.until(len(plain.nodes))
    old = numpy_helper.to_array(plain.weights["d"])
    np.testing.assert_allclose(walk.values[0]["y"] - 100, plain.values[0]["y"] - old, atol=1e-4)


def test_constants_and_their_other_names_are_weights() -> None:
    nodes = [
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.float32([1]), "k")),
        helper.make_node("Identity", ["k"], ["alias"]),
        helper.make_node("Add", ["x", "alias"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, 1, ["B"]) for n in "xy"]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 17)]
    )
    walk = Walk(model, [{"x": np.float32([1, 2])}])
    assert [node.op_type for node in walk.nodes] == ["Add"]
    assert set(walk.weights) == {"k", "alias"}
    walk.until(1)
    assert walk.values[0]["y"].tolist() == [2, 3]


def test_what_a_subgraph_reads_is_read() -> None:
    inner = helper.make_graph(
        [helper.make_node("Neg", ["outer"], ["n"])], "then", [], [onnx.ValueInfoProto(name="n")]
    )
    assert read_by(helper.make_node("If", ["c"], ["o"], then_branch=inner)) == {"c", "outer", "n"}


def test_data_that_does_not_run_is_said_in_one_line() -> None:
    walk = Walk(dense(), [{"x": np.zeros((2, 5), np.float32)}])
    with pytest.raises(UsageError, match="does not run on the calibration data"):
        walk.until(1)
