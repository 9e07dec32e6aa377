"""The graph IR and back: nothing is lost, nothing reaches the source."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.model.carry import to_graph, to_model
from onnxprune.model.io import load

SHARED = Path(__file__).resolve().parents[3] / "shared" / "models"
FILES = sorted(SHARED.glob("*/*.onnx"))


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


@pytest.mark.zoo
@pytest.mark.skipif(not FILES, reason="shared models are not beside the repository")
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_round_trip_of_real_files_is_identity(path: Path) -> None:
    model = onnx.load(path)
    before = dump(model)
    assert dump(to_model(to_graph(model), model)) == before
    assert dump(model) == before


def test_round_trip_keeps_all_that_the_ir_does_not_carry() -> None:
    model = full_model()
    before = dump(model)
    assert dump(to_model(to_graph(model), model)) == before
    assert dump(model) == before


def test_the_full_model_is_a_test_at_all() -> None:
    """onnx-graphsurgeon alone loses these, or fails."""
    model = chain_model(3)
    exported = gs.export_onnx(gs.import_onnx(model))
    assert len(exported.graph.input) == 1
    with pytest.raises(UnicodeDecodeError):
        gs.import_onnx(full_model())


def test_reading_every_value_changes_nothing() -> None:
    model = full_model()
    graph = to_graph(model)
    for level in (graph, *graph.subgraphs(recursive=True)):
        for tensor in level.tensors().values():
            if isinstance(tensor, gs.Constant):
                _ = tensor.values
        for node in level.nodes:
            for value in node.attrs.values():
                if isinstance(value, gs.Constant):
                    _ = value.values
    assert dump(to_model(graph, model)) == dump(model)


def test_sparse_values_read_as_dense_of_their_type() -> None:
    graph = to_graph(full_model())
    values = graph.tensors()["sp"].values
    assert values.dtype == np.float32
    assert values.shape == (3, 4)
    assert values[0, 1] == 1.5
    assert values[2, 3] == -2.0


def test_a_changed_sparse_tensor_stays_sparse() -> None:
    model = full_model()
    graph = to_graph(model)
    tensor = graph.tensors()["sp"]
    tensor.values = tensor.values[:, :2]
    written = to_model(graph, model).graph.sparse_initializer[0]
    assert list(written.dims) == [3, 2]
    assert numpy_helper.to_array(written.indices).tolist() == [[0, 1]]
    assert numpy_helper.to_array(written.values).tolist() == [1.5]


def test_changes_of_the_graph_do_not_reach_the_source() -> None:
    model = full_model()
    before = dump(model)
    graph = to_graph(model)
    for level in (graph, *graph.subgraphs(recursive=True), *graph.functions):
        for name, tensor in level.tensors().items():
            tensor.name = name + "_renamed"
            if isinstance(tensor, gs.Constant):
                tensor.values[...] = 0
        level.import_domains.append(helper.make_opsetid("new", 1))
        for node in level.nodes:
            node.attrs.clear()
            node.name = "renamed"
    to_model(graph, model)
    assert dump(model) == before


def test_exporting_with_graphsurgeon_does_not_reach_the_source() -> None:
    model = chain_model()
    before = dump(model)
    graph = to_graph(model)
    for tensor in graph.tensors().values():
        tensor.name += "_renamed"
    graph.nodes[0].domain = "elsewhere"
    gs.export_onnx(graph)
    assert dump(model) == before


def test_to_model_does_not_change_the_graph() -> None:
    model = full_model()
    graph = to_graph(model)
    graph.tensors()["w"].name = "renamed"
    first, second = to_model(graph, model), to_model(graph, model)
    assert dump(first) == dump(second)
    assert {t.name for t in first.graph.initializer} >= {"renamed"}


@pytest.mark.parametrize("ir_version", [3, 8])
def test_pruned_weights_change_their_descriptions(ir_version: int) -> None:
    model = chain_model(ir_version)
    graph = to_graph(model)
    tensors = graph.tensors()
    tensors["w1"].values = tensors["w1"].values[:, [0, 3]]
    tensors["w2"].values = tensors["w2"].values[[0, 3]]
    tensors["h"].shape = ["N", 2]
    tensors["r"].shape = ("N", 2)
    result = to_model(graph, model)
    onnx.checker.check_model(result, full_check=True)
    assert [list(t.dims) for t in result.graph.initializer] == [[3, 2], [2, 2]]
    expected = numpy_helper.to_array(model.graph.initializer[0])[:, [0, 3]]
    assert np.array_equal(numpy_helper.to_array(result.graph.initializer[0]), expected)
    hidden = result.graph.value_info[0].type.tensor_type.shape.dim
    assert hidden[0].dim_param == "N"
    assert hidden[1].dim_value == 2
    assert hidden[1].denotation == "DATA_CHANNEL"
    assert [v.name for v in result.graph.input] == [v.name for v in model.graph.input]
    if ir_version == 3:
        assert [d.dim_value for d in result.graph.input[0].type.tensor_type.shape.dim] == [3, 2]
    assert result.graph.input[ir_version == 3] == model.graph.input[ir_version == 3]
    assert result.graph.output == model.graph.output


@pytest.mark.parametrize("ir_version", [3, 8])
def test_removed_and_added_tensors(ir_version: int) -> None:
    model = chain_model(ir_version)
    graph = to_graph(model)
    first, relu, second = graph.nodes
    bias = gs.Constant("bias", np.ones(3, np.float32))
    added = gs.Variable("added", np.float32, ["N", 3])
    extra = gs.Node("Add", "extra", inputs=[first.inputs[0], bias], outputs=[added])
    first.inputs[0] = added
    graph.nodes.insert(0, extra)
    second.inputs = [first.outputs[0], gs.Constant("w3", np.ones((4, 2), np.float32))]
    graph.nodes.remove(relu)
    relu.outputs.clear()
    result = to_model(graph, model)
    onnx.checker.check_model(result, full_check=True)
    assert [t.name for t in result.graph.initializer] == ["w1", "bias", "w3"]
    assert [v.name for v in result.graph.value_info] == ["h", "added"]
    names = [v.name for v in result.graph.input]
    assert names == (["w1", "x", "bias", "w3"] if ir_version == 3 else ["x"])
    assert [n.name for n in result.graph.node] == ["extra", "first", "second"]


def test_changed_nodes_keep_the_rest() -> None:
    model = full_model()
    graph = to_graph(model)
    nodes = {n.op: n for n in graph.nodes}
    nodes["Gemm"].attrs["transB"] = 1
    nodes["Leaky"].attrs["alpha"] = 0.75
    nodes["Odd"].attrs["none"] = [3, 4]
    del nodes["Odd"].attrs["nan"]
    result = {n.op_type: n for n in to_model(graph, model).graph.node}
    assert result["Gemm"].doc_string == "a node"
    assert [(a.name, a.i) for a in result["Gemm"].attribute] == [("transB", 1)]
    assert result["Leaky"].attribute[0].f == 0.75
    assert [a.name for a in result["Odd"].attribute] == ["bin", "none", "ts", "tp"]
    assert list(result["Odd"].attribute[1].ints) == [3, 4]
    assert result["Odd"].overload == "v2"


def test_weights_inside_subgraphs_stay_there() -> None:
    model = full_model()
    graph = to_graph(model)
    then = next(n for n in graph.nodes if n.op == "If").attrs["then_branch"]
    local = next(n for n in then.nodes if n.op == "Mul").inputs[1]
    local.values = local.values * 2
    result = to_model(graph, model)
    node = next(n for n in result.graph.node if n.op_type == "If")
    branches = {a.name: a.g for a in node.attribute}
    assert [t.name for t in branches["then_branch"].initializer] == ["c"]
    source = next(n for n in model.graph.node if n.op_type == "If").attribute
    before = {a.name: a.g for a in source}
    then_before = numpy_helper.to_array(before["then_branch"].initializer[0])
    assert np.array_equal(numpy_helper.to_array(branches["then_branch"].initializer[0]), then_before * 2)
    assert branches["else_branch"] == before["else_branch"]
    assert [t.name for t in result.graph.initializer] == [t.name for t in model.graph.initializer]


def test_extra_outputs_for_probing() -> None:
    model = chain_model()
    graph = to_graph(model)
    graph.outputs.append(graph.tensors()["r"])
    result = to_model(graph, model)
    onnx.checker.check_model(result, full_check=True)
    assert [v.name for v in result.graph.output] == ["y", "r"]
    assert [v.name for v in result.graph.value_info] == ["h", "r"]


def test_new_domains_are_declared_once() -> None:
    model = chain_model()
    graph = to_graph(model)
    graph.nodes[1].domain = "com.example"
    result = to_model(graph, model)
    assert [(d.domain, d.version) for d in result.opset_import] == [("", 9), ("com.example", 1)]


@pytest.mark.parametrize("kind", ["BFLOAT16", "FLOAT8E4M3FN", "INT4", "STRING", "FLOAT16"])
def test_types_that_numpy_lacks(kind: str) -> None:
    data_type = getattr(TensorProto, kind)
    values = ["a", "b", "c"] if kind == "STRING" else [1.0, 2.0, 3.0]
    tensor = helper.make_tensor("w", data_type, [3], values)
    node = helper.make_node("Identity", ["w"], ["y"])
    output = helper.make_tensor_value_info("y", data_type, [3])
    graph = helper.make_graph([node], "g", [], [output], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    imported = to_graph(model)
    assert dump(to_model(imported, model)) == dump(model)
    constant = imported.nodes[0].inputs[0]
    constant.values = constant.values[[2, 0]]
    result = to_model(imported, model).graph.initializer[0]
    assert result.data_type == data_type
    assert numpy_helper.to_array(result).tolist() == numpy_helper.to_array(tensor)[[2, 0]].tolist()


def test_scalars_stay_scalars() -> None:
    model = full_model()
    graph = to_graph(model)
    top = graph.tensors()["top"]
    top.values = np.asarray(top.values * 2)
    result = next(t for t in to_model(graph, model).graph.initializer if t.name == "top")
    assert list(result.dims) == []


def test_functions_changed_and_added() -> None:
    model = full_model()
    graph = to_graph(model)
    graph.functions[0].nodes[0].name = "other"
    result = to_model(graph, model)
    assert result.functions[0].node[0].name == "other"
    assert result.functions[0].node[0].doc_string == "inside"
    assert result.functions[0].doc_string == "a function"
    assert result.functions[0].metadata_props == model.functions[0].metadata_props


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    model = full_model()
    to_model(to_graph(model), model)
    assert capfd.readouterr() == ("", "")


def test_large_weights_are_carried_quickly() -> None:
    """100 MB there and back; the bar is loose, the point is that weights are not copied many times."""
    tensors = [numpy_helper.from_array(np.ones((1024, 1024), np.float32), f"w{i}") for i in range(25)]
    nodes = [helper.make_node("MatMul", [f"t{i}", f"w{i}"], [f"t{i + 1}"]) for i in range(25)]
    graph = helper.make_graph(nodes, "g", [info("t0", 1, 1024)], [info("t25", 1, 1024)], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    best = 9.0
    for _ in range(3):
        start = time.perf_counter()
        to_model(to_graph(model), model)
        best = min(best, time.perf_counter() - start)
    assert best < 0.5


def test_loaded_models_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(dump(chain_model()))
    model = load(path).model
    assert dump(to_model(to_graph(model), model)) == path.read_bytes()
