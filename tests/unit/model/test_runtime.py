"""Sessions: opened once for a model that is the same, with weights that they do not copy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxprune.errors import UnprovedError
from onnxprune.model import mapped
from onnxprune.model.mapped import MappedModel, light
from onnxprune.model.patch import Patch
from onnxprune.model.runtime import Sessions, open_session, run, with_outputs
from tests.unit.model.examples import chain_model, dump, floats, info

FEEDS = {"x": np.ones((2, 3), np.float32)}


def wide_model() -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    graph = helper.make_graph(
        nodes, "wide", [info("x", "N", 64)], [info("y", "N", 64)], [floats("w", 64, 64)]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_outputs_are_exchanged_and_keep_their_descriptions() -> None:
    model = chain_model()
    before = dump(model)
    result = with_outputs(model, ["r", "nothing"]).model
    assert [(v.name, v.type.tensor_type.elem_type) for v in result.graph.output] == [
        ("r", TensorProto.FLOAT),
        ("nothing", 0),
    ]
    assert [v.name for v in result.graph.value_info] == ["h", "r"]
    assert dump(model) == before
    assert list(run(open_session(with_outputs(model, ["r", "y"])), FEEDS)) == ["r", "y"]


def test_a_model_that_is_the_same_has_one_session_at_a_level() -> None:
    sessions, model = Sessions(), light(chain_model())
    copy = onnx.ModelProto()
    copy.CopyFrom(model.model)
    first = sessions.of(model)
    assert sessions.of(replace(model, model=copy)) is first
    assert sessions.of(model, optimised=True) is not first
    assert sessions.of(with_outputs(model, ["h"])) is not first
    assert Sessions().of(model) is not first


def test_models_with_other_weights_have_sessions_of_their_own() -> None:
    """What refers to the weights is the same byte for byte."""
    model, other = wide_model(), wide_model()
    other.graph.initializer[0].CopyFrom(floats("another"[:1], 64, 64))
    other.graph.initializer[0].name = "w"
    other.graph.initializer[0].raw_data = bytes(64 * 64 * 4)
    plain, zero = light(model), light(other)
    assert dump(plain.model) == dump(zero.model)
    sessions, feeds = Sessions(), {"x": np.ones((1, 64), np.float32)}
    assert run(sessions.of(plain), feeds)["y"].any()
    assert not run(sessions.of(zero), feeds)["y"].any()


@pytest.mark.parametrize("optimised", [False, True])
def test_weights_in_memory_outlive_the_model(optimised: bool) -> None:
    model = wide_model()
    feeds = {"x": np.ones((1, 64), np.float32)}
    session = open_session(model, optimised)
    wanted = run(open_session(MappedModel(model), optimised), feeds)["y"]
    del model
    garbage = [np.full((64, 64), np.nan, np.float32) for _ in range(100)]
    assert len(garbage) == 100
    assert np.array_equal(run(session, feeds)["y"], wanted)


def test_weights_that_nobody_reads_any_more_are_no_trouble() -> None:
    model = light(wide_model())
    patch = Patch(model.model)
    patch.set_input(0, 1, patch.initializer("zeros", np.zeros((64, 64), np.float32)))
    changed = replace(model, model=patch.written())
    assert model.weights.keys() == {"w"}
    assert not run(open_session(changed), {"x": np.ones((1, 64), np.float32)})["y"].any()


@pytest.mark.parametrize("much", [0, 1 << 28])
def test_constants_beyond_the_limit_of_protobuf_run(much: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside weights in memory and in a file."""
    model = wide_model()
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=floats("", 64, 64)))
    model.graph.node.append(helper.make_node("MatMul", ["y", "c"], ["z"]))
    model.graph.output[0].name = "z"
    feeds = {"x": np.ones((1, 64), np.float32)}
    wanted = run(open_session(model), feeds)["z"]
    monkeypatch.setattr(mapped, "HEAVY", 256)
    monkeypatch.setattr(mapped, "MUCH", much)
    monkeypatch.setattr("onnxprune.model.runtime.PROTOBUF_LIMIT", 2000)
    for session in (open_session(model), Sessions().of(light(model))):
        np.testing.assert_allclose(run(session, feeds)["z"], wanted, rtol=1e-5)


def test_what_onnxruntime_refuses_is_unproved() -> None:
    model = chain_model()
    model.graph.node[1].op_type = "Mystery"
    with pytest.raises(UnprovedError, match="onnxruntime refuses the model"):
        Sessions().of(light(model))
