"""Loading refuses files that are no model in one line, and opens nothing outside of the folder."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

from onnxprune.analysis.analyse import load
from onnxprune.errors import ModelError
from tests.unit.model.samples import build, conv_model, dump, info, outcome, refused

SHARED = Path(__file__).resolve().parents[4] / "shared" / "models"
FILES = sorted(SHARED.glob("*/*.onnx"))


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


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x" * 600)
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
    "zip": (zipped("model.onnx"), "zip archive; unzip it and give 'model.onnx'"),
    "zip with a line break": (zipped("a\nb.onnx"), r"give 'a\nb.onnx'"),
    "zip of others": (zipped("a.txt"), "zip archive"),
    "zip that is cut": (zipped("a.txt")[:-9], "zip archive"),
    "torch": (zipped("archive/data.pkl"), "PyTorch"),
    "torch, its name further on": (zipped("m/.format_version", "m/byteorder", "m/data.pkl"), "PyTorch"),
    "torchscript": (zipped("m/code/__torch__.py", "m/constants.pkl"), "PyTorch"),
    "torch that is cut": (zipped("archive/data.pkl")[:-9], "PyTorch"),
    "keras": (zipped("config.json", "model.weights.h5"), "Keras"),
    "npz": (zipped("arr_0.npy"), "numpy arrays"),
    "npy": (b"\x93NUMPY\x01\0", "numpy array"),
    "tar": (b"model.onnx".ljust(257, b"\0") + b"ustar\0" + bytes(300), "tar archive"),
    "openvino": (b'<?xml version="1.0"?>\n<net name="m" version="11">', "OpenVINO"),
    "tensorrt": (b"ftrt" + bytes(60), "TensorRT"),
    "ort": (b"\x14\0\0\0ORTM" + bytes(50), "ORT format"),
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
    for module, real in (("io", io.open), ("os", os.open)):

        def spy(file: object, *args: object, _real: Any = real, **options: object) -> object:
            opened.append(str(file))
            return _real(file, *args, **options)

        monkeypatch.setattr(f"{module}.open", spy)
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
