"""Models that break the rules are refused in one line that names node and tensor."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.analysis.analyse import load
from tests.unit.model.samples import build, conv_model, dump, floats, info, refused


def test_no_graph_no_opset() -> None:
    model = conv_model()
    model.ClearField("graph")
    refused(dump(model), "no graph")
    model = conv_model()
    del model.opset_import[:]
    refused(model, "no opset")
    model = conv_model()
    model.ClearField("ir_version")
    refused(model, "ir_version")


def test_newer_than_the_installed_onnx() -> None:
    model = conv_model()
    model.opset_import[0].version = 99
    refused(model, "opset 99", "upgrade onnx")
    model = conv_model()
    model.ir_version = 99
    refused(model, "IR version 99", "upgrade onnx")


def test_dangling_input_and_output() -> None:
    model = conv_model()
    model.graph.node[1].input[0] = "ghost"
    refused(model, "'ghost'", "Relu", "made by no node")
    model = conv_model()
    model.graph.output[0].name = "ghost"
    refused(model, "'ghost'", "made by no node")


def test_tensor_made_twice() -> None:
    model = conv_model()
    model.graph.node[1].output[0] = "h"
    refused(model, "'h'", "made twice", "Relu")
    model = conv_model()
    model.graph.initializer.append(floats("w", 1))
    refused(model, "'w'", "twice")
    model = conv_model()
    model.graph.node[1].output[0] = "x"
    refused(model, "'x'", "made twice")


def test_unsorted_and_cyclic() -> None:
    model = conv_model()
    first = onnx.NodeProto()
    first.CopyFrom(model.graph.node[0])
    del model.graph.node[0]
    model.graph.node.append(first)
    refused(model, "before node 'conv' (Conv) makes it", "sort the nodes")
    model = conv_model()
    model.graph.node[0].input[0] = "r"
    refused(model, "cycle", "node 'conv' (Conv)", "node making 'r' (Relu)")


def test_errors_inside_subgraphs() -> None:
    inner = helper.make_graph(
        [helper.make_node("Relu", ["ghost"], ["t"], name="deep")], "t", [], [info("t", "N", 3, 8, 8)]
    )
    condition = numpy_helper.from_array(np.array(True), "c")
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    refused(build([node], [condition]), "'ghost'", "'deep'")


def test_unknown_attribute_is_one_line() -> None:
    refused(build([helper.make_node("Relu", ["x"], ["y"], nonsense=1)], []), "nonsense", "Relu")


def test_domain_without_opset() -> None:
    refused(
        build([helper.make_node("Mystery", ["x"], ["y"], name="m", domain="com.example")], []), "com.example"
    )


@pytest.mark.parametrize(
    ("node", "tensors", "parts"),
    [
        (
            helper.make_node("Conv", ["x", "w"], ["y"], name="c"),
            [floats("w", 4, 5, 3, 3)],
            ("'c' (Conv)", "5", "3"),
        ),
        (helper.make_node("Conv", ["x", "w"], ["y"], group=3), [floats("w", 4, 1, 3, 3)], ("group 3", "4")),
        (
            helper.make_node("Conv", ["x", "w", "b"], ["y"]),
            [floats("w", 4, 3, 3, 3), floats("b", 5)],
            ("5 biases", "4"),
        ),
        (
            helper.make_node("ConvTranspose", ["x", "w"], ["y"]),
            [floats("w", 4, 5, 3, 3)],
            ("ConvTranspose", "4", "3"),
        ),
        (
            helper.make_node("BatchNormalization", ["x", "s", "s", "s", "s"], ["y"]),
            [floats("s", 4)],
            ("BatchNormalization", "has 4 channels", "has 3"),
        ),
        (
            helper.make_node("MatMul", ["x", "w"], ["y"], name="m"),
            [floats("w", 9, 4)],
            ("'m' (MatMul)", "9", "8"),
        ),
        (
            helper.make_node("Conv", ["x", "w"], ["y"]),
            [floats("w", 0, 3, 3, 3)],
            ("[0, 3, 3, 3]", "one channel"),
        ),
    ],
)
def test_weights_that_do_not_fit(
    node: onnx.NodeProto, tensors: list[TensorProto], parts: tuple[str, ...]
) -> None:
    refused(build([node], tensors), *parts)


def test_gemm_that_does_not_fit() -> None:
    node = helper.make_node("Gemm", ["x", "w"], ["y"], name="fc", transB=1)
    refused(build([node], [floats("w", 9, 4)], shape=("N", 5)), "'fc' (Gemm)", "takes 4", "has 5")
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)
    refused(build([node], [floats("w", 9, 5), floats("b", 8)], shape=("N", 5)), "8 biases", "expected 9")


def test_weights_of_a_constant_node_are_checked() -> None:
    constant = helper.make_node("Constant", [], ["w"], value=floats("w", 4, 5, 3, 3))
    conv = helper.make_node("Conv", ["x", "w"], ["y"], name="c")
    refused(build([constant, conv], []), "'c' (Conv)", "takes 5")


def test_other_shape_conflicts_are_warnings() -> None:
    loaded = load(build([helper.make_node("Add", ["x", "w"], ["y"])], [floats("w", 5)]))
    assert len(loaded.warnings) == 1
    assert "Add" in loaded.warnings[0]


def test_data_that_does_not_fit_its_dims() -> None:
    model = conv_model()
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    refused(model, "'w'", "1724", "1728")
    model = conv_model()
    model.graph.initializer[1].ClearField("raw_data")
    refused(model, "'b'", "got 0 values", "expected 16")
    model = conv_model()
    model.graph.initializer[1].dims[0] = -16
    refused(model, "'b'", "[-16]")
    model = conv_model()
    model.graph.initializer[1].data_type = 77
    refused(model, "'b'", "77")


def test_control_characters_in_names_are_escaped() -> None:
    model = conv_model()
    model.graph.node[1].input[0] = "gh\nost\x1b[31m"
    message = refused(model, "gh\\nost")
    assert message.isprintable()
