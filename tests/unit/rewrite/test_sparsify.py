"""Exact counts, N:M groups in every layout, sparse initializers that onnxruntime takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.errors import ModelError, NothingToPrune, UsageError
from onnxprune.rewrite import sparse_form
from onnxprune.rewrite.sparsify import SparsifyResult, SparsifySettings, sparsify

SHARED = Path(__file__).resolve().parents[4] / "shared" / "models"
HALF = SparsifySettings(sparsity=0.5)
TWO_OF_FOUR = SparsifySettings(pattern="2:4")


def rand(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def build(
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    *,
    x: Sequence[int | str] = ("n", 8),
    ir: int = 8,
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model from x to the last node's first output."""
    out = helper.make_tensor_value_info(nodes[-1].output[0], dtype, None)
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", dtype, list(x))],
        [out],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def linear(weight: np.ndarray, **more: Any) -> onnx.ModelProto:
    return build([helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")], {"w": weight}, **more)


def value(model: onnx.ModelProto, name: str = "w") -> np.ndarray:
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


def outputs(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {"x": x})


def zeros(array: np.ndarray) -> int:
    return int((array == 0).sum())


# Local and global: exact counts


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_local_count_is_exact(data: st.DataObject) -> None:
    """The floor of sparsity x size, read as the decimal it was written as; the smallest go, ties in order."""
    rows, columns = data.draw(st.integers(2, 12)), data.draw(st.integers(1, 12))
    few = st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 2.0])
    numbers = data.draw(
        st.lists(few | st.floats(-10, 10, width=32), min_size=rows * columns, max_size=rows * columns)
    )
    sparsity = data.draw(st.integers(1, 99)) / 100
    weight = np.array(numbers, np.float32).reshape(rows, columns)
    result = sparsify(linear(weight, x=("n", rows)), SparsifySettings(sparsity=sparsity))
    new = value(result.model)
    asked = round(sparsity * 100) * weight.size // 100
    assert zeros(new) == max(asked, zeros(weight))
    order = sorted(range(weight.size), key=lambda i: (abs(weight.flat[i]), i))
    expected = weight.copy().reshape(-1)
    expected[order[:asked]] = 0
    np.testing.assert_array_equal(new.reshape(-1), expected)
    (told,) = result.report.tensors
    assert (told.size, told.zeros_before, told.zeros_after) == (weight.size, zeros(weight), zeros(new))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    percent=st.integers(1, 99),
    seed=st.integers(0, 1000),
    grid=st.booleans(),
)
def test_global_count_is_exact(sizes: list[int], percent: int, seed: int, grid: bool) -> None:
    """One ranking over all tensors, ties by order of tensors and then of elements."""
    weights, nodes, before = {}, [], "x"
    for i, size in enumerate(sizes):
        array = rand(8 if i == 0 else sizes[i - 1], size, seed=seed + i)
        weights[f"w{i}"] = np.round(array) if grid else array
        nodes.append(helper.make_node("Gemm", [before, f"w{i}"], [f"y{i}"]))
        before = f"y{i}"
    result = sparsify(build(nodes, weights), SparsifySettings(sparsity=percent / 100, scope="global"))
    old = np.concatenate([w.reshape(-1) for w in weights.values()])
    asked = int(Fraction(percent, 100) * old.size)
    expected = old.copy()
    expected[sorted(range(old.size), key=lambda i: (abs(old[i]), i))[:asked]] = 0
    new = np.concatenate([value(result.model, name).reshape(-1) for name in weights])
    np.testing.assert_array_equal(new, expected)
    assert result.report.zeros_after == max(asked, zeros(old))
    assert result.report.size == old.size


def test_sparsity_is_read_as_written() -> None:
    result = sparsify(linear(rand(10, 10), x=("n", 10)), SparsifySettings(sparsity=0.29))
    assert zeros(value(result.model)) == 29
    assert math.floor(0.29 * 100) == 28, "floats would lose one"


def test_existing_zeros_count_and_are_not_undone() -> None:
    weight = rand(8, 8)
    weight[:6] = 0
    before = linear(weight)
    result = sparsify(before, HALF)
    assert result.model.SerializeToString() == before.SerializeToString()
    assert result.report.tensors[0].zeros_after == 48


def test_ties_go_in_index_order() -> None:
    new = value(sparsify(linear(np.ones((8, 4), np.float32)), HALF).model)
    np.testing.assert_array_equal(new.reshape(-1), [0] * 16 + [1] * 16)
    new = value(sparsify(linear(np.ones((8, 4), np.float32)), TWO_OF_FOUR).model)
    np.testing.assert_array_equal(new, np.repeat([[0], [0], [1], [1]] * 2, 4, axis=1).reshape(8, 4))


