"""What is computed from constants: which tensors may be stored, what becomes of the rest, and the bounds."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxprune.model.fold import ConstantPart
from onnxprune.model.runtime import open_session, run
from onnxprune.rules.randomness import is_repeatable

node = helper.make_node


def built(
    nodes: list[NodeProto], stored: dict[str, np.ndarray], outputs: tuple[str, ...] = ("y",)
) -> onnx.ModelProto:
    """A graph of x [N, 8]; floats are stored as float32."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["A", "B"]) for name in outputs],
        [numpy_helper.from_array(v.astype(np.float32) if v.dtype.kind == "f" else v, n)
         for n, v in stored.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def part_of(model: onnx.ModelProto) -> ConstantPart:
    return ConstantPart(model, lambda n: is_repeatable(n, {"": 17}))


def weight_norm() -> onnx.ModelProto:
    """y = x (g v / |v|), with a node of shapes beside that stays."""
    nodes = [
        node("Mul", ["v", "v"], ["vv"], "square"),
        node("ReduceSum", ["vv", "axis"], ["s"], "sum", keepdims=1),
        node("Sqrt", ["s"], ["n"], "root"),
        node("Div", ["g", "n"], ["r"], "ratio"),
        node("Mul", ["v", "r"], ["w"], "scaled"),
        node("MatMul", ["x", "w"], ["h"], "layer"),
        node("Mul", ["two", "three"], ["six"], "other"),
        node("Mul", ["h", "six"], ["y"], "out"),
    ]
    stored = {"v": values(8, 6), "g": values(1, 6, seed=1), "axis": np.array([0]),
              "two": np.array(2.0), "three": np.array(3.0)}  # fmt: skip
    return built(nodes, stored)


def same_outputs(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    feeds = {"x": values(3, 8, seed=5).astype(np.float32)}
    wanted, found = (run(open_session(m), feeds) for m in (before, after))
    for name, array in wanted.items():
        np.testing.assert_array_equal(array, found[name])


def test_a_weight_is_stored_under_its_name_and_what_only_it_read_goes() -> None:
    model = weight_norm()
    before = model.SerializeToString()
    part = part_of(model)
    assert part.candidates() == ("w",)
    found = part.stored(["w"])
    assert model.SerializeToString() == before
    (told,) = found.tensors
    assert told.tensor == "w"
    assert told.nodes == ("square", "sum", "root", "ratio", "scaled")
    assert told.constants == ("v", "axis", "g")
    assert [n.name for n in found.model.graph.node] == ["layer", "other", "out"]
    assert {t.name for t in found.model.graph.initializer} == {"two", "three", "w"}
    onnx.checker.check_model(found.model, full_check=True)
    same_outputs(model, found.model)


def test_a_constant_that_somebody_else_reads_stays_tied_to_them() -> None:
    nodes = [
        node("Transpose", ["e"], ["w"], perm=[1, 0]),
        node("MatMul", ["x", "w"], ["h"]),
        node("MatMul", ["h", "e"], ["y"]),
    ]
    assert part_of(built(nodes, {"e": values(6, 8)})).candidates() == ()


def test_of_a_weight_and_its_transpose_the_first_is_stored() -> None:
    nodes = [
        node("Mul", ["v", "g"], ["w"]),
        node("MatMul", ["x", "w"], ["h"]),
        node("Transpose", ["w"], ["t"], "turned", perm=[1, 0]),
        node("MatMul", ["h", "t"], ["y"]),
    ]
    part = part_of(built(nodes, {"v": values(8, 6), "g": values(1, 6)}))
    assert part.candidates() == ("w",)
    assert [n.op_type for n in part.stored(["w"]).model.graph.node] == ["MatMul", "Transpose", "MatMul"]


def test_a_weight_computed_twice_in_the_same_way_is_stored_once() -> None:
    nodes = [
        node("Mul", ["v", "g"], ["w1"]),
        node("MatMul", ["x", "w1"], ["a"]),
        node("Mul", ["v", "g"], ["w2"]),
        node("MatMul", ["x", "w2"], ["b"]),
        node("Add", ["a", "b"], ["y"]),
    ]
    model = built(nodes, {"v": values(8, 6), "g": values(1, 6)})
    part = part_of(model)
    assert part.candidates() == ("w1", "w2")
    found = part.stored(part.candidates()).model
    assert [t.name for t in found.graph.initializer] == ["w1"]
    assert [(n.op_type, *n.input, *n.output) for n in found.graph.node][1] == ("Identity", "w1", "w2")
    same_outputs(model, found)


def test_all_parts_of_a_split_weight_are_stored_or_none() -> None:
    nodes = [
        node("Split", ["w", "sizes"], ["a", "b"], axis=1),
        node("MatMul", ["x", "a"], ["h"]),
        node("MatMul", ["x", "b"], ["k"]),
        node("Concat", ["h", "k"], ["y"], axis=1),
    ]
    part = part_of(built(nodes, {"w": values(8, 6), "sizes": np.array([4, 2])}))
    assert part.candidates() == ("a", "b")
    assert part.bounded(["a"]) == ()
    assert [t.name for t in part.stored(["a", "b"]).model.graph.initializer] == ["a", "b"]


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Mul", ["col", "row"], ["w"])],
        [node("Expand", ["row", "huge"], ["wide"]), node("ReduceSum", ["wide", "axis"], ["w"], keepdims=1)],
        [node("RandomNormalLike", ["v"], ["r"]), node("Mul", ["v", "r"], ["w"])],
        [node("RandomNormal", [], ["r"], shape=[8, 6]), node("Mul", ["v", "r"], ["w"])],
        [node("Dropout", ["v", "half", "yes"], ["w"])],
        [node("DequantizeLinear", ["codes", "half"], ["w"])],
        [node("DequantizeLinear", ["codes", "half"], ["r"]), node("Mul", ["r", "half"], ["w"])],
        [node("Odd", ["v"], ["w"], domain="custom")],
        [node("Identity", ["v"], ["w"])],
        [node("Cast", ["small"], ["w"], to=TensorProto.FLOAT)],
        [node("Div", ["nought", "nought"], ["w"])],
    ],
    ids=["outer", "huge", "random", "source", "dropout", "codes", "behind codes", "custom", "name", "cast",
         "nan"],
)  # fmt: skip
def test_what_stays_as_it_is(nodes: list[NodeProto]) -> None:
    stored = {
        "v": values(8, 6), "col": values(8, 1), "row": values(1, 6), "axis": np.array([0]),
        "huge": np.array([1 << 40, 6]), "half": np.array(0.5), "yes": np.array(True),
        "codes": np.ones((8, 6), np.int8), "small": values(8, 6).astype(np.int8), "nought": np.zeros((8, 6)),
    }  # fmt: skip
    model = built([*nodes, node("MatMul", ["x", "w"], ["y"], "layer")], stored)
    part = part_of(model)
    found = part.stored(part.candidates())
    assert found.tensors == ()
    assert found.model is model


def test_an_output_of_the_graph_stays_computed() -> None:
    nodes = [node("Mul", ["v", "g"], ["w"]), node("MatMul", ["x", "w"], ["y"])]
    stored = {"v": values(8, 6), "g": values(1, 6)}
    assert part_of(built(nodes, stored, ("y", "w"))).candidates() == ()


def test_a_default_that_callers_may_replace_is_no_constant() -> None:
    model = weight_norm()
    model.graph.input.append(helper.make_tensor_value_info("g", TensorProto.FLOAT, [1, 6]))
    assert part_of(model).candidates() == ()
    model.ir_version = 3  # every initializer is listed there
    for tensor in model.graph.initializer:
        if tensor.name != "g":
            described = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            model.graph.input.append(described)
    part = part_of(model)
    assert part.candidates() == ("w",)
    found = part.stored(["w"]).model
    assert "w" in {i.name for i in found.graph.input}
    same_outputs(model, found)
