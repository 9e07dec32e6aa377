"""The reader of shapes: right at every size it is asked for, in one session as long as that will do."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxprune.errors import UsageError
from onnxprune.model import shapes as module
from onnxprune.model.graph import ValueInfo
from onnxprune.model.shapes import ShapeReader
from tests.unit.model.examples import chain_model, dump, info

FLOAT, INT64 = int(TensorProto.FLOAT), int(TensorProto.INT64)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The outputs of every session that was opened."""
    found: list[tuple[str, ...]] = []
    real = module.open_session

    def counted(model: module.MappedModel) -> object:
        found.append(tuple(o.name for o in model.model.graph.output))
        return real(model)

    monkeypatch.setattr(module, "open_session", counted)
    return found


def data_dependent() -> onnx.ModelProto:
    nodes = [
        helper.make_node("NonZero", ["x"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=FLOAT),
        helper.make_node("Relu", ["f"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [info("x", "N", 3)], [info("y", 2, "M")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_sizes_do_not_stay() -> None:
    model = chain_model()
    before = dump(model)
    reader = ShapeReader(model)
    for batch in (2, 5, 2):
        found = reader.infer({"x": (batch, 3)})
        assert [found[name].shape for name in "xhry"] == [(batch, 3), (batch, 4), (batch, 4), (batch, 2)]
    assert reader.infer({})["y"].shape is None
    with pytest.raises(UsageError, match="got 3 sizes"):
        reader.infer({"x": (1, 2, 3)})
    assert reader.infer({"x": (7, 3)})["y"].shape == (7, 2)
    assert dump(model) == before


def test_no_session_where_inference_does(opened: list[tuple[str, ...]]) -> None:
    assert ShapeReader(chain_model()).all({"x": np.ones((2, 3), np.float32)})["y"].shape == (2, 2)
    assert opened == []


def test_one_session_for_shapes_inputs_and_outputs(opened: list[tuple[str, ...]]) -> None:
    reader = ShapeReader(data_dependent())
    one, many = {"x": np.array([[1, 0, 2]], np.float32)}, {"x": np.ones((2, 3), np.float32)}
    assert reader.all(one)["i"] == ValueInfo(INT64, (2, 2))
    assert reader.all(many)["f"] == ValueInfo(FLOAT, (2, 6))
    assert reader.run(one)["y"].tolist() == [[0, 0], [0, 2]]
    assert opened == [("y", "i", "f")]
    reader.close()
    assert reader.all(one)["f"] == ValueInfo(FLOAT, (2, 2))
    assert len(opened) == 2


def test_a_session_is_opened_again_for_more_tensors(opened: list[tuple[str, ...]]) -> None:
    reader, feeds = ShapeReader(chain_model()), {"x": np.ones((2, 3), np.float32)}
    assert list(reader.run(feeds)) == ["y"]
    assert reader.read(feeds, ["r", "x", "w1", "nothing"]) == {
        "r": ValueInfo(FLOAT, (2, 4)),
        "x": ValueInfo(FLOAT, (2, 3)),
        "w1": ValueInfo(FLOAT, (3, 4)),
    }
    assert list(reader.run(feeds)) == ["y", "r"]
    assert opened == [("y",), ("y", "r")]


def test_the_same_inputs_run_once_and_others_run() -> None:
    reader, feeds = ShapeReader(chain_model()), {"x": np.ones((2, 3), np.float32)}
    first = reader.run(feeds)
    assert reader.run(feeds) is first
    other = {"x": 2 * feeds["x"]}
    np.testing.assert_allclose(reader.run(other)["y"], 2 * first["y"], rtol=1e-6)
    np.testing.assert_array_equal(reader.run(feeds)["y"], first["y"])


def test_outputs_that_are_known_must_come_out_all_the_same() -> None:
    """Inference knows the shapes of a model that does not run."""
    nodes = [helper.make_node("Gather", ["t", "ids"], ["y"])]
    table = helper.make_tensor("t", FLOAT, [2, 3], [0.0] * 6)
    ids = helper.make_tensor_value_info("ids", INT64, ["N"])
    graph = helper.make_graph(nodes, "g", [ids], [info("y", "N", 3)], [table])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    reader, feeds = ShapeReader(model), {"ids": np.array([7])}
    assert reader.all(feeds)["y"].shape == (1, 3)
    with pytest.raises(UsageError, match="does not run"):
        reader.all(feeds, reader.outputs)
