"""A contraction as a regression: features times weights are its outputs, in both ways of reading them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxprune.model.runtime import open_session, run
from onnxprune.rules import REGISTRY
from onnxprune.rules.regressions import Regression
from tests.laws.operator_cases import CASES, Fed, OperatorCase

FORMS = [c for c in CASES if REGISTRY.facets(c.domain, c.op, c.opset).regression is not None]
FITTING = [
    c for c in FORMS
    if isinstance(c.inputs[0], Fed) and isinstance(c.inputs[1], np.ndarray) and len(c.inputs) < 3
]  # fmt: skip


def form_of(case: OperatorCase) -> Regression | None:
    make = REGISTRY.facets(case.domain, case.op, case.opset).regression
    weight = case.inputs[1]
    assert make is not None
    assert isinstance(weight, np.ndarray)
    return make(weight.shape, case.attrs)


def computed(case: OperatorCase, data: np.ndarray) -> np.ndarray:
    weight = case.inputs[1]
    assert isinstance(weight, np.ndarray)
    infos = [helper.make_tensor_value_info(n, 1, v.shape) for n, v in (("x", data), ("w", weight))]
    nodes = [helper.make_node(case.op, ["x", "w"], ["y"], **case.attrs)]
    graph = helper.make_graph(nodes, "g", infos, [onnx.ValueInfoProto(name="y")])
    opsets = [helper.make_opsetid("", case.opset)]
    session = open_session(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    return np.asarray(run(session, {"x": data, "w": weight})["y"])


@pytest.mark.parametrize("case", FITTING, ids=lambda case: case.name)
def test_features_times_weights_are_outputs(case: OperatorCase) -> None:
    form, weight = form_of(case), case.inputs[1]
    if form is None:
        assert case.attrs.get("transA") or "auto_pad" in case.attrs or weight.ndim != 2
        return
    rng = np.random.default_rng(0)
    data = rng.normal(size=case.inputs[0].shape).astype(np.float32)
    result = computed(case, data)
    features, outputs = form.rows(data, [result], 10_000, rng)
    # What `changed` adds to nothing is how a change lies in the weight.
    shape = (form.groups, form.features, form.outputs // form.groups)
    order = form.changed(np.zeros(weight.shape), np.arange(np.prod(shape)).reshape(shape)).astype(int)
    flat = np.empty(np.prod(shape), np.float32)
    flat[order.ravel()] = weight.ravel()
    assert features.shape[::2] == shape[:2]
    np.testing.assert_allclose(features @ flat.reshape(shape), outputs, rtol=1e-4, atol=1e-4)
    pulled = form.pulled(data, result)
    np.testing.assert_allclose(pulled, features.transpose(0, 2, 1) @ outputs, rtol=1e-3, atol=1e-3)
    if form.groups == 1:
        _by_blocks(form, (data, result), weight)


def _by_blocks(form: Regression, run_: tuple[np.ndarray, np.ndarray], weight: np.ndarray) -> None:
    data, result = run_
    axis = form.axis % result.ndim
    front = tuple(n for i, n in enumerate(result.shape) if i != axis)
    places = np.unravel_index(np.arange(np.prod(front, dtype=int)), front)
    columns = np.concatenate([form.columns(data, places, block) for block in form.blocks(3)], axis=1)
    assert columns.shape[1] == form.features
    shape = (form.features, form.outputs)
    order = form.changed_by_blocks(np.zeros(weight.shape), np.arange(np.prod(shape)).reshape(shape))
    flat = np.empty(np.prod(shape), np.float32)
    flat[order.astype(int).ravel()] = weight.ravel()
    wanted = np.moveaxis(result, axis, -1).reshape(-1, form.outputs)
    np.testing.assert_allclose(columns @ flat.reshape(shape), wanted, rtol=1e-4, atol=1e-4)


def test_both_forms_are_tried() -> None:
    tried = {type(form_of(case)).__name__ for case in FITTING}
    assert tried == {"Dense", "Windowed", "NoneType"}
    assert any(form.groups > 1 for case in FITTING if (form := form_of(case)) is not None)
