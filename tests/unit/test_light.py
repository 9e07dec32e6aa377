"""Large models run from a file that holds their weights; the limit is lowered so that small ones do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune import PruneSettings
from onnxprune.analysis.analyse import analyse
from onnxprune.errors import UnprovedError
from onnxprune.model import mapped as module
from onnxprune.model.mapped import light
from onnxprune.model.runtime import open_session, run
from onnxprune.model.tensors import BIG
from onnxprune.oracle.prove import exposing
from scripts.build_deep_model import build
from scripts.build_large_model import build as build_large

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEAVY", 256)
    monkeypatch.setattr(module, "MUCH", 0)


def test_the_weights_of_a_small_model_are_held_in_memory() -> None:
    model = onnx.load(MODELS / "digits_resnet.onnx")
    before = model.SerializeToString()
    found = light(model)
    assert found.folder is None
    assert found.model.ByteSize() < len(before) / 10
    big = [t.name for t in model.graph.initializer if t.ByteSize() > 2 * BIG]
    assert big
    for tensor in model.graph.initializer:
        if tensor.name in found.weights:
            assert np.array_equal(found.weights[tensor.name].numpy(), numpy_helper.to_array(tensor))
    assert found.weights.keys() >= set(big)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("kind", ["BFLOAT16", "FLOAT8E4M3FN", "INT4", "STRING", "BOOL", "FLOAT16", "INT64"])
def test_types_that_onnxruntime_does_not_take_stay_in_the_model(kind: str) -> None:
    values = ["a"] * 4096 if kind == "STRING" else [1] * 4096
    tensor = onnx.helper.make_tensor("w", getattr(onnx.TensorProto, kind), [4096], values)
    graph = onnx.helper.make_graph([], "g", [], [], [tensor])
    found = light(onnx.helper.make_model(graph))
    taken = kind in ("BOOL", "FLOAT16", "INT64")
    assert (found.model.graph.initializer[0] == tensor) != taken
    assert list(found.weights) == (["w"] if taken else [])


@pytest.mark.usefixtures("small_limits")
def test_a_light_model_refers_to_its_weights_and_runs() -> None:
    model = onnx.load(MODELS / "digits_resnet.onnx")
    before = model.SerializeToString()
    found = light(model)
    assert found.folder is not None
    folder = Path(found.folder.name)
    assert found.model.ByteSize() < len(before) / 10
    for tensor in found.model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            own = next(t for t in model.graph.initializer if t.name == tensor.name)
            loaded = numpy_helper.to_array(tensor, base_dir=str(folder))
            assert np.array_equal(loaded, numpy_helper.to_array(own))
    feeds = {"input": np.random.default_rng(0).standard_normal((2, 1, 16, 16)).astype(np.float32)}
    name = next(o.name for o in model.graph.output)
    for optimised in (False, True):
        plain = module.MappedModel(model)
        wanted, got = (run(open_session(m, optimised), feeds)[name] for m in (plain, found))
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    exposed = exposing(found, [model.graph.node[0].output[0]])
    assert exposed.folder is found.folder
    assert list(run(open_session(exposed), feeds)) == [model.graph.node[0].output[0]]
    assert model.SerializeToString() == before
    del found, exposed
    assert not folder.exists()


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("name", ["digits_resnet", "digits_transformer"])
def test_the_proof_is_the_same_from_a_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = PruneSettings(ratio=0.5, align=4, bench=False)
    found = onnxprune.prune(MODELS / f"{name}.onnx", settings)
    monkeypatch.undo()
    plain = onnxprune.prune(MODELS / f"{name}.onnx", settings)
    assert found.report.verification.status == "proved"
    assert found.model == plain.model


@pytest.mark.usefixtures("small_limits")
def test_a_wrong_weight_is_noticed_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxprune.pipeline import attempt as attempting

    real = attempting.rewritten

    def wrong(*args: object) -> onnx.ModelProto:
        model = real(*args)  # type: ignore[arg-type]
        tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
        values = numpy_helper.to_array(tensor)[::-1].copy()
        tensor.raw_data = values.tobytes()
        return model

    monkeypatch.setattr(attempting, "rewritten", wrong)
    with pytest.raises(UnprovedError):
        onnxprune.prune(MODELS / "digits_resnet.onnx", PruneSettings(ratio=0.5, bench=False))


def test_the_model_for_measurements_is_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.build_large_model.WIDTH", 32)
    monkeypatch.setattr("scripts.build_large_model.HIDDEN", 64)
    result = onnxprune.prune(build_large(tmp_path, 3e-5), PruneSettings(ratio=0.5, align=1, bench=False))
    assert result.report.verification.status == "proved"
    assert result.report.after.params < 0.35 * result.report.before.params


def test_heavy_weights_are_not_kept_by_the_analysis() -> None:
    model = build(1)
    analysis = analyse(model)
    stored = analysis.units.traced.network.stored["w0"]
    assert stored.values is stored.values
    big = numpy_helper.from_array(np.zeros((16, 1 << 15), np.float32), "w0")
    model.graph.initializer[0].CopyFrom(big)
    del model.graph.node[1:]
    model.graph.output[0].name = model.graph.node[0].output[0]
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 1 << 15
    stored = analyse(model).units.traced.network.stored["w0"]
    assert stored.values is not stored.values
    assert np.array_equal(stored.values, stored.values)
