"""Weights that lost inputs and stay as they were: all of them are told, each with a reason."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import PruneSettings
from onnxprune.analysis.analyse import analyse
from onnxprune.recovery.unrepaired import CODES, NO_GAIN, SEVERAL, Unrepaired, unrepaired
from onnxprune.reports.model_page import Page, model_page
from tests.unit.recovery.examples import dense, example
from tests.unit.recovery.test_tied import siamese

node = helper.make_node


def quantised() -> onnx.ModelProto:
    """x -> Gemm -> Relu -> MatMul with a weight behind DequantizeLinear -> y."""
    nodes = [
        node("Gemm", ["x", "w", "b"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("DequantizeLinear", ["codes", "scale"], ["v"], axis=1),
        node("MatMul", ["r", "v"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    stored = {"w": (6, 12), "b": (12,), "scale": (3,)}
    codes = rng.integers(-100, 100, (12, 3)).astype(np.int8)
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 3])],
        [
            *(numpy_helper.from_array(rng.random(s).astype(np.float32), n) for n, s in stored.items()),
            numpy_helper.from_array(codes, "codes"),
        ],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_weights_are_told_until_they_are_repaired() -> None:
    given = example(5, dense())
    units, removed = given.analysis.units, given.removal.removed
    assert unrepaired(units, removed, ()) == (Unrepaired("v", NO_GAIN), Unrepaired("u", NO_GAIN))
    assert unrepaired(units, removed, {"v"}) == (Unrepaired("u", NO_GAIN),)
    assert unrepaired(units, np.zeros_like(removed), ()) == ()


def test_codes_and_weights_of_several_kinds_of_nodes_have_their_reasons() -> None:
    table = [node("ReduceSum", ["v"], ["t"]), node("Add", ["s1", "t"], ["s3"])]
    for model, name, reason in (
        (quantised(), "codes", CODES),
        (siamese(table), "v", SEVERAL),
        (siamese(), "v", NO_GAIN),
    ):
        units = analyse(model).units
        removed = np.zeros(units.count, dtype=bool)
        for group in units.groups:
            removed[group.units[:2]] = True
        assert Unrepaired(name, reason) in unrepaired(units, removed, ())


def test_the_report_of_a_run_tells_what_was_not_repaired() -> None:
    calib = {"x": np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)}
    settings = PruneSettings(ratio=0.5, align=1, bench=False, calib=calib)
    report = onnxprune.prune(quantised(), settings).report
    assert report.recovery is not None
    assert report.recovery.unrepaired == (Unrepaired("codes", CODES),)


def test_the_page_of_a_run_tells_them_by_reason() -> None:
    calib = {"x": np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)}
    settings = PruneSettings(ratio=0.5, align=1, bench=False, calib=calib)
    page = model_page(Page(onnxprune.prune(quantised(), settings).report, {})).decode()
    assert "1 weight, such as" in page
    assert CODES in page
