"""How far a cast to a coarser type moves what comes after it: the yardstick of the oracle."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxprune.model.mapped import MappedModel
from onnxprune.model.runtime import open_session, run
from onnxprune.oracle.rounding import run_nudged

X = np.linspace(-2, 2, 101, dtype=np.float32)


def doubled(*casts: int) -> onnx.ModelProto:
    """A model that doubles its input and casts it to these types, one after the other."""
    nodes = [helper.make_node("Add", ["x", "x"], ["t0"])]
    nodes += [helper.make_node("Cast", [f"t{i}"], [f"t{i + 1}"], to=to) for i, to in enumerate(casts)]
    dims = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [101]) for n in ("x", f"t{len(casts)}")]
    graph = helper.make_graph(nodes, "doubled", dims[:1], dims[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.mark.parametrize(("coarse", "place"), [(TensorProto.FLOAT16, 2**-10), (TensorProto.BFLOAT16, 2**-7)])
def test_numbers_move_by_no_more_than_the_last_place_of_the_coarse_type(coarse: int, place: float) -> None:
    model = doubled(coarse, TensorProto.FLOAT)
    plain = run(open_session(model), {"x": X})["t2"]
    found = run_nudged(MappedModel(model), {"x": X})
    assert found is not None
    gap = np.abs(found["t2"] - plain)
    assert (gap <= 1.001 * place * np.abs(2 * X)).all()
    assert (gap > 0).mean() > 0.3


@pytest.mark.parametrize("casts", [(), (TensorProto.DOUBLE, TensorProto.FLOAT)])
def test_a_model_without_coarse_types_is_not_run(casts: tuple[int, ...]) -> None:
    assert run_nudged(MappedModel(doubled(*casts)), {"x": X}) is None


def test_infinity_does_not_move() -> None:
    x = X.copy()
    x[0] = np.inf
    found = run_nudged(MappedModel(doubled(TensorProto.FLOAT16, TensorProto.FLOAT)), {"x": x})
    assert found is not None
    assert found["t2"][0] == np.inf
    assert np.isfinite(found["t2"][1:]).all()