def test_what_is_not_a_number_is_kept() -> None:
    weight = rand(8, 4)
    weight[0], weight[1] = np.nan, np.inf
    new = value(sparsify(linear(weight), HALF).model)
    assert zeros(new) == 16
    assert np.isnan(new[0]).all()
    assert np.isinf(new[1]).all()
    assert zeros(value(sparsify(linear(np.full((8, 4), np.nan, np.float32)), HALF).model)) == 16


def test_the_argument_is_not_changed_and_results_repeat() -> None:
    model = linear(rand(8, 8))
    before = model.SerializeToString(deterministic=True)
    for wanted in (HALF, TWO_OF_FOUR, SparsifySettings(pattern="1:8", sparse_initializers=True)):
        first = sparsify(model, wanted)
        assert model.SerializeToString(deterministic=True) == before
        again = sparsify(model, wanted)
        assert first.model.SerializeToString(deterministic=True) == again.model.SerializeToString(
            deterministic=True
        )
        assert first.report == again.report


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("wanted", [HALF, SparsifySettings(sparsity=0.5, scope="global"), TWO_OF_FOUR])
def test_float_types(dtype: Any, wanted: SparsifySettings) -> None:
    weight = rand(8, 6, dtype=dtype)
    model = linear(weight, dtype=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    new = value(sparsify(model, wanted).model)
    assert new.dtype == weight.dtype
    assert zeros(new) == 24
    kept = new != 0
    np.testing.assert_array_equal(new[kept], weight[kept])


def test_half_floats_in_typed_fields_and_tensor_notes_survive() -> None:
    model = linear(rand(8, 4))
    tensor = helper.make_tensor("w", TensorProto.FLOAT16, [8, 4], rand(8, 4).reshape(-1).tolist())
    tensor.ClearField("raw_data")
    tensor.int32_data[:] = rand(8, 4, dtype=np.float16).view(np.uint16).reshape(-1).tolist()
    tensor.doc_string = "kept"
    model.graph.initializer[0].CopyFrom(tensor)
    result = sparsify(model, HALF).model
    assert zeros(value(result)) == 16
    assert result.graph.initializer[0].doc_string == "kept"
    assert not result.graph.initializer[0].int32_data


# N:M groups, against a plain loop


def check_groups(old: np.ndarray, new: np.ndarray, axis: int, kept: int, group: int) -> int:
    """Check every whole group along the axis by hand; return the number of elements outside of groups."""
    lines_old = np.moveaxis(old, axis, -1).reshape(-1, old.shape[axis])
    lines_new = np.moveaxis(new, axis, -1).reshape(-1, old.shape[axis])
    outside = 0
    for before, after in zip(lines_old, lines_new, strict=True):
        whole = len(before) // group * group
        np.testing.assert_array_equal(before[whole:], after[whole:])
        outside += len(before) - whole
        for start in range(0, whole, group):
            part = before[start : start + group]
            order = sorted(range(group), key=lambda i: (abs(part[i]), i))
            expected = part.copy()
            expected[order[: group - kept]] = 0
            np.testing.assert_array_equal(after[start : start + group], expected)
    return outside


def node(op_type: str, inputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, ["y"], name="n", **attributes)


LAYOUTS = {
    "Conv": (node("Conv", ["x", "w"]), rand(5, 10, 3, 3), 1),
    "Conv1d": (node("Conv", ["x", "w"]), rand(5, 10, 3), 1),
    "Conv3d": (node("Conv", ["x", "w"]), rand(3, 9, 2, 2, 2), 1),
    "grouped Conv": (node("Conv", ["x", "w"], group=2), rand(6, 9, 3, 3), 1),
    "ConvTranspose": (node("ConvTranspose", ["x", "w"]), rand(10, 3, 3, 3), 0),
    "MatMul right": (node("MatMul", ["x", "w"]), rand(11, 5), 0),
    "MatMul left": (node("MatMul", ["w", "x"]), rand(5, 11), 1),
    "batched MatMul": (node("MatMul", ["x", "w"]), rand(3, 9, 5), 1),
    "batched MatMul left": (node("MatMul", ["w", "x"]), rand(3, 5, 9), 2),
    "Gemm": (node("Gemm", ["x", "w"]), rand(11, 5), 0),
    "Gemm transB": (node("Gemm", ["x", "w"], transB=1), rand(5, 11), 1),
    "Gemm left": (node("Gemm", ["w", "x"]), rand(5, 11), 1),
    "Gemm left transA": (node("Gemm", ["w", "x"], transA=1), rand(11, 5), 0),
    "LSTM W": (node("LSTM", ["x", "w", "r"], hidden_size=3), rand(1, 12, 10), 2),
    "LSTM R": (node("LSTM", ["x", "v", "w"], hidden_size=10), rand(1, 40, 10), 2),
    "GRU W": (node("GRU", ["x", "w", "r"], hidden_size=3, direction="bidirectional"), rand(2, 9, 10), 2),
    "RNN W": (node("RNN", ["x", "w", "r"], hidden_size=3), rand(1, 3, 10), 2),
    "Einsum": (node("Einsum", ["x", "w"], equation="bi,eio->beo"), rand(3, 9, 5), 1),
}
# a recurrent layer has two weights
OTHERS = {
    "LSTM W": {"r": rand(1, 12, 3)},
    "LSTM R": {"v": rand(1, 40, 7)},
    "GRU W": {"r": rand(2, 9, 3)},
    "RNN W": {"r": rand(1, 3, 3)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("kept", "group"), [(2, 4), (1, 4), (3, 5), (1, 2), (9, 10), (1, 16)])
def test_pattern_in_every_layout(layout: str, kept: int, group: int) -> None:
    user, weight, axis = LAYOUTS[layout]
    result = sparsify(
        build([user], {"w": weight, **OTHERS.get(layout, {})}), SparsifySettings(pattern=f"{kept}:{group}")
    )
    outside = check_groups(weight, value(result.model), axis, kept, group)
    (told,) = (t for t in result.report.tensors if t.name == "w")
    assert told.ungrouped == outside
    assert told.zeros_after == (weight.size - outside) * (group - kept) // group
    assert bool(told.note) == (outside == weight.size)


def test_groups_do_not_cross_the_blocks_of_a_grouped_transposed_conv() -> None:
    weight = rand(12, 3, 2, 2)
    model = build([node("ConvTranspose", ["x", "w"], group=2)], {"w": weight})
    result = sparsify(model, TWO_OF_FOUR)
    new = value(result.model)
    outside = sum(check_groups(weight[i : i + 6], new[i : i + 6], 0, 2, 4) for i in (0, 6))
    assert result.report.tensors[0].ungrouped == outside == 48


def test_blocks_that_do_not_divide_the_channels_are_refused() -> None:
    model = build([node("ConvTranspose", ["x", "w"], group=5)], {"w": rand(12, 3, 2, 2)})
    with pytest.raises(ModelError, match="takes 12 input channels, expected a multiple of group 5"):
        onnxprune.sparsify(model, TWO_OF_FOUR)


def test_depthwise_conv_stays_dense() -> None:
    model = build([node("Conv", ["x", "w"], group=8)], {"w": rand(8, 1, 3, 3)})
    result = sparsify(model, TWO_OF_FOUR)
    assert result.report.zeros_after == 0
    assert "fewer than 4" in result.report.tensors[0].note


@settings(max_examples=80, deadline=None)
@given(channels=st.integers(1, 20), group=st.integers(2, 9), data=st.data(), seed=st.integers(0, 99))
def test_pattern_counts(channels: int, group: int, data: st.DataObject, seed: int) -> None:
    kept = data.draw(st.integers(1, group - 1))
    weight = np.round(rand(4, channels, 3, seed=seed), 1)
    result = sparsify(
        build([node("Conv", ["x", "w"])], {"w": weight}), SparsifySettings(pattern=f"{kept}:{group}")
    )
    check_groups(weight, value(result.model), 1, kept, group)


# Where weights hide


def test_only_weights_are_cut() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "s", "t", "m", "v"], ["d"]),
        helper.make_node("PRelu", ["d", "slope"], ["e"]),
        helper.make_node("Add", ["e", "table"], ["y"]),
    ]
    vectors = {name: np.full(4, 1e-3, np.float32) for name in ("b", "s", "t", "m", "v")}
    constants = {"w": rand(4, 8, 1, 1), **vectors, "slope": rand(4, 1, 1), "table": rand(1, 4, 6, 6)}
    result = sparsify(build(nodes, constants, x=("n", 8, 6, 6)), HALF)
    assert [t.name for t in result.report.tensors] == ["w"]
    for name in set(constants) - {"w"}:
        np.testing.assert_array_equal(value(result.model, name), constants[name])


