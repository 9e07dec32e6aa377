"""Parameters are counted by one predicate, in a file as in its analysis."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxprune.analysis.analyse import analyse
from onnxprune.analysis.cost import parameters
from onnxprune.planning.cost_model import CostModel

CODES = np.arange(8, dtype=np.int32).reshape(2, 4)


def model_of(nodes: list[onnx.NodeProto], stored: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A model from x [3, 2] to y."""
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, [3, 2])],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(v, n) for n, v in stored.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({"w": CODES.astype(np.float32)}, 8),
        ({"w": CODES.astype(np.float16)}, 8),
        ({"w": CODES.astype(np.int8)}, 8),  # two axes and 8 bits: a weight, whoever reads it
        ({"w": CODES}, 0),
    ],
)
def test_what_counts(stored: dict[str, np.ndarray], expected: int) -> None:
    nodes = [helper.make_node("Cast", ["w"], ["v"], to=1), helper.make_node("MatMul", ["x", "v"], ["y"])]
    assert parameters(model_of(nodes, stored)) == expected


@pytest.mark.parametrize("held", ["stored", "Constant", "Identity"])
def test_codes_count_where_an_operator_reads_them_as_real_numbers(held: str) -> None:
    stored = {"s": np.float32(0.5), "q": CODES}
    first = []
    if held == "Constant":
        first = [helper.make_node("Constant", [], ["q"], value=numpy_helper.from_array(stored.pop("q")))]
    name = "q"
    if held == "Identity":
        first, name = [helper.make_node("Identity", ["q"], ["r"])], "r"
    nodes = [
        *first, helper.make_node("DequantizeLinear", [name, "s"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]  # fmt: skip
    model = model_of(nodes, stored)
    assert parameters(model) == 9
    units = analyse(model).units
    assert [s.name for s in units.traced.network.everything() if s.quantized] == ["q"]
    assert CostModel(units, 0).quantities()["params"] == 9


def test_a_sparse_weight_counts_by_the_same_predicate() -> None:
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {})
    for kind, expected in ((np.float32, 8), (np.int8, 8), (np.int32, 0)):
        sparse = helper.make_sparse_tensor(
            numpy_helper.from_array(np.ones(2, kind), "w"),
            numpy_helper.from_array(np.asarray([1, 3])),
            [2, 4],
        )
        del model.graph.sparse_initializer[:]
        model.graph.sparse_initializer.append(sparse)
        assert parameters(model) == expected
