"""A patch: every kind of change does what it says, and all else stays byte for byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.analysis.analyse import load
from onnxprune.errors import ModelError
from onnxprune.model.patch import Patch
from tests.unit.model.examples import chain_model, dump, floats, full_model, info

SHARED = Path(__file__).resolve().parents[4] / "shared" / "models"
FILES = sorted(SHARED.glob("*/*.onnx"))


def tensor_of(model: onnx.ModelProto, name: str) -> TensorProto:
    return next(t for t in model.graph.initializer if t.name == name)


def values_of(model: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(tensor_of(model, name))


def place_of(model: onnx.ModelProto, op: str) -> int:
    return next(i for i, node in enumerate(model.graph.node) if node.op_type == op)


def rest_of(model: onnx.ModelProto, *fields: str) -> bytes:
    """The model without some fields of its graph."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for field in fields:
        copy.graph.ClearField(field)  # type: ignore[arg-type]
    return dump(copy)


# --- nothing changed


@pytest.mark.skipif(not FILES, reason="shared models are not beside the repository")
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_an_empty_patch_of_real_files_changes_no_byte(path: Path) -> None:
    model = onnx.load(path)
    before = dump(model)
    assert dump(Patch(model).written()) == before
    assert dump(model) == before


@pytest.mark.skipif(not FILES, reason="shared models are not beside the repository")
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_values_that_are_the_same_change_no_byte_of_real_files(path: Path) -> None:
    model = onnx.load(path)
    patch = Patch(model)
    for tensor in model.graph.initializer:
        patch.set_values(tensor.name, numpy_helper.to_array(tensor))
    for place, node in enumerate(model.graph.node):
        patch.change(place)
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            patch.set_constant(place, numpy_helper.to_array(node.attribute[0].t))
    assert dump(patch.written()) == dump(model)


def test_an_empty_patch_keeps_what_graphsurgeon_does_not_carry() -> None:
    model = full_model()
    before = dump(model)
    assert dump(Patch(model).written()) == before
    assert dump(model) == before


def test_loaded_models_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(dump(chain_model()))
    assert dump(Patch(load(path).model).written()) == path.read_bytes()


def test_writing_twice_gives_the_same_and_leaves_the_model() -> None:
    model = full_model()
    before = dump(model)
    patch = Patch(model)
    patch.set_values("w", np.zeros((3, 2), np.float32))
    patch.set_attribute(0, "alpha", 0.5)
    patch.set_input(0, 2, patch.initializer("bias", np.ones(2, np.float32)))
    first, second = patch.written(), patch.written()
    assert dump(first) == dump(second) != before
    assert dump(model) == before


def test_what_comes_out_is_a_copy() -> None:
    model = full_model()
    before = dump(model)
    result = Patch(model).written()
    for tensor in result.graph.initializer:
        tensor.name += "_renamed"
    for node in result.graph.node:
        del node.attribute[:]
    assert dump(model) == before


# --- values


@pytest.mark.parametrize("ir_version", [3, 8])
def test_pruned_weights_change_their_descriptions(ir_version: int) -> None:
    model = chain_model(ir_version)
    patch = Patch(model)
    patch.set_values("w1", values_of(model, "w1")[:, [0, 3]])
    patch.set_values("w2", values_of(model, "w2")[[0, 3]])
    patch.set_dims("h", ["N", 2])
    patch.set_dims("r", ("N", 2))
    assert patch.dims("h") == ("N", 2)
    assert patch.dims("nothing") is None
    result = patch.written()
    onnx.checker.check_model(result, full_check=True)
    assert [list(t.dims) for t in result.graph.initializer] == [[3, 2], [2, 2]]
    assert np.array_equal(values_of(result, "w1"), values_of(model, "w1")[:, [0, 3]])
    hidden = result.graph.value_info[0].type.tensor_type.shape.dim
    assert hidden[0].dim_param == "N"
    assert hidden[1].dim_value == 2
    assert hidden[1].denotation == "DATA_CHANNEL"
    assert [v.name for v in result.graph.input] == [v.name for v in model.graph.input]
    if ir_version == 3:
        assert [d.dim_value for d in result.graph.input[0].type.tensor_type.shape.dim] == [3, 2]
    assert result.graph.input[ir_version == 3] == model.graph.input[ir_version == 3]
    assert result.graph.output == model.graph.output


