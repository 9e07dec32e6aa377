"""Models that hold at least one of everything."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def dump(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


def floats(name: str, *shape: int) -> TensorProto:
    values = np.random.default_rng(len(name)).standard_normal(shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


def info(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def sparse_weight(name: str) -> onnx.SparseTensorProto:
    values = numpy_helper.from_array(np.array([1.5, -2.0], np.float32), name)
    indices = numpy_helper.from_array(np.array([[0, 1], [2, 3]], np.int64), name + "_indices")
    return helper.make_sparse_tensor(values, indices, [3, 4])


def branch(name: str, own: str) -> onnx.GraphProto:
    nodes = [
        helper.make_node("Mul", ["h", own], [f"{name}_m"], name=f"{name}_mul"),
        helper.make_node("Add", [f"{name}_m", "outer"], [f"{name}_y"], name=f"{name}_add"),
    ]
    graph = helper.make_graph(nodes, name, [], [info(f"{name}_y", "N", 4)], [floats(own, 4)])
    graph.value_info.append(info(f"{name}_m", "N", 4))
    graph.doc_string = f"doc of {name}"
    return graph


def function(domain: str) -> onnx.FunctionProto:
    alpha = onnx.AttributeProto(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="alpha")
    node = helper.make_node("LeakyRelu", ["a"], ["b"], name="inner")
    node.attribute.append(alpha)
    node.doc_string = "inside"
    result = helper.make_function(
        domain, "Leaky", ["a"], ["b"], [node], [helper.make_opsetid("", 17)], ["alpha"]
    )
    result.doc_string = "a function"
    result.attribute_proto.append(helper.make_attribute("beta", 0.5))
    result.metadata_props.add(key="f", value="1")
    return result


def full_graph() -> onnx.GraphProto:
    condition = numpy_helper.from_array(np.array(True), "cond")
    odd = helper.make_node("Odd", ["z"], ["q"], name="odd", domain="custom")
    odd.attribute.append(onnx.AttributeProto(name="bin", type=onnx.AttributeProto.STRING, s=b"\xff\xfe"))
    odd.attribute.append(onnx.AttributeProto(name="none", type=onnx.AttributeProto.INTS))
    odd.attribute.append(helper.make_attribute("nan", float("nan"), doc_string="why"))
    odd.attribute.append(helper.make_attribute("ts", [floats("t1", 2), floats("t2", 3)]))
    odd.attribute.append(helper.make_attribute("tp", helper.make_tensor_type_proto(1, [2])))
    odd.overload = "v2"
    odd.metadata_props.add(key="n", value="2")
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"], name="gemm", doc_string="a node"),
        helper.make_node(
            "If", ["cond"], ["z"], name="if", then_branch=branch("t", "c"), else_branch=branch("e", "c")
        ),
        helper.make_node("Constant", [], ["k"], value=floats("", 4)),
        helper.make_node("Leaky", ["k"], ["kk"], domain="local", alpha=0.25),
        helper.make_node("MatMul", ["x", "sp"], ["s"]),
        odd,
        helper.make_node("Clip", ["q", "", "top"], ["y"]),
        helper.make_node("Sum", ["kk", "s"], ["y2"], name="gemm"),
    ]
    tensors = [
        floats("unused", 2),
        floats("w", 3, 4),
        condition,
        floats("outer", 4),
        floats("top"),
        floats("qs", 1),
    ]
    tensors[1].doc_string = "weights"
    tensors[1].metadata_props.add(key="w", value="3")
    outputs = [info("y", "N", 4), info("y2", "N", 4), info("outer", 4)]
    graph = helper.make_graph(nodes, "full", [info("x", "N", 3)], outputs, tensors, doc_string="a graph")
    graph.sparse_initializer.append(sparse_weight("sp"))
    return graph


def full_model() -> onnx.ModelProto:
    """A model with at least one of everything that the IR does not carry."""
    graph = full_graph()
    graph.input[0].doc_string = "an input"
    graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    graph.input[0].type.denotation = "TENSOR"
    graph.value_info.extend([info("z", "N", 4), info("stale", 7), info("h", "N", 4), info("w", 3, 4)])
    graph.value_info[0].doc_string = "a value"
    note = graph.quantization_annotation.add(tensor_name="h")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="qs")
    graph.metadata_props.add(key="g", value="4")
    opsets = [helper.make_opsetid("local", 1), helper.make_opsetid("", 17), helper.make_opsetid("custom", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=[function("local")])
    model.producer_name, model.producer_version, model.domain = "test", "1.2", "org.test"
    model.model_version, model.doc_string = 42, "a model"
    model.metadata_props.add(key="m", value="5")
    training = model.training_info.add()
    training.algorithm.name = "step"
    training.update_binding.add(key="w", value="w2")
    return model


def chain_model(ir_version: int = 8) -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w2"], ["y"], name="second"),
    ]
    tensors = [floats("w1", 3, 4), floats("w2", 4, 2)]
    listed = (
        [info("w1", 3, 4), info("x", "N", 3), info("w2", 4, 2)] if ir_version < 4 else [info("x", "N", 3)]
    )
    graph = helper.make_graph(nodes, "chain", listed, [info("y", "N", 2)], tensors)
    graph.value_info.extend([info("h", "N", 4), info("r", "N", 4)])
    graph.value_info[0].type.tensor_type.shape.dim[1].denotation = "DATA_CHANNEL"
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=ir_version)
