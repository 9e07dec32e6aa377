"""What rules make of known values is what onnxruntime makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxprune.analysis.constants import evaluate
from onnxprune.model.runtime import open_session, run
from onnxprune.rules import REGISTRY
from onnxprune.rules.values import DERIVED, DYNAMIC, LIMIT, Known

OPSET = 17


def ints(*values: Any) -> np.ndarray:
    return np.asarray(values, np.int64)


def scalar(value: Any) -> np.ndarray:
    return np.asarray(value, np.int64)


A, B, GRID = ints(7, -3, 4), ints(2, 2, -3), np.arange(12).reshape(3, 4)
YES = np.asarray([True, False, True])
CASES: tuple[tuple[str, tuple[np.ndarray, ...], dict[str, Any]], ...] = (
    *((op, (A, B), {}) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Equal", "Greater", "Less")),
    *((op, (A, B), {}) for op in ("GreaterOrEqual", "LessOrEqual", "Mod")),
    ("Mod", (A, B), {"fmod": 1}), ("Max", (A, B, ints(9, -9, 0)), {}), ("Pow", (np.abs(A), np.abs(B)), {}),
    *((op, (YES, ~YES), {}) for op in ("And", "Or")), ("Not", (YES,), {}), ("Where", (YES, A, B), {}),
    *((op, (A,), {}) for op in ("Abs", "Neg", "Identity")),
    *((op, (A / np.float32(2),), {}) for op in ("Ceil", "Floor", "Reciprocal")),
    ("Sqrt", (np.float32([4, 9]),), {}),
    ("Cast", (A,), {"to": 1}), ("Cast", (np.float32([1.7, -1.7]),), {"to": 7}),
    ("Concat", (A, B), {"axis": 0}), ("Gather", (GRID, ints(2, -1)), {"axis": 1}),
    ("Slice", (GRID, ints(-1, 0), ints(-99, 3), ints(1, 0), ints(-2, 1)), {}),
    ("Slice", (A, ints(1), ints(99)), {}), ("Squeeze", (ints(5),), {}), ("Squeeze", (GRID[:1], ints(0)), {}),
    ("Unsqueeze", (A, ints(0, -1)), {}), ("Reshape", (GRID, ints(0, -1, 2)), {}), ("Flatten", (A,), {}),
    *(("Flatten", (GRID.reshape(3, 2, 2),), {"axis": axis}) for axis in (0, 1, 2, 3, -1)),
    ("Expand", (A, ints(2, 1)), {}), ("Expand", (YES, ints(2, 3)), {}), ("Transpose", (GRID,), {}),
    ("Transpose", (GRID,), {"perm": [1, 0]}), ("Range", (scalar(2), scalar(9), scalar(3)), {}),
    ("ConstantOfShape", (ints(2, 3),), {"value": numpy_helper.from_array(ints(7))}),
    *((op, (GRID,), {"axes": [0]}) for op in ("ReduceMax", "ReduceMin", "ReduceProd")),
    ("ReduceSum", (GRID, ints(1)), {"keepdims": 0}),
    ("Trilu", (GRID,), {}), ("Trilu", (GRID, scalar(-1)), {"upper": 0}), ("Trilu", (GRID, scalar(2)), {}),
    *(("OneHot", (ints(0, 2, -1, 5), scalar(3), ints(4, 7)), {"axis": axis}) for axis in (-1, 0)),
    ("OneHot", (GRID[:2], scalar(3), ints(4, 7)), {"axis": 1}),
)  # fmt: skip


def found(op: str, inputs: tuple[np.ndarray, ...], attrs: dict[str, Any], outputs: int = 1) -> Any:
    function = REGISTRY.facets("", op, OPSET).evaluate
    held = {k: _Held(v) if isinstance(v, onnx.TensorProto) else v for k, v in attrs.items()}
    return evaluate(function, held, [Known.constant(x) for x in inputs], outputs)


class _Held:
    """A tensor attribute as the graph holds it."""

    def __init__(self, tensor: onnx.TensorProto) -> None:
        self.values = numpy_helper.to_array(tensor)


def computed(op: str, inputs: tuple[np.ndarray, ...], attrs: dict[str, Any], outputs: int = 1) -> list[Any]:
    names, made = [f"x{i}" for i in range(len(inputs))], [f"y{i}" for i in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op, names, made, **attrs)], "g",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
         for n, x in zip(names, inputs, strict=True)],
        [onnx.ValueInfoProto(name=name) for name in made],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    return list(run(open_session(model), dict(zip(names, inputs, strict=True))).values())


@pytest.mark.parametrize(("op", "inputs", "attrs"), CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)])
def test_a_value_is_what_onnxruntime_computes(
    op: str, inputs: tuple[np.ndarray, ...], attrs: dict[str, Any]
) -> None:
    (known,), (wanted,) = found(op, inputs, attrs), computed(op, inputs, attrs)
    assert known.value.dtype == wanted.dtype
    np.testing.assert_array_equal(known.value, wanted)
    assert known.marks.shape == known.value.shape
    assert not known.derived


def test_every_rule_that_evaluates_is_tried() -> None:
    tried = {op for op, _, _ in CASES} | {"Split"}
    assert {row.op for row in REGISTRY.table() if row.facets.evaluate is not None} == tried


@pytest.mark.parametrize("sizes", [None, ints(1, 2)])
def test_a_split_has_a_value_for_each_part(sizes: np.ndarray | None) -> None:
    inputs = (A[:3] if sizes is not None else ints(1, 2, 3, 4), *([] if sizes is None else [sizes]))
    parts, wanted = found("Split", inputs, {}, 2), computed("Split", inputs, {}, 2)
    for part, values in zip(parts, wanted, strict=True):
        np.testing.assert_array_equal(part.value, values)
    assert found("Split", (A, ints(1, 2)), {}, 3) is None


def test_marks_move_with_the_elements_and_spread_with_the_arithmetic() -> None:
    mixed = Known(A, np.asarray([DERIVED | DYNAMIC, 0, 0], np.uint8))
    facets = {op: REGISTRY.facets("", op, OPSET).evaluate for op in ("Gather", "Mul", "ReduceProd", "Range")}
    (gathered,) = evaluate(facets["Gather"], {}, [mixed, Known.constant(ints(2, 0))]) or ()
    assert gathered.marks.tolist() == [0, 3]
    (product,) = evaluate(facets["Mul"], {}, [mixed, Known.constant(scalar(2))]) or ()
    assert product.marks.tolist() == [3, 0, 0]
    pair = Known(ints(1, 5), np.asarray([0, DERIVED], np.uint8))
    hot = REGISTRY.facets("", "OneHot", OPSET).evaluate
    (repeats,) = evaluate(hot, {}, [Known.constant(ints(1)), Known.constant(scalar(3)), pair]) or ()
    assert (repeats.value.tolist(), repeats.marks.tolist()) == ([[1, 5, 1]], [[0, DERIVED, 0]])
    (total,) = evaluate(facets["ReduceProd"], {}, [mixed]) or ()
    assert total.marks.tolist() == [3]
    (reached,) = evaluate(facets["Gather"], {}, [Known.constant(A), Known(ints(0, 2, 1), mixed.marks)]) or ()
    assert reached.marks.tolist() == [3, 3, 3]  # which elements are there is not known before


def test_what_is_large_or_data_is_not_followed() -> None:
    assert found("ConstantOfShape", (ints(LIMIT + 1),), {"value": numpy_helper.from_array(ints(7))}) is None
    assert found("ConstantOfShape", (ints(2),), {}) is None
    assert found("Expand", (np.float32([1]), ints(2, 3)), {}) is None
    assert found("Abs", (np.zeros(LIMIT + 1, np.int64),), {}) is None
    assert found("Gather", (A, ints(9)), {}) is None
    assert evaluate(None, {}, [Known.constant(A)]) is None


def test_shapes_have_values() -> None:
    shape = REGISTRY.facets("", "Shape", OPSET).from_shape
    size = REGISTRY.facets("", "Size", OPSET).from_shape
    assert shape is not None
    assert size is not None
    dims = Known.dims((2, 3, 4), np.asarray([True, False, True]))
    assert shape(dims, {"start": 1}).value.tolist() == [3, 4]
    assert shape(dims, {"start": 1}).marks.tolist() == [DERIVED, DERIVED | DYNAMIC]
    assert size(dims, {}).value == 24
    assert size(dims, {}).marks == DERIVED | DYNAMIC
