"""onnx-graphsurgeon reads models; nothing reaches the source."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnx import helper

from onnxprune.model.imported import to_graph
from tests.unit.model.examples import chain_model, dump, full_model


def test_the_full_model_is_a_test_at_all() -> None:
    """onnx-graphsurgeon alone loses these, or fails."""
    model = chain_model(3)
    exported = gs.export_onnx(gs.import_onnx(model))
    assert len(exported.graph.input) == 1
    with pytest.raises(UnicodeDecodeError):
        gs.import_onnx(full_model())


def test_sparse_values_read_as_dense_of_their_type() -> None:
    graph = to_graph(full_model())
    values = graph.tensors()["sp"].values
    assert values.dtype == np.float32
    assert values.shape == (3, 4)
    assert values[0, 1] == 1.5
    assert values[2, 3] == -2.0


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


def test_reading_every_value_changes_nothing() -> None:
    model = full_model()
    before = dump(model)
    graph = to_graph(model)
    for level in (graph, *graph.subgraphs(recursive=True)):
        for tensor in level.tensors().values():
            if isinstance(tensor, gs.Constant):
                _ = tensor.values
        for node in level.nodes:
            for value in node.attrs.values():
                if isinstance(value, gs.Constant):
                    _ = value.values
    assert dump(model) == before


def test_nodes_are_those_of_the_file_in_its_order() -> None:
    model = full_model()
    before = dump(model)
    nodes = to_graph(model).nodes
    assert [n.op for n in nodes] == [n.op_type for n in model.graph.node]
    assert [[t.name for t in n.inputs] for n in nodes] == [list(n.input) for n in model.graph.node]
    assert dump(model) == before


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    to_graph(full_model())
    assert capfd.readouterr() == ("", "")