def test_a_shared_weight_is_cut_once() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["y"])]
    for wanted, count in (
        (HALF, 32),
        (SparsifySettings(sparsity=0.5, scope="global"), 32),
        (TWO_OF_FOUR, 32),
    ):
        result = sparsify(build(nodes, {"w": rand(8, 8)}), wanted)
        assert [t.name for t in result.report.tensors] == ["w"]
        assert result.report.zeros_after == zeros(value(result.model)) == count
        assert not result.report.tensors[0].note


def test_uses_that_see_other_channels_are_told() -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["a"]),
        helper.make_node("Gemm", ["a", "w"], ["y"], transB=1),
    ]
    weight = rand(8, 8)
    result = sparsify(build(nodes, {"w": weight}), TWO_OF_FOUR)
    check_groups(weight, value(result.model), 0, 2, 4)
    assert "another use sees other channels" in result.report.tensors[0].note


def test_weights_in_constant_nodes() -> None:
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(rand(8, 4), "any"))
    model = build([constant, node("MatMul", ["x", "w"])], {})
    result = sparsify(model, HALF)
    assert [(t.name, t.zeros_after) for t in result.report.tensors] == [("w", 16)]
    assert zeros(numpy_helper.to_array(result.model.graph.node[0].attribute[0].t)) == 16


