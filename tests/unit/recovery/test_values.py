"""Stored tensors by name: initializers and constants alike."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxprune.recovery.context import changed, hashes, stored_tensors, values_of, with_values


def model() -> onnx.ModelProto:
    half = numpy_helper.from_array(np.ones(2, np.float16), "half")
    nodes = [
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.float32([3, 4]))),
        helper.make_node("Add", ["x", "k"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, 1, [2]) for n in "xy"]
    whole = numpy_helper.from_array(np.asarray([7], np.int64), "whole")
    return helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], [half, whole]))


def test_floats_are_listed_wherever_they_are_stored() -> None:
    assert set(stored_tensors(model())) == {"half", "whole", "k"}
    assert {name: values.tolist() for name, values in values_of(model()).items()} == {
        "half": [1, 1], "k": [3, 4],
    }  # fmt: skip


def test_values_are_replaced_in_a_copy_and_keep_their_type() -> None:
    before = model()
    others = {"half": np.asarray([2.0, 5.0]), "k": np.asarray([0, 1]), "nothing": np.ones(1)}
    after = with_values(before, others)
    assert before == model()
    assert values_of(after)["half"].dtype == np.float16
    assert {n: v.tolist() for n, v in values_of(after).items()} == {"half": [2, 5], "k": [0, 1]}


def test_what_changed_is_named_with_its_hash() -> None:
    after = with_values(model(), {"k": np.asarray([0, 1])})
    assert changed(model(), model()) == {}
    assert changed(model(), after) == {"k": hashes(after)["k"]}
    assert hashes(after)["half"] == hashes(model())["half"]
