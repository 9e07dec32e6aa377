"""What the oracle puts in has names of its own and types that are known."""

from __future__ import annotations

import numpy as np
import onnx

from onnxprune.model.patch import Patch
from onnxprune.oracle.restricted import Builder
from tests.unit.model.examples import chain_model

FLOAT16 = int(onnx.TensorProto.FLOAT16)


def test_tensors_and_nodes_have_names_that_no_other_has() -> None:
    model = chain_model()
    model.graph.node[1].name = "__oracle_mask"
    builder = Builder(Patch(model), {"h": FLOAT16}, 9)
    mask = builder.constant("mask", np.ones(4, bool))
    again = builder.variable("mask", np.dtype(np.int32))
    assert (mask, again) == ("__oracle_mask_1", "__oracle_mask_2")
    names = {builder.node("Relu", ["h"], again).name for _ in range(3)}
    assert len(names) == 3
    assert not names & {mask, again}
    assert np.array_equal(builder.patch.added[mask], np.ones(4, bool))


def test_types_are_those_of_the_model_and_of_what_was_made() -> None:
    builder = Builder(Patch(chain_model()), {"h": FLOAT16}, 9)
    assert builder.dtype("h") == np.float16
    assert builder.dtype(builder.constant("mask", np.ones(4, bool))) == np.bool_
    assert builder.dtype(builder.variable("count", np.dtype(np.int64))) == np.int64


def test_nodes_are_of_the_standard_domain_with_attributes() -> None:
    node = Builder(Patch(chain_model()), {}, 9).node("ReduceMean", ["h"], "m", axes=[1], keepdims=0)
    assert (node.op_type, node.domain, list(node.input), list(node.output)) == (
        "ReduceMean",
        "",
        ["h"],
        ["m"],
    )
    assert {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} == {
        "axes": [1],
        "keepdims": 0,
    }