@pytest.mark.parametrize(
    ("moves", "axis"),
    [
        ([helper.make_node("Identity", ["w"], ["m"])], 0),
        ([helper.make_node("Cast", ["w"], ["m"], to=TensorProto.FLOAT)], 0),
        ([helper.make_node("Transpose", ["w"], ["m"], perm=[1, 0])], 1),
        ([helper.make_node("Transpose", ["w"], ["m"])], 1),
        (
            [
                helper.make_node("Transpose", ["w"], ["t"]),
                helper.make_node("Constant", [], ["axes"], value_ints=[0]),
                helper.make_node("Unsqueeze", ["t", "axes"], ["m"]),
            ],
            1,
        ),
    ],
)
def test_pattern_behind_layout_changes(moves: list[onnx.NodeProto], axis: int) -> None:
    weight = rand(8, 8)
    model = build([*moves, node("MatMul", ["x", "m"])], {"w": weight})
    check_groups(weight, value(sparsify(model, TWO_OF_FOUR).model), axis, 2, 4)


def test_pattern_behind_a_reshape() -> None:
    """CNTK's way: the weight [C, h, w, out] is flattened, so a group is four neighbouring pixels."""
    weight = rand(2, 2, 4, 5)
    shape = np.array([-1, 5])
    model = build(
        [helper.make_node("Reshape", ["w", "shape"], ["m"]), node("MatMul", ["x", "m"])],
        {"w": weight, "shape": shape},
        x=("n", 16),
    )
    new = value(sparsify(model, TWO_OF_FOUR).model)
    check_groups(weight.reshape(16, 5), new.reshape(16, 5), 0, 2, 4)