def test_only_the_tensor_changes_and_keeps_its_notes() -> None:
    model = full_model()
    patch = Patch(model)
    patch.set_values("w", values_of(model, "w") * 2)
    result = patch.written()
    assert rest_of(result, "initializer") == rest_of(model, "initializer")
    assert [t.name for t in result.graph.initializer] == [t.name for t in model.graph.initializer]
    assert tensor_of(result, "w").doc_string == "weights"
    assert tensor_of(result, "w").metadata_props == tensor_of(model, "w").metadata_props


def test_the_interface_keeps_its_dims() -> None:
    model = chain_model()
    patch = Patch(model)
    patch.set_dims("x", ["N", 7])
    patch.set_dims("y", ["N", 7])
    assert dump(patch.written()) == dump(model)


def test_a_changed_sparse_tensor_stays_sparse() -> None:
    model = full_model()
    whole = np.zeros((3, 4), np.float32)
    whole[0, 1], whole[2, 3] = 1.5, -2.0
    patch = Patch(model)
    patch.set_values("sp", whole)
    assert dump(patch.written()) == dump(model)
    patch.set_values("sp", whole[:, :2])
    written = patch.written().graph.sparse_initializer[0]
    assert list(written.dims) == [3, 2]
    assert written.values.name == "sp"
    assert numpy_helper.to_array(written.indices).tolist() == [[0, 1]]
    assert numpy_helper.to_array(written.values).tolist() == [1.5]


def test_a_constant_node_makes_other_values() -> None:
    model = full_model()
    place = place_of(model, "Constant")
    model.graph.node[place].attribute[0].doc_string = "why"
    model.graph.node[place].doc_string = "a constant"
    patch = Patch(model)
    patch.set_constant(place, np.ones(2, np.float32))
    node = patch.written().graph.node[place]
    assert [(a.name, a.doc_string) for a in node.attribute] == [("value", "why")]
    assert numpy_helper.to_array(node.attribute[0].t).tolist() == [1.0, 1.0]
    assert (node.doc_string, list(node.output)) == ("a constant", ["k"])


@pytest.mark.parametrize("literal", [{"value_ints": [1, 2, 3]}, {"value_float": 1.5}])
def test_a_literal_becomes_a_tensor(literal: dict[str, object]) -> None:
    model = chain_model()
    model.graph.node.append(helper.make_node("Constant", [], ["c"], **literal))  # type: ignore[arg-type]
    patch = Patch(model)
    patch.set_constant(3, np.asarray([4, 5]))
    attribute = patch.written().graph.node[3].attribute
    assert [(a.name, a.t.name) for a in attribute] == [("value", "c_value")]
    assert numpy_helper.to_array(attribute[0].t).tolist() == [4, 5]


