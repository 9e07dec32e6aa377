"""The counts of the report against counts made from the written file: no code of the package counts here."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune import PruneSettings
from onnxprune.analysis.analyse import inlined
from onnxprune.model.feeds import find_feeds
from tests.laws.counting import FLOATS, RECURRENT, Feeds, count_macs, recurrent_macs

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "models"
OWN = sorted((ROOT / "models").glob("*.onnx"))
OTHERS = [
    SHARED / "real" / "cifar_resnet20.onnx",  # BatchNormalization, nodes that vanish
    SHARED / "real" / "silero_vad_16k_op15.onnx",  # If
    SHARED / "real" / "squeezenet_fp32.onnx",  # IR 3: initializers are inputs
    SHARED / "real" / "ultraface_rfb320.onnx",  # depthwise Conv
    SHARED / "real" / "basic_pitch_nmp.onnx",
    SHARED / "real" / "mnist_cntk.onnx",
    SHARED / "real" / "yunet_n_dynamic.onnx",  # open height and width
    SHARED / "arch" / "c_grouped_deconv_dynamo.onnx",  # grouped ConvTranspose
    SHARED / "arch" / "c_crnn_legacy.onnx",  # bidirectional LSTM
    SHARED / "arch" / "c_gru_cls_dynamo.onnx",
    SHARED / "arch" / "c_weight_tied_iter_legacy.onnx",  # one weight, several nodes
    SHARED / "arch" / "hf_bert_legacy.onnx",  # MatMul of two run-time values
    SHARED / "arch" / "hf_llama_legacy.onnx",
    SHARED / "arch" / "v_resnet_fp16_legacy.onnx",
    SHARED / "arch" / "v_resnet_nofold_legacy.onnx",
]
FILES = [
    *(pytest.param(path, id=path.stem, marks=pytest.mark.slow) for path in OWN),
    *(pytest.param(path, id=path.stem, marks=pytest.mark.zoo) for path in OTHERS),
]
COUNTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", *RECURRENT)


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and the bodies of its If, Loop and Scan nodes, to any depth."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                if body.node:
                    yield from graphs(body)


def parameters(model: onnx.ModelProto) -> int:
    """Elements of the float tensors that some node reads: initializers and Constant nodes."""
    read = {name for graph in graphs(model.graph) for node in graph.node for name in node.input}
    total = 0
    for graph in graphs(model.graph):
        total += sum(prod(t.dims) for t in graph.initializer if t.data_type in FLOATS and t.name in read)
        results = {o.name for o in graph.output}
        for node in graph.node:
            if node.op_type == "Constant" and node.output[0] in read | results:
                for a in node.attribute:
                    total += prod(a.t.dims) if a.name == "value" and a.t.data_type in FLOATS else 0
                    total += len(a.floats) if a.name == "value_floats" else a.name == "value_float"
    return total


def inferred(model: onnx.ModelProto, feeds: Feeds) -> dict[str, tuple[int, ...]]:
    """Shapes by onnx's shape inference, with the inputs at the sizes of the feeds."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]  # what the exporter wrote would count instead of what is inferred
    for value in copy.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, np.shape(feeds.get(value.name)), strict=False):
            dim.dim_value = size
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(copy, strict_mode=True, data_prop=True).graph
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            shapes[value.name] = tuple(d.dim_value for d in dims)
    return shapes


def macs(model: onnx.ModelProto, feeds: Feeds) -> int | None:
    """Multiply-accumulates from inferred shapes; None where inference does not reach a counted node."""
    shapes = inferred(model, feeds)
    total = 0
    for node in model.graph.node:
        if node.op_type not in COUNTED:
            continue
        if not {*node.input[:2], *node.output[:1]} - {""} <= shapes.keys():
            return None
        if node.op_type in RECURRENT:
            total += recurrent_macs(*(shapes[name] for name in node.input[:3]))
            continue
        data, weight, result = (shapes[n] for n in (*node.input[:2], node.output[0]))
        if node.op_type in ("Conv", "ConvTranspose"):
            total += prod(result if node.op_type == "Conv" else data) * prod(weight[1:])
        else:
            flipped = any(a.name == "transA" and a.i for a in node.attribute)
            total += prod(result) * (data[0] if flipped else data[-1])
    return total


@pytest.mark.parametrize("path", FILES)
def test_the_report_counts_what_the_file_holds(path: Path, tmp_path: Path) -> None:
    if not path.exists():
        pytest.skip(f"{path.name} is not there")
    target = tmp_path / "pruned.onnx"
    report = onnxprune.prune(path, PruneSettings(ratio=0.5, align=1, bench=False), target).report
    for quantities, file in ((report.before, path), (report.after, target)):
        model = onnx.load(file)
        assert quantities.bytes == file.stat().st_size
        assert quantities.params == parameters(model)
        model = inlined(model).model  # a branch that is always taken counts
        feeds = find_feeds(model)
        counted = macs(model, feeds)
        assert quantities.macs == (count_macs(model, feeds) if counted is None else counted)
    assert report.after.macs < report.before.macs
    assert report.after.params < report.before.params


@pytest.mark.parametrize("path", [pytest.param(p, id=p.stem) for p in OWN])
def test_shape_inference_and_a_run_count_alike(path: Path) -> None:
    model = onnx.load(path)
    feeds = find_feeds(model)
    assert all(len(array) == 1 for array in feeds.values())
    assert macs(model, feeds) == count_macs(model, feeds)