def test_pattern_of_a_weight_that_is_split() -> None:
    """Fused Q, K, V: three uses that see a third each; the groups of all of them are cut."""
    weight = rand(8, 12)
    nodes = [
        helper.make_node("Split", ["w"], ["q", "k", "v"], axis=1),
        helper.make_node("MatMul", ["x", "q"], ["a"]),
        helper.make_node("MatMul", ["x", "k"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    result = sparsify(build(nodes, {"w": weight}, opset=13), TWO_OF_FOUR)
    new = value(result.model)
    check_groups(weight[:, :8], new[:, :8], 0, 2, 4)
    np.testing.assert_array_equal(new[:, 8:], weight[:, 8:])
    assert result.report.tensors[0].ungrouped == 32
    assert not result.report.tensors[0].note


def test_gates_put_in_order_before_an_lstm() -> None:
    """PyTorch's export without constant folding: slices of the weight, concatenated and unsqueezed."""
    weight = rand(12, 8)
    number = {f"c{i}": np.array([i * 3]) for i in range(5)} | {"zero": np.array([0])}
    nodes = [
        *(helper.make_node("Slice", ["w", f"c{i}", f"c{i + 1}", "zero"], [f"p{i}"]) for i in range(4)),
        helper.make_node("Concat", ["p0", "p3", "p1", "p2"], ["j"], axis=0),
        helper.make_node("Unsqueeze", ["j", "zero"], ["m"]),
        node("LSTM", ["x", "m", "r"], hidden_size=3),
    ]
    result = sparsify(build(nodes, {"w": weight, "r": rand(1, 12, 3), **number}), TWO_OF_FOUR)
    assert [t.name for t in result.report.tensors] == ["w", "r"]
    check_groups(weight, value(result.model), 1, 2, 4)


def test_two_weights_joined_for_one_node() -> None:
    """Groups that two tensors share stay dense; the others are cut where they are stored."""
    first, second = rand(6, 5), rand(6, 5, seed=1)
    nodes = [helper.make_node("Concat", ["u", "v"], ["m"], axis=0), node("MatMul", ["x", "m"])]
    result = sparsify(build(nodes, {"u": first, "v": second}, x=("n", 12)), TWO_OF_FOUR)
    assert [(t.name, t.ungrouped) for t in result.report.tensors] == [("u", 10), ("v", 10)]
    check_groups(first[:4], value(result.model, "u")[:4], 0, 2, 4)
    check_groups(second[2:], value(result.model, "v")[2:], 0, 2, 4)


def test_a_concat_that_grows_without_end_is_not_followed() -> None:
    nodes, before = [], "w"
    for i in range(40):
        nodes.append(helper.make_node("Concat", [before, before], [f"m{i}"], axis=1))
        before = f"m{i}"
    with pytest.raises(NothingToPrune):
        sparsify(build([*nodes, node("MatMul", ["x", before])], {"w": rand(8, 64)}), HALF)


def test_weights_in_branches_and_of_the_outer_graph() -> None:
    def branch(name: str) -> onnx.GraphProto:
        nodes = [
            helper.make_node("MatMul", ["x", "inner"], [f"{name}_a"]),
            helper.make_node("MatMul", [f"{name}_a", "outer"], [f"{name}_y"]),
        ]
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        seed = len(name)
        return helper.make_graph(
            nodes, name, [], [out], [numpy_helper.from_array(rand(8, 8, seed=seed), "inner")]
        )

    chosen = helper.make_node("If", ["c"], ["y"], then_branch=branch("then"), else_branch=branch("other"))
    model = build([chosen], {"outer": rand(8, 8, seed=9), "c": np.array(True)})
    result = sparsify(model, HALF)
    assert sorted(t.name for t in result.report.tensors) == ["inner", "inner", "outer"]
    assert all(t.zeros_after == 32 for t in result.report.tensors)
    encoded = sparsify(model, SparsifySettings(sparsity=0.9, sparse_initializers=True))
    dense = sparsify(model, SparsifySettings(sparsity=0.9))
    assert [t.encoding for t in encoded.report.tensors] == ["sparse"] * 3
    x = rand(2, 8, seed=7)
    np.testing.assert_array_equal(outputs(encoded.model, x)[0], outputs(dense.model, x)[0])


def test_a_name_of_a_loop_body_hides_the_outer_constant() -> None:
    body = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [8, 8]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("z", TensorProto.FLOAT, [8, 8]),
        ],
    )
    loop = helper.make_node("Loop", ["count", "", "w"], ["y"], body=body)
    with pytest.raises(NothingToPrune):
        sparsify(build([loop], {"w": rand(8, 8), "count": np.array(2)}), HALF)


def test_weights_in_functions_are_cut_once() -> None:
    constant = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(rand(8, 8), "k"))
    function = helper.make_function(
        "local",
        "Block",
        ["a", "b"],
        ["d"],
        [
            constant,
            helper.make_node("MatMul", ["a", "b"], ["c"]),
            helper.make_node("MatMul", ["c", "k"], ["d"]),
        ],
        [helper.make_opsetid("", 17)],
    )
    nodes = [
        helper.make_node("Block", ["x", "w"], ["h"], domain="local"),
        helper.make_node("Block", ["h", "v"], ["y"], domain="local"),
    ]
    model = build(nodes, {"w": rand(8, 8, seed=1), "v": rand(8, 8, seed=2)})
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.functions.append(function)
    result = sparsify(model, HALF)
    assert sorted((t.name, t.zeros_after) for t in result.report.tensors) == [("k", 32), ("v", 32), ("w", 32)]
    encoded = sparsify(model, SparsifySettings(sparsity=0.9, sparse_initializers=True))
    dense = sparsify(model, SparsifySettings(sparsity=0.9))
    assert {t.name: t.encoding for t in encoded.report.tensors} == {
        "w": "sparse",
        "v": "sparse",
        "k": "dense",
    }
    assert "in a function" in next(t.note for t in encoded.report.tensors if t.name == "k")
    x = rand(2, 8, seed=7)
    np.testing.assert_array_equal(outputs(encoded.model, x)[0], outputs(dense.model, x)[0])