@pytest.mark.parametrize("kind", ["BFLOAT16", "FLOAT8E4M3FN", "INT4", "STRING", "FLOAT16"])
def test_types_that_numpy_lacks(kind: str) -> None:
    data_type = getattr(TensorProto, kind)
    values = ["a", "b", "c"] if kind == "STRING" else [1.0, 2.0, 3.0]
    tensor = helper.make_tensor("w", data_type, [3], values)
    node = helper.make_node("Identity", ["w"], ["y"])
    output = helper.make_tensor_value_info("y", data_type, [3])
    graph = helper.make_graph([node], "g", [], [output], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    array = numpy_helper.to_array(tensor)
    patch = Patch(model)
    patch.set_values("w", array)
    assert dump(patch.written()) == dump(model)
    patch.set_values("w", array[[2, 0]])
    result = patch.written().graph.initializer[0]
    assert result.data_type == data_type
    assert numpy_helper.to_array(result).tolist() == array[[2, 0]].tolist()


def test_scalars_stay_scalars() -> None:
    model = full_model()
    patch = Patch(model)
    patch.set_values("top", np.asarray(values_of(model, "top") * 2))
    assert list(tensor_of(patch.written(), "top").dims) == []


def test_values_of_another_type_are_refused() -> None:
    patch = Patch(chain_model())
    patch.set_values("w1", np.ones((3, 4), np.int64))
    with pytest.raises(ModelError, match="'w1': got values of type INT64, expected FLOAT"):
        patch.written()


# --- nodes


@pytest.mark.parametrize("ir_version", [3, 8])
def test_removed_and_added_tensors(ir_version: int) -> None:
    model = chain_model(ir_version)
    patch = Patch(model)
    bias = patch.initializer("bias", np.ones(3, np.float32))
    patch.initializer("unread", np.ones(3, np.float32))
    patch.insert(0, before=[helper.make_node("Add", ["x", bias], ["added"], "extra")])
    patch.set_input(0, 0, "added")
    patch.set_input(2, 0, "h")
    patch.set_input(2, 1, patch.initializer("w3", np.ones((4, 2), np.float32)))
    patch.remove(1)
    result = patch.written()
    onnx.checker.check_model(result, full_check=True)
    assert [t.name for t in result.graph.initializer] == ["w1", "bias", "w3"]
    assert [v.name for v in result.graph.value_info] == ["h"]
    names = [v.name for v in result.graph.input]
    assert names == (["w1", "x", "bias", "w3"] if ir_version == 3 else ["x"])
    assert [n.name for n in result.graph.node] == ["extra", "first", "second"]
    if ir_version == 3:
        assert [d.dim_value for d in result.graph.input[3].type.tensor_type.shape.dim] == [4, 2]


def test_new_initializers_stand_in_the_order_of_their_readers() -> None:
    patch = Patch(chain_model())
    late, early = (patch.initializer(name, np.ones((4, 4), np.float32)) for name in ("late", "early"))
    patch.insert(2, after=[helper.make_node("MatMul", ["h", late], ["p"])])
    patch.insert(1, before=[helper.make_node("MatMul", ["h", early], ["q"])])
    patch.insert(1, before=[helper.make_node("MatMul", ["q", early], ["q2"])])
    result = patch.written()
    assert [t.name for t in result.graph.initializer] == ["w1", "w2", "early", "late"]
    assert [n.output[0] for n in result.graph.node] == ["h", "q", "q2", "r", "y", "p"]


def test_what_was_never_used_stays_and_what_loses_its_reader_goes() -> None:
    model = full_model()
    patch = Patch(model)
    place = place_of(model, "Gemm")
    patch.set_input(place, 1, patch.initializer("other", np.ones((3, 4), np.float32)))
    result = patch.written()
    assert [t.name for t in result.graph.initializer] == ["unused", "cond", "outer", "top", "qs", "other"]
    assert [v.name for v in result.graph.value_info] == ["z", "stale", "h"]
    assert result.graph.quantization_annotation == model.graph.quantization_annotation


def test_the_annotation_of_a_tensor_that_goes_goes_too() -> None:
    model = chain_model()
    model.graph.quantization_annotation.add(tensor_name="r")
    model.graph.quantization_annotation.add(tensor_name="h")
    patch = Patch(model)
    patch.set_input(2, 0, "h")
    patch.remove(1)
    assert [note.tensor_name for note in patch.written().graph.quantization_annotation] == ["h"]


def test_nodes_without_readers_go_and_what_only_they_read() -> None:
    model = chain_model()
    model.graph.node.insert(1, helper.make_node("Shape", ["h"], ["s"]))
    model.graph.node.insert(2, helper.make_node("Neg", ["s"], ["t"]))
    patch = Patch(model)
    patch.remove_unread({"t", "r"})
    assert [n.output[0] for n in patch.written().graph.node] == ["h", "r", "y"]


def test_a_tensor_that_a_subgraph_reads_has_a_reader() -> None:
    model = full_model()
    patch = Patch(model)
    patch.remove_unread({"h", "kk"})
    assert dump(patch.written()) == dump(model)


def test_changed_nodes_keep_the_rest() -> None:
    model = full_model()
    patch = Patch(model)
    odd = place_of(model, "Odd")
    patch.set_attribute(place_of(model, "Gemm"), "transB", 1)
    patch.set_attribute(place_of(model, "Leaky"), "alpha", 0.75)
    patch.set_attribute(odd, "none", [3, 4])
    patch.set_attribute(odd, "nan", None)
    patch.set_attribute(odd, "missing", None)
    result = {n.op_type: n for n in patch.written().graph.node}
    assert result["Gemm"].doc_string == "a node"
    assert [(a.name, a.i) for a in result["Gemm"].attribute] == [("transB", 1)]
    assert result["Leaky"].attribute[0].f == 0.75
    assert [a.name for a in result["Odd"].attribute] == ["bin", "none", "ts", "tp"]
    assert list(result["Odd"].attribute[1].ints) == [3, 4]
    assert result["Odd"].overload == "v2"


def test_an_attribute_keeps_its_note_and_an_empty_one_its_type() -> None:
    model = full_model()
    odd = place_of(model, "Odd")
    patch = Patch(model)
    patch.set_attribute(odd, "nan", 2.0)
    patch.set_attribute(odd, "none", [])
    attributes = {a.name: a for a in patch.written().graph.node[odd].attribute}
    assert (attributes["nan"].f, attributes["nan"].doc_string) == (2.0, "why")
    assert attributes["none"].type == onnx.AttributeProto.INTS
    with pytest.raises(ModelError, match="attribute 'none' cannot be written"):
        patch.set_attribute(odd, "none", object())


def test_inputs_up_to_a_new_one_are_left_out() -> None:
    patch = Patch(chain_model())
    patch.set_input(1, 3, "x")
    assert list(patch.node(1).input) == ["h", "", "", "x"]
    assert list(patch.written().graph.node[1].input) == ["h", "", "", "x"]


def test_subgraphs_and_functions_stay() -> None:
    model = full_model()
    patch = Patch(model)
    patch.set_values("outer", values_of(model, "outer") * 2)
    patch.set_input(place_of(model, "Sum"), 0, "s")
    result = patch.written()
    place = place_of(model, "If")
    assert result.graph.node[place] == model.graph.node[place]
    assert list(result.functions) == list(model.functions)


def test_new_domains_are_declared_once() -> None:
    patch = Patch(chain_model())
    patch.insert(1, before=[helper.make_node("Mine", ["h"], [f"m{i}"], domain="com.example") for i in "ab"])
    patch.insert(2, after=[helper.make_node("Neg", ["h"], ["n"], domain="ai.onnx")])
    declared = [(d.domain, d.version) for d in patch.written().opset_import]
    assert declared == [("", 9), ("com.example", 1)]


def test_inputs_are_added_behind_the_others() -> None:
    patch = Patch(chain_model(3))
    patch.set_input(0, 1, patch.initializer("w", np.ones((3, 4), np.float32)))
    patch.add_input(info("more", 3))
    assert [i.name for i in patch.written().graph.input] == ["x", "w2", "w", "more"]


# --- names


def test_fresh_names_are_nobodys() -> None:
    model = full_model()
    patch = Patch(model)
    assert [patch.fresh("w") for _ in range(3)] == ["w_1", "w_2", "w_3"]
    assert patch.fresh("gemm") == "gemm_1"
    assert patch.fresh("t_m") == "t_m_1"
    assert patch.fresh("unused") == "unused_1"
    assert [patch.fresh("new"), patch.fresh("new")] == ["new", "new_1"]


def test_weights_that_do_not_change_are_written_as_they_were() -> None:
    """Elements in typed fields stay there."""
    tensor = helper.make_tensor("w2", TensorProto.FLOAT, [4, 2], list(map(float, range(8))))
    model = chain_model()
    model.graph.initializer[1].CopyFrom(tensor)
    patch = Patch(model)
    patch.set_values("w1", floats_of("w1"))
    assert patch.written().graph.initializer[1] == tensor


def floats_of(name: str) -> np.ndarray:
    return np.array(numpy_helper.to_array(floats(name, 3, 4))) + 1
