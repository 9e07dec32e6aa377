"""Old files are written anew on a copy, and what was done is said."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper

import onnxprune
from onnxprune import PruneSettings
from onnxprune.analysis.analyse import load
from onnxprune.errors import ModelError
from onnxprune.model.modern import modern
from tests.unit.model.samples import conv_model, dump, floats, info

HALF = PruneSettings(ratio=0.5, align=1, bench=False)


def written(
    nodes: list[onnx.NodeProto], tensors: list[TensorProto], shape: tuple[int, ...]
) -> onnx.GraphProto:
    """A graph whose weights are inputs, too, as IR versions before 4 want it."""
    inputs = [info("x", *shape), *(info(t.name, *t.dims) for t in tensors)]
    return helper.make_graph(nodes, "old", inputs, [info("y", 1, 4)], tensors)


def dense(opset: int, **attributes: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1, **attributes),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "v", "c"], ["y"], transB=1, **attributes),
    ]
    tensors = [floats("w", 16, 6), floats("b", 16), floats("v", 4, 16), floats("c", 4)]
    graph = written(nodes, tensors, (1, 6))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3)


def of_ir_1() -> onnx.ModelProto:
    model = dense(1, broadcast=1)
    model.ir_version = 1
    del model.opset_import[:]
    for node in model.graph.node:
        for attribute in node.attribute:
            attribute.ClearField("type")
    return model


def test_a_model_of_today_is_not_copied() -> None:
    model = conv_model()
    assert modern(model) == (model, ())
    assert modern(model)[0] is model


@pytest.mark.parametrize("model", [of_ir_1(), dense(6, broadcast=1)], ids=["IR 1", "opset 6"])
def test_what_onnxruntime_does_not_run_is_converted_and_said(model: onnx.ModelProto) -> None:
    before = dump(model)
    loaded = load(model)
    assert dump(model) == before
    assert [o.version for o in loaded.model.opset_import] == [7]
    assert any("was converted to 7" in line for line in loaded.warnings)
    result = onnxprune.prune(model, HALF)
    assert result.report.verification.status == "proved"
    assert result.report.groups[0].kept == 8
    assert any("was converted to 7" in line for line in result.report.warnings)


def test_the_type_of_an_attribute_is_that_of_the_field_it_holds() -> None:
    model = conv_model()
    (pads,) = (a for a in [helper.make_attribute("pads", [1, 1, 1, 1])])
    pads.ClearField("type")
    model.graph.node[0].attribute.append(pads)
    made, said = modern(model)
    assert made.graph.node[0].attribute[0].type == AttributeProto.INTS
    assert not model.graph.node[0].attribute[0].type
    assert said == ()


def test_an_attribute_that_holds_nothing_stays_and_is_refused() -> None:
    model = conv_model()
    model.graph.node[0].attribute.add(name="pads")
    assert modern(model)[0] is model
    with pytest.raises(ModelError, match="'type' of 'attr'"):
        load(model)


def test_a_domain_that_onnxruntime_supplies_is_imported() -> None:
    model = conv_model()
    model.graph.node[1].op_type, model.graph.node[1].domain = "Gelu", "com.microsoft"
    result = onnxprune.prune(model, HALF)
    assert result.report.verification.status == "proved"
    assert any("'com.microsoft' without an opset: version 1" in line for line in result.report.warnings)
    assert {o.domain: o.version for o in result.model.opset_import} == {"": 17, "com.microsoft": 1}
    assert np.all([o.domain != "com.microsoft" for o in model.opset_import])


def test_another_domain_without_an_opset_is_refused() -> None:
    model = conv_model()
    model.graph.node[1].domain = "someone.else"
    with pytest.raises(ModelError, match="imports no opset"):
        load(model)