def test_rotary_tables_are_no_weights() -> None:
    nodes = [helper.make_node("MatMul", ["frequencies", "x"], ["p"]), node("MatMul", ["w", "p"])]
    constants = {"frequencies": rand(1, 8, 1), "w": rand(4, 8)}
    result = sparsify(build(nodes, constants, x=("n", 1, 5)), HALF)
    assert [t.name for t in result.report.tensors] == ["w"]


def test_embeddings_are_cut_on_request() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "i"], ["e"]),
        node("MatMul", ["e", "w"]),
    ]
    model = build(nodes, {"table": rand(10, 8), "w": rand(8, 4)})
    assert [t.name for t in sparsify(model, HALF).report.tensors] == ["w"]
    both = sparsify(model, SparsifySettings(sparsity=0.5, embeddings=True))
    assert [(t.name, t.zeros_after) for t in both.report.tensors] == [("table", 40), ("w", 16)]
    patterned = sparsify(model, SparsifySettings(pattern="2:4", embeddings=True)).report.tensors
    assert (patterned[0].zeros_after, patterned[0].note) == (0, "no input channels")


def test_a_tied_embedding_is_a_weight() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "i"], ["e"]),
        helper.make_node("Transpose", ["table"], ["head"]),
        node("MatMul", ["e", "head"]),
    ]
    table = rand(10, 8)
    result = sparsify(build(nodes, {"table": table}), TWO_OF_FOUR)
    check_groups(table, value(result.model, "table"), 1, 2, 4)
    assert result.report.zeros_after == 40


# Sparse initializers


def wide(sparsity: float = 0.9, **more: Any) -> tuple[SparsifyResult, SparsifyResult]:
    model = build(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="first"),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "v"], ["y"], name="second"),
        ],
        {"w": rand(8, 32), "b": rand(32), "v": rand(32, 8, seed=1)},
        **more,
    )
    encoded = sparsify(model, SparsifySettings(sparsity=sparsity, sparse_initializers=True))
    return encoded, sparsify(model, SparsifySettings(sparsity=sparsity))


def test_sparse_initializers_load_in_onnxruntime_with_equal_outputs() -> None:
    encoded, dense = wide()
    described = onnx.ModelProto()
    described.CopyFrom(encoded.model)
    described.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8]))
    onnx.checker.check_model(described)
    assert [s.values.name for s in encoded.model.graph.sparse_initializer] == ["w", "v"]
    assert [t.name for t in encoded.model.graph.initializer] == ["b"]
    assert [t.encoding for t in encoded.report.tensors] == ["sparse", "sparse"]
    assert encoded.report.bytes_after < encoded.report.bytes_before
    assert encoded.report.bytes_after == len(encoded.model.SerializeToString())
    x = rand(3, 8, seed=5)
    np.testing.assert_array_equal(outputs(encoded.model, x)[0], outputs(dense.model, x)[0])


@pytest.mark.parametrize("layout", ["Conv", "ConvTranspose", "Gemm transB", "batched MatMul"])
def test_sparse_initializers_of_every_rank(layout: str) -> None:
    user, weight, axis = LAYOUTS[layout]
    channels = weight.shape[axis]
    x = {
        "Conv": (1, channels, 5, 5),
        "ConvTranspose": (1, channels, 5, 5),
        "batched MatMul": (3, 2, channels),
    }
    shape = x.get(layout, (2, channels))
    model = build([user], {"w": weight}, x=shape)
    encoded = sparsify(model, SparsifySettings(sparsity=0.95, sparse_initializers=True))
    dense = sparsify(model, SparsifySettings(sparsity=0.95))
    assert encoded.report.tensors[0].encoding == "sparse"
    np.testing.assert_array_equal(
        outputs(encoded.model, rand(*shape))[0], outputs(dense.model, rand(*shape))[0]
    )


def test_a_tensor_that_would_grow_stays_dense() -> None:
    encoded, dense = wide(sparsity=0.5)
    assert encoded.model.SerializeToString() == dense.model.SerializeToString()
    assert all(t.encoding == "dense" and "smaller dense" in t.note for t in encoded.report.tensors)


def test_a_file_too_old_for_sparse_tensors_keeps_its_version_and_says_so() -> None:
    encoded, dense = wide(ir=4, opset=9)
    assert encoded.model.SerializeToString() == dense.model.SerializeToString()
    assert all("IR version 6, the model has 4" in t.note for t in encoded.report.tensors)


