"""Loading refuses bad files in one line; saving is atomic."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io as std_io
import os
import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

from onnxprune.errors import ModelError, OnnxPruneError, ResourceError, UsageError
from onnxprune.model import io
from onnxprune.model.io import check_output, load, save, weightless

SHARED = Path(__file__).resolve().parents[3] / "shared" / "models"
FILES = sorted(SHARED.glob("*/*.onnx"))


def floats(name: str, *shape: int) -> TensorProto:
    values = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


def info(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def build(
    nodes: list[onnx.NodeProto],
    tensors: list[TensorProto],
    shape: tuple[int | str, ...] = ("N", 3, 8, 8),
    opset: int = 17,
) -> onnx.ModelProto:
    output = onnx.ValueInfoProto(name="y")
    output.type.tensor_type.elem_type = TensorProto.FLOAT
    graph = helper.make_graph(nodes, "g", [info("x", *shape)], [output], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def conv_model() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["h"], name="conv"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["y"], name="conv2"),
    ]
    return build(nodes, [floats("w", 16, 3, 3, 3), floats("b", 16), floats("w2", 8, 16, 3, 3)])


def dump(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


def refused(given: object, *parts: str) -> str:
    """The message of the ModelError, which is one line and holds the parts."""
    with pytest.raises(ModelError) as caught:
        load(given)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    assert caught.value.exit_code == 3
    for part in parts:
        assert part in message, message
    return message


# --- what can be loaded


def test_path_bytes_and_proto_give_the_same(tmp_path: Path) -> None:
    model = conv_model()
    data = dump(model)
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    for given in (path, str(path), data, model):
        loaded = load(given)
        assert dump(loaded.model) == data
        assert loaded.nbytes == len(data)
        assert loaded.sha256 == hashlib.sha256(data).hexdigest()
        assert loaded.sha256 == loaded.sha256
        assert loaded.warnings == ()
    assert load(path).path == path
    assert dump(model) == data


@pytest.mark.zoo
@pytest.mark.skipif(not FILES, reason="shared models are not beside the repository")
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_real_files_load(path: Path) -> None:
    loaded = load(path)
    assert dump(loaded.model) == dump(onnx.load(path))
    assert loaded.nbytes == path.stat().st_size
    allowed = {"candy": "ImageScaler", "magika_v3_3": "NaN"}
    assert all(allowed[path.stem] in w for w in loaded.warnings), loaded.warnings


def test_old_opset_and_ir_version() -> None:
    model = build([helper.make_node("Relu", ["x"], ["y"])], [], opset=7)
    model.ir_version = 3
    assert load(model).warnings == ()


def test_unknown_domain_is_accepted() -> None:
    model = build([helper.make_node("Mystery", ["x"], ["y"], domain="com.example")], [])
    model.opset_import.add(domain="com.example", version=1)
    assert load(model).warnings == ()


def test_unknown_standard_operator_is_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    loaded = load(build([helper.make_node("ImageScaler", ["x"], ["y"], scale=1.0)], []))
    assert len(loaded.warnings) == 1
    assert "ImageScaler" in loaded.warnings[0]
    assert capfd.readouterr() == ("", "")


def test_output_without_shape_and_unnamed_nodes() -> None:
    model = build([helper.make_node("Relu", ["x"], ["y"])], [])
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert load(model).warnings == ()


def test_stale_descriptions_are_no_error() -> None:
    model = conv_model()
    model.graph.value_info.append(info("h", "N", 99, 6, 6))
    model.graph.output[0].CopyFrom(info("y", "N", 99, 4, 4))
    assert load(model).warnings == ()


def test_empty_tensors_that_are_no_weights() -> None:
    resize = helper.make_node("Resize", ["x", "roi", "scales"], ["y"])
    roi = numpy_helper.from_array(np.zeros(0, np.float32), "roi")
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    assert load(build([resize], [roi, scales])).warnings == ()


def test_local_functions_load() -> None:
    inner = helper.make_node("Relu", ["a"], ["b"])
    function = helper.make_function("local", "Act", ["a"], ["b"], [inner], [helper.make_opsetid("", 17)])
    model = build([helper.make_node("Act", ["x"], ["y"], domain="local")], [])
    model.opset_import.add(domain="local", version=1)
    model.functions.append(function)
    assert load(model).warnings == ()
    model.functions[0].node[0].input[0] = "ghost"
    refused(model, "ghost", "Relu")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.float32, np.float16, np.float64])
def test_not_finite_weights_are_a_warning(bad: float, kind: type) -> None:
    tensors = []
    for index in range(5):
        array = np.ones((4, 4), kind)
        array[1, 2] = bad
        tensors.append(numpy_helper.from_array(array, f"w{index}"))
    nodes = [helper.make_node("Identity", [f"w{i}"], [f"i{i}"]) for i in range(5)]
    warnings = load(build([*nodes, helper.make_node("Relu", ["x"], ["y"])], tensors)).warnings
    assert len(warnings) == 1
    assert "'w0', 'w1', 'w2' and 2 more" in warnings[0]


def test_large_finite_weights_are_no_warning() -> None:
    big = numpy_helper.from_array(np.full((8, 8), 3e38, np.float32), "w")
    typed = helper.make_tensor("t", TensorProto.FLOAT, [2], [1.0, 2.0])
    half = helper.make_tensor("h", TensorProto.FLOAT16, [2], [65504.0, 2.0])
    assert load(build([helper.make_node("Relu", ["x"], ["y"])], [big, typed, half])).warnings == ()


def test_not_finite_values_in_typed_fields() -> None:
    typed = helper.make_tensor("t", TensorProto.FLOAT, [2], [1.0, float("nan")])
    half = helper.make_tensor("h", TensorProto.BFLOAT16, [2], [float("inf"), 2.0])
    warnings = load(build([helper.make_node("Relu", ["x"], ["y"])], [typed, half])).warnings
    assert "'t', 'h'" in warnings[0]


# --- what is no model


def zipped() -> bytes:
    buffer = std_io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model.onnx", b"x")
    return buffer.getvalue()


def checkpoint() -> bytes:
    buffer = std_io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
SAFETENSORS = (
    (64).to_bytes(8, "little")
    + b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(64)
    + b"\0" * 4
)
FOREIGN = {
    "empty": (b"", "empty"),
    "random": (bytes(np.random.default_rng(5).integers(0, 256, 5000, np.uint8)), "no ONNX model"),
    "zeros": (bytes(100), "no ONNX model"),
    "html": (b"\n<!DOCTYPE html><html><body>404</body></html>", "web page"),
    "lfs": (LFS, "git lfs pull"),
    "gzip": (gzip.compress(dump(conv_model())), "gunzip"),
    "zip": (zipped(), "zip archive"),
    "torch": (checkpoint(), "PyTorch"),
    "pickle": (pickle.dumps({"a": 1}, protocol=2), "pickle"),
    "safetensors": (SAFETENSORS, "safetensors"),
    "text": (b"hello world, this is a text file\n" * 10, "no ONNX model"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(50), "TensorFlow Lite"),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("as_file", [True, False])
def test_foreign_files(name: str, as_file: bool, tmp_path: Path) -> None:
    data, part = FOREIGN[name]
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    refused(path if as_file else data, part, "m.onnx" if as_file else "the given bytes")
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_missing_file_and_folder(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx", "does not exist", "none.onnx")
    refused(tmp_path, "is a folder")
    refused(tmp_path / "none.onnx" / "x.onnx", "does not exist")


def test_truncated_files() -> None:
    data = dump(conv_model())
    refused(data[: len(data) // 2], "truncated", str(len(data) // 2))
    refused(data[:-10], "truncated")


def test_every_truncation_is_refused() -> None:
    data = dump(conv_model())
    for length in range(0, len(data), 7):
        refused(data[:length])


def test_damaged_bytes_never_escape_as_other_errors() -> None:
    data = dump(conv_model())
    rng = np.random.default_rng(1)
    outcomes = set()
    for _ in range(400):
        damaged = bytearray(data)
        for position in rng.integers(0, len(data), 3):
            damaged[position] = rng.integers(0, 256)
        outcomes.add(outcome(lambda data=bytes(damaged): load(data)))
    assert ModelError in outcomes
    assert outcomes <= {ModelError, None}


def assert_one_line(message: str) -> None:
    assert "\n" not in message


def outcome(action: Callable[[], object]) -> type[OnnxPruneError] | None:
    """The class of our error that the action ends with, None where it succeeds."""
    try:
        action()
    except OnnxPruneError as error:
        assert_one_line(str(error))
        return type(error)
    return None


# --- models that break the rules


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


# --- external data


def external(folder: Path) -> tuple[Path, bytes]:
    """A model with its weights in `w.bin`, and the bytes of the model without external data."""
    folder.mkdir(parents=True, exist_ok=True)
    model = conv_model()
    whole = dump(model)
    convert_model_to_external_data(model, location="w.bin", size_threshold=0)
    path = folder / "m.onnx"
    onnx.save(model, path)
    return path, whole


def relocate(path: Path, location: str) -> None:
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        next(e for e in tensor.external_data if e.key == "location").value = location
    path.write_bytes(dump(model))


def test_external_data_is_read(tmp_path: Path) -> None:
    path, whole = external(tmp_path)
    loaded = load(path)
    assert dump(loaded.model) == whole
    weights = b"".join(t.raw_data for t in loaded.model.graph.initializer)
    assert loaded.sha256 == hashlib.sha256(path.read_bytes() + weights).hexdigest()
    assert loaded.nbytes == path.stat().st_size + len(weights)
    relocate(path, "sub/w.bin")
    (tmp_path / "sub").mkdir()
    (tmp_path / "w.bin").rename(tmp_path / "sub" / "w.bin")
    assert dump(load(path).model) == whole


def test_external_data_missing_or_short(tmp_path: Path) -> None:
    path, _ = external(tmp_path)
    data = (tmp_path / "w.bin").read_bytes()
    (tmp_path / "w.bin").write_bytes(data[:100])
    refused(path, "'w'", "too short", "1728")
    (tmp_path / "w.bin").unlink()
    refused(path, "'w.bin'", "does not exist", "m.onnx")
    (tmp_path / "w.bin").mkdir()
    refused(path, "'w.bin'")


def test_external_data_without_a_folder(tmp_path: Path) -> None:
    path, _ = external(tmp_path)
    refused(path.read_bytes(), "w.bin", "give the path")
    model = onnx.load(path, load_external_data=False)
    before = dump(model)
    refused(model, "w.bin", "give the path")
    assert dump(model) == before


def test_external_data_with_bad_numbers(tmp_path: Path) -> None:
    for key, value, part in (
        ("offset", "-4", "'-4'"),
        ("length", "12", "got length 12"),
        ("offset", "x", "'x'"),
    ):
        path, _ = external(tmp_path)
        model = onnx.load(path, load_external_data=False)
        next(e for e in model.graph.initializer[0].external_data if e.key == key).value = value
        path.write_bytes(dump(model))
        refused(path, part)


@pytest.mark.parametrize(
    "kind", ["absolute", "parent", "nested", "dots", "symlink", "linked_folder", "empty"]
)
def test_external_data_outside_is_never_opened(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = external(tmp_path / "models")
    secret = tmp_path / "secret" / "w.bin"
    secret.parent.mkdir()
    (tmp_path / "models" / "w.bin").rename(secret)
    location = {
        "absolute": str(secret),
        "parent": "../secret/w.bin",
        "nested": "a/../../secret/w.bin",
        "dots": "a/../w.bin",
    }.get(kind, "w.bin")
    if kind == "symlink":
        (tmp_path / "models" / "w.bin").symlink_to(secret)
    if kind == "linked_folder":
        (tmp_path / "models" / "link").symlink_to(secret.parent)
        location = "link/w.bin"
    relocate(path, "" if kind == "empty" else location)
    opened = spy_on_open(monkeypatch)
    refused(path, "outside the model's folder")
    assert not any("secret" in name or "w.bin" in name for name in opened)


def spy_on_open(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    opened: list[str] = []
    real = std_io.open

    def spy(file: object, *args: object, **options: object) -> object:
        opened.append(str(file))
        return real(file, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr("io.open", spy)
    return opened


def test_the_spy_sees_what_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = external(tmp_path)
    opened = spy_on_open(monkeypatch)
    load(path)
    assert any("w.bin" in name for name in opened)


def test_cache_layout_of_hugging_face(tmp_path: Path) -> None:
    path, whole = external(tmp_path / "plain")
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    path.rename(blobs / "1111")
    (tmp_path / "plain" / "w.bin").rename(blobs / "2222")
    (snapshot / "m.onnx").symlink_to("../../blobs/1111")
    (snapshot / "w.bin").symlink_to("../../blobs/2222")
    assert dump(load(snapshot / "m.onnx").model) == whole
    (snapshot / "w.bin").unlink()
    (tmp_path / "elsewhere").write_bytes((blobs / "2222").read_bytes())
    (snapshot / "w.bin").symlink_to("../../elsewhere")
    refused(snapshot / "m.onnx", "outside the model's folder", "cp -rL")


@pytest.mark.parametrize("depth", [1, 2])
def test_cache_with_models_in_folders_of_a_snapshot(depth: int, tmp_path: Path) -> None:
    path, whole = external(tmp_path / "plain")
    blobs, inner = tmp_path / "blobs", tmp_path.joinpath("snapshots", "abc", *["onnx"] * depth)
    blobs.mkdir()
    inner.mkdir(parents=True)
    up = "../" * (depth + 2)
    for name, blob in (("m.onnx", "1111"), ("w.bin", "2222")):
        (path.parent / name).rename(blobs / blob)
        (inner / name).symlink_to(f"{up}blobs/{blob}")
    assert dump(load(inner / "m.onnx").model) == whole
    # A model that is a file of its own is no cache: its data may not be a link into one.
    (inner / "m.onnx").unlink()
    (blobs / "1111").rename(inner / "m.onnx")
    refused(inner / "m.onnx", "outside the model's folder", "cp -rL")


# --- copies without weights


def test_weightless_keeps_structure_and_small_tensors() -> None:
    model = conv_model()
    small = numpy_helper.from_array(np.array([1, -1], np.int64), "shape")
    large = numpy_helper.from_array(np.zeros(1000, np.int64), "large")
    matrix = floats("matrix", 2, 2)
    model.graph.initializer.extend([small, large, matrix])
    model.graph.node.append(helper.make_node("Constant", [], ["k"], value=floats("k", 64, 64)))
    before = dump(model)
    bare = weightless(model)
    assert dump(model) == before
    assert len(dump(bare)) < 1500
    kept = {t.name: t for t in bare.graph.initializer}
    assert kept["shape"] == small
    assert kept["b"] == model.graph.initializer[1]
    assert list(kept["w"].dims) == [16, 3, 3, 3]
    assert not kept["w"].HasField("raw_data")
    assert not kept["large"].HasField("raw_data")
    assert not kept["matrix"].HasField("raw_data")
    inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.graph.value_info}
    assert shapes["k"] == [64, 64]
    assert shapes["h"] == [0, 16, 6, 6]


# --- saving


def test_save_and_load(tmp_path: Path) -> None:
    model = conv_model()
    before = dump(model)
    path = tmp_path / "out.onnx"
    assert save(model, path) == path.stat().st_size == len(before)
    assert dump(load(path).model) == before == dump(model)
    assert os.listdir(tmp_path) == ["out.onnx"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_external_data_of_large_models(tmp_path: Path) -> None:
    model = conv_model()
    model.graph.node.insert(0, helper.make_node("Constant", [], ["k"], value=floats("k", 32, 32)))
    typed = helper.make_tensor("typed", TensorProto.FLOAT, [600], np.arange(600, dtype=np.float32))
    model.graph.initializer.append(typed)
    before = dump(model)
    path = tmp_path / "out.onnx"
    written = save(model, path, external_over=3000)
    assert dump(model) == before
    data = next(tmp_path.glob("*.data"))
    assert data.name == f"out-{hashlib.sha256(data.read_bytes()).hexdigest()[:12]}.data"
    assert written == path.stat().st_size + data.stat().st_size
    assert sorted(os.listdir(tmp_path)) == sorted([data.name, "out.onnx"])
    loaded = load(path).model
    for first, second in zip(model.graph.initializer, loaded.graph.initializer, strict=True):
        assert np.array_equal(numpy_helper.to_array(first), numpy_helper.to_array(second))
    constant = loaded.graph.node[0].attribute[0].t
    assert np.array_equal(
        numpy_helper.to_array(constant), numpy_helper.to_array(model.graph.node[0].attribute[0].t)
    )
    onnx.load(path)


def test_old_external_data_is_removed_and_foreign_files_stay(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    foreign = tmp_path / "out-0123456789ab.data"
    foreign.write_bytes(b"mine")
    model = conv_model()
    save(model, path, external_over=3000)
    first = {p.name for p in tmp_path.glob("*.data")} - {foreign.name}
    save(model, path, force=True, external_over=3000)
    assert {p.name for p in tmp_path.glob("*.data")} == first | {foreign.name}
    model.graph.initializer[0].raw_data = bytes(1728)
    save(model, path, force=True, external_over=3000)
    second = {p.name for p in tmp_path.glob("*.data")} - {foreign.name}
    assert len(second) == 1
    assert second != first
    save(model, path, force=True)
    assert sorted(os.listdir(tmp_path)) == [foreign.name, "out.onnx"]


def test_check_output(tmp_path: Path) -> None:
    source = tmp_path / "in.onnx"
    save(conv_model(), source)
    (tmp_path / "soft.onnx").symlink_to(source)
    os.link(source, tmp_path / "hard.onnx")
    other = tmp_path / "other.onnx"
    other.write_bytes(b"x")
    for name in ("in.onnx", "soft.onnx", "hard.onnx", "./in.onnx"):
        with pytest.raises(UsageError, match="is the input"):
            check_output(tmp_path / name, source, True)
    with pytest.raises(UsageError, match="--force"):
        check_output(other, source, False)
    with pytest.raises(UsageError, match="does not exist"):
        check_output(tmp_path / "none" / "o.onnx", source, True)
    with pytest.raises(UsageError, match="is a folder"):
        check_output(tmp_path, source, True)
    with pytest.raises(UsageError, match="names no file"):
        check_output("", source, True)
    with pytest.raises(UsageError, match="does not exist"):
        check_output(other / "o.onnx", source, True)
    check_output(other, source, True)
    check_output(tmp_path / "new.onnx", source, False)
    check_output(tmp_path / "new.onnx", None, False)


def test_unwritable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UsageError, match="not writable"):
        check_output(tmp_path / "o.onnx", None, False)
    with pytest.raises(UsageError, match="not writable"):
        save(conv_model(), tmp_path / "o.onnx")
    assert os.listdir(tmp_path) == []


def test_existing_output_without_force(tmp_path: Path) -> None:
    path = tmp_path / "o.onnx"
    path.write_bytes(b"precious")
    with pytest.raises(UsageError):
        save(conv_model(), path)
    assert path.read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["o.onnx"]


def failing(name: str, nth: int, code: int) -> tuple[list[int], Callable[..., object]]:
    """A stand-in for os.<name> that fails at its nth call, and the list of calls so far."""
    real, calls = getattr(os, name), []

    def stand_in(*args: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == nth:
            raise OSError(code, os.strerror(code))
        return real(*args, **options)

    return calls, stand_in


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("limit", [io.PROTOBUF_LIMIT, 3000], ids=["inline", "external"])
@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("name", ["open", "write", "fsync", "replace"])
def test_failing_system_calls_leave_nothing(
    name: str, existing: bool, limit: int, code: int, tmp_path: Path
) -> None:
    expected = ResourceError if code in (errno.ENOSPC, errno.EDQUOT) else UsageError
    failures = 0
    for nth in range(1, 12):
        folder = tmp_path / str(nth)
        folder.mkdir()
        if existing:
            old = conv_model()
            old.graph.initializer[0].raw_data = bytes(1728)
            save(old, folder / "o.onnx", external_over=limit)
        before = contents(folder)
        calls, result = save_with_failing_call(folder / "o.onnx", limit, (name, nth, code))
        if result is expected:
            assert contents(folder) == before
            failures += 1
            continue
        # The call was tolerated, failed after the output was complete, or was never reached.
        assert result is None
        assert dump(load(folder / "o.onnx").model) == dump(conv_model())
        assert not list(folder.glob(".*"))
        if calls < nth:
            break
    else:
        pytest.fail("more calls than expected")
    # A folder that cannot be opened or synced is tolerated; the file itself never is.
    assert failures >= 1


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def save_with_failing_call(
    path: Path, limit: int, failure: tuple[str, int, int]
) -> tuple[int, type[OnnxPruneError] | None]:
    """Save while one system call fails; return how often it was called and what came of it."""
    calls, stand_in = failing(*failure)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, failure[0], stand_in)
        result = outcome(lambda: save(conv_model(), path, force=True, external_over=limit))
    return len(calls), result


def test_data_shared_with_the_existing_output_survives_a_failure(tmp_path: Path) -> None:
    """The new weights equal the old ones, so both models want the same data file."""
    path = tmp_path / "o.onnx"
    save(conv_model(), path, external_over=3000)
    before = contents(tmp_path)
    _, result = save_with_failing_call(path, 3000, ("replace", 2, errno.EIO))
    assert result is UsageError
    assert contents(tmp_path) == before


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, bytes(data)[:100]))
    save(conv_model(), tmp_path / "o.onnx")
    assert dump(load(tmp_path / "o.onnx").model) == dump(conv_model())


@pytest.mark.parametrize("limit", [io.PROTOBUF_LIMIT, 3000], ids=["inline", "external"])
def test_corrupted_writes_are_noticed(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, bytes(len(data))))
    with pytest.raises(UsageError, match="read back"):
        save(conv_model(), tmp_path / "o.onnx", external_over=limit)
    assert os.listdir(tmp_path) == []


def test_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(conv_model(), tmp_path / "o.onnx", external_over=3000)
    assert os.listdir(tmp_path) == []


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target.onnx"
    target.write_bytes(b"precious")
    (tmp_path / "o.onnx").symlink_to(target)
    save(conv_model(), tmp_path / "o.onnx", force=True)
    assert target.read_bytes() == b"precious"
    assert dump(load(tmp_path / "o.onnx").model) == dump(conv_model())


def test_loading_costs_little_more_than_onnx(tmp_path: Path) -> None:
    tensors = [numpy_helper.from_array(np.ones((1024, 1024), np.float32), f"w{i}") for i in range(12)]
    nodes = [helper.make_node("MatMul", [f"t{i}", f"w{i}"], [f"t{i + 1}"]) for i in range(12)]
    graph = helper.make_graph(nodes, "g", [info("t0", 1, 1024)], [info("t12", 1, 1024)], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "m.onnx"
    path.write_bytes(dump(model))
    assert best_of(lambda: load(path)) < 3 * best_of(lambda: onnx.load(path)) + 0.02


def best_of(action: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)