def test_sparse_constants() -> None:
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(rand(8, 32), "w"))
    wanted = SparsifySettings(sparsity=0.9, sparse_initializers=True)
    model = build([constant, node("MatMul", ["x", "w"])], {})
    encoded = sparsify(model, wanted)
    onnx_attribute = encoded.model.graph.node[0].attribute
    assert [a.name for a in onnx_attribute] == ["sparse_value"]
    dense = sparsify(model, SparsifySettings(sparsity=0.9))
    np.testing.assert_array_equal(outputs(encoded.model, rand(2, 8))[0], outputs(dense.model, rand(2, 8))[0])
    old = sparsify(build([constant, node("MatMul", ["x", "w"])], {}, opset=10), wanted)
    assert "opset 11" in old.report.tensors[0].note
    assert old.report.tensors[0].encoding == "dense"


def test_what_onnxruntime_refuses_stays_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: onnx.ModelProto) -> str:
        return "no v" if any(s.values.name == "v" for s in model.graph.sparse_initializer) else ""

    monkeypatch.setattr(sparse_form, "_refusal", refuse)
    encoded, dense = wide()
    assert [t.encoding for t in encoded.report.tensors] == ["sparse", "dense"]
    assert encoded.report.tensors[1].note == "kept dense: onnxruntime does not load it as sparse: no v"
    assert [t.name for t in encoded.model.graph.initializer] == ["b", "v"]
    np.testing.assert_array_equal(outputs(encoded.model, rand(3, 8))[0], outputs(dense.model, rand(3, 8))[0])


def test_a_refused_constant_gets_its_values_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: onnx.ModelProto) -> str:
        return "no" if any(a.name == "sparse_value" for n in model.graph.node for a in n.attribute) else ""

    monkeypatch.setattr(sparse_form, "_refusal", refuse)
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(rand(8, 32), "w"))
    model = build([constant, node("MatMul", ["x", "w"])], {})
    refused = sparsify(model, SparsifySettings(sparsity=0.9, sparse_initializers=True))
    dense = sparsify(model, SparsifySettings(sparsity=0.9))
    assert refused.model.SerializeToString(deterministic=True) == dense.model.SerializeToString(
        deterministic=True
    )
    assert refused.report.tensors[0].encoding == "dense"


def test_what_onnxruntime_cannot_load_at_all_stays_as_it_is() -> None:
    model = linear(rand(8, 64, dtype=ml_dtypes.bfloat16), dtype=TensorProto.BFLOAT16)
    wanted = SparsifySettings(sparsity=0.95, sparse_initializers=True)
    result = sparsify(model, wanted)
    assert result.report.tensors[0].encoding == "dense"
    assert "onnxruntime loads the model neither way" in result.report.tensors[0].note
    assert (
        result.model.SerializeToString()
        == sparsify(model, SparsifySettings(sparsity=0.95)).model.SerializeToString()
    )


def test_a_weight_that_is_sparse_already_stays_so() -> None:
    encoded, _ = wide()
    for wanted in (
        SparsifySettings(sparsity=0.95),
        SparsifySettings(sparsity=0.95, sparse_initializers=True),
    ):
        again = sparsify(encoded.model, wanted)
        _, dense = wide(sparsity=0.95)
        assert [t.encoding for t in again.report.tensors] == ["sparse", "sparse"]
        assert again.report.zeros_before == encoded.report.zeros_after
        assert again.report.zeros_after == dense.report.zeros_after
        x = rand(3, 8, seed=5)
        np.testing.assert_array_equal(outputs(again.model, x)[0], outputs(dense.model, x)[0])


# Settings, exclusion, report


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({}, "got neither"),
        ({"sparsity": 0.5, "pattern": "2:4"}, "got both"),
        ({"sparsity": 0.0}, "sparsity: got 0.0"),
        ({"sparsity": 1.0}, "sparsity: got 1.0"),
        ({"sparsity": -0.5}, "sparsity: got"),
        ({"sparsity": float("nan")}, "sparsity: got nan"),
        ({"sparsity": 0.5, "scope": "layer"}, "scope: got 'layer'"),
        ({"pattern": "2:4", "scope": "global"}, "scope global does not go with"),
        *(
            ({"pattern": p}, "expected N:M")
            for p in ("", "2", "4:2", "2:2", "0:4", "-1:4", "2:4:8", "a:b", "2: 4", "1:1")
        ),
    ],
)
def test_settings_are_checked(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        SparsifySettings(**wrong)


def chosen(*exclude: str) -> list[str]:
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["c"], name="/body/conv"),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("Gemm", ["f", "fc1.weight"], ["d"], name="/head/fc1"),
        helper.make_node("Gemm", ["d", "fc2.weight"], ["y"], name="/head/fc2"),
    ]
    constants = {"conv.weight": rand(4, 8, 1, 1), "fc1.weight": rand(4, 8), "fc2.weight": rand(8, 4)}
    result = sparsify(
        build(nodes, constants, x=("n", 8, 1, 1)), SparsifySettings(sparsity=0.5, exclude=exclude)
    )
    for name in constants:
        cut = name in [t.name for t in result.report.tensors]
        assert (zeros(value(result.model, name)) > 0) == cut
    return [t.name for t in result.report.tensors]


def test_exclude() -> None:
    assert chosen() == ["conv.weight", "fc1.weight", "fc2.weight"]
    assert chosen("fc1.weight") == ["conv.weight", "fc2.weight"]
    assert chosen("/head/*") == ["conv.weight"]
    assert chosen("re:fc[12].*") == ["conv.weight"]
    assert chosen("type:Conv", "*fc2") == ["fc1.weight"]
    assert chosen("re:fc2") == ["conv.weight", "fc1.weight"]
    assert chosen("y") == ["conv.weight", "fc1.weight"], "an output names its node"
    assert chosen("type:Flatten", "f") == chosen(), "known names that are no weights do no harm"


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("fc3.weight", "nearest: .*fc1.weight"),
        ("type:Convolution", "nearest: 'Conv'"),
        ("re:(", "regular expression"),
        ("FC1*", "no node or tensor"),
        ("", "no node or tensor"),
    ],
)
def test_an_exclusion_that_matches_nothing_is_refused(pattern: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        chosen(pattern)


def test_a_shared_weight_is_excluded_by_any_of_its_users() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("MatMul", ["a", "w"], ["y"], name="second"),
    ]
    with pytest.raises(NothingToPrune, match="1 found, 1 excluded"):
        sparsify(build(nodes, {"w": rand(8, 8)}), SparsifySettings(sparsity=0.5, exclude=("second",)))


def test_a_model_without_weights() -> None:
    with pytest.raises(NothingToPrune, match="0 found"):
        sparsify(build([node("Relu", ["x"])], {}), HALF)


def test_external_data_must_be_loaded(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(linear(rand(8, 64)), path, save_as_external_data=True, location="m.data", size_threshold=0)
    with pytest.raises(ModelError, match="tensor w: its external data is not loaded"):
        sparsify(onnx.load(path, load_external_data=False), HALF)
    assert sparsify(onnx.load(path), HALF).report.zeros_after == 256


def test_report() -> None:
    weight = rand(8, 4)
    result = sparsify(linear(weight), HALF)
    told = result.report.to_dict()
    assert told["total"] == {"size": 32, "zeros_before": 0, "zeros_after": 16, "sparsity": 0.5}
    assert told["tensors"] == [
        {
            "name": "w", "size": 32, "zeros_before": 0, "zeros_after": 16, "sparsity": 0.5,
            "ungrouped": 0, "encoding": "dense", "note": "",
        }
    ]  # fmt: skip
    assert told["bytes_before"] == told["bytes_after"] == len(result.model.SerializeToString())


def test_a_tensor_with_nothing_left_is_told() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("MatMul", ["a", "v"], ["y"])]
    model = build(nodes, {"w": rand(8, 8) * 1e-6, "v": rand(8, 8)})
    tensors = sparsify(model, SparsifySettings(sparsity=0.6, scope="global")).report.tensors
    assert [t.note for t in tensors] == ["nothing is left of it", ""]


# Models of others


def shared_models() -> list[Path]:
    return sorted(SHARED.glob("*/*.onnx"))


@pytest.mark.zoo
@pytest.mark.skipif(not shared_models(), reason="../shared/models is absent")
@pytest.mark.parametrize("path", shared_models(), ids=lambda p: p.stem)
def test_models_of_others(path: Path) -> None:
    model = onnx.load(path)
    before = model.SerializeToString(deterministic=True)
    half = sparsify(model, HALF).report
    for told in half.tensors:
        assert told.zeros_after == max(told.size // 2, told.zeros_before)
    patterned = sparsify(model, SparsifySettings(pattern="1:8", sparse_initializers=True))
    for told in patterned.report.tensors:
        assert "another use" not in told.note
        assert told.zeros_after >= (told.size - told.ungrouped) // 8 * 7
        assert told.encoding == "sparse" or told.note or told.size == 0
    assert patterned.report.bytes_after <= patterned.report.bytes_before
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    onnxruntime.InferenceSession(patterned.model.SerializeToString(), options)
    assert model.SerializeToString(deterministic=True) == before
