"""Quantised models: codes as parameters, exact integer operators, ranges, and real quantised models."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import PruneSettings
from onnxprune.analysis.analyse import analyse, load
from onnxprune.analysis.cost import parameters
from onnxprune.errors import NothingToPrune
from onnxprune.model.mapped import light
from onnxprune.model.runtime import open_session, run
from onnxprune.oracle.cases import cases, proof
from onnxprune.oracle.masked import masked_original
from onnxprune.oracle.prove import FAILED
from onnxprune.oracle.rounding import inexact
from onnxprune.pipeline.resolve import requested
from onnxprune.planning.decide import decide, score
from onnxprune.rewrite.apply import apply as rewritten
from onnxprune.rules.signature import Signature
from tests.laws.counting import count_params
from tests.laws.label_law import bench
from tests.laws.operator_cases import QUANTISED

ROOT = Path(__file__).parents[2]
SETTINGS = PruneSettings(ratio=0.5, align=1, bench=False)
node = helper.make_node
MICROSOFT = "com.microsoft"


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, list[int]],
    outputs: Mapping[str, list[int]],
    params: Mapping[str, Any],
    opset: int = 21,
) -> onnx.ModelProto:
    info = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, dims) for n, dims in side.items()]
        for side in (inputs, outputs)
    ]
    weights = [numpy_helper.from_array(np.asarray(a), n) for n, a in params.items()]
    graph = helper.make_graph(nodes, "small", info[0], info[1], weights)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def quantized(values: np.ndarray, axis: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Codes in int8 and their scales, for the tensor or for each index of an axis."""
    rest = None if axis is None else tuple(i for i in range(values.ndim) if i != axis)
    scale = (np.abs(values).max(axis=rest) / 127).astype(np.float32)
    wide = scale if axis is None else scale.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    return np.round(values / wide).astype(np.int8), scale


def pair(axis: int | None = 0) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Two Convs with weights behind DequantizeLinear and codes between, and the same with float weights."""
    arrays = {"w": random(8, 3, 3, 3), "v": random(4, 8, 1, 1, seed=1)}
    params: dict[str, Any] = {"s": np.float32(0.05), "z": np.int8(4), "b": random(8)}
    floats: dict[str, Any] = dict(params)
    decode = []
    for name, values in arrays.items():
        q, scale = quantized(values, axis)
        params |= {f"{name}_q": q, f"{name}_s": scale}
        decode.append(node("DequantizeLinear", [f"{name}_q", f"{name}_s"], [name], axis=axis or 0))
        floats[name] = q.astype(np.float32) * (scale.reshape(-1, 1, 1, 1) if axis == 0 else scale)
    rest = [
        node("Conv", ["x", "w", "b"], ["y"], name="first"),
        node("Relu", ["y"], ["r"]),
        node("QuantizeLinear", ["r", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("Conv", ["d", "v"], ["o"], name="second"),
    ]
    sides = ({"x": [1, 3, 6, 6]}, {"o": [1, 4, 4, 4]})
    return model_of([*decode, *rest], *sides, params), model_of(rest, *sides, floats)


def kept(model: onnx.ModelProto, name: str) -> list[int]:
    return list(next(t.dims for t in model.graph.initializer if t.name == name))


@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("criterion", ["l1", "l2", "linf", "fpgm"])
def test_codes_are_scored_by_the_numbers_that_they_stand_for(axis: int | None, criterion: str) -> None:
    settings = PruneSettings(ratio=0.5, align=1, bench=False, criterion=criterion)
    codes, floats = (onnxprune.prune(m, settings) for m in pair(axis))
    assert [g.keep for g in codes.plan.groups] == [g.keep for g in floats.plan.groups]
    assert codes.report.verification.status == "proved"


def test_scales_are_cut_with_their_channels() -> None:
    model, _ = pair(0)
    result = onnxprune.prune(model, SETTINGS)
    assert [kept(result.model, n) for n in ("w_q", "w_s", "b", "v_q", "v_s")] == [
        [4, 3, 3, 3], [4], [4], [4, 4, 1, 1], [4],
    ]  # fmt: skip
    assert kept(result.model, "z") == []


def test_codes_count_as_parameters() -> None:
    model, floats = pair(None)
    assert parameters(model) == count_params(model) == parameters(floats) + 2  # two scales
    result = onnxprune.prune(model, SETTINGS)
    assert result.report.before.params == parameters(model)
    assert result.report.after.params == count_params(result.model)


def test_a_quantised_group_is_named_by_the_nodes_that_contract() -> None:
    model, _ = pair()
    ratios = PruneSettings(ratio=0.0, ratios=(("first", 0.5),), align=1, bench=False)
    assert kept(onnxprune.prune(model, ratios).model, "w_q") == [4, 3, 3, 3]
    with pytest.raises(NothingToPrune):
        onnxprune.prune(model, PruneSettings(ratio=0.5, exclude=("type:Conv",), align=1, bench=False))


@pytest.mark.parametrize("alone", [True, False])
def test_the_zero_point_of_an_unsigned_weight_does_not_score(alone: bool) -> None:
    # Channels 0 to 3 lie close to the zero point 200; read as plain numbers they would be the largest.
    w = np.full((3, 8), 203, np.uint8)
    w[:, 4:] = 40
    decode = [node("DequantizeLinear", ["w", "s", "z"], [f"w{i}"]) for i in range(1 if alone else 2)]
    nodes = [
        *decode,
        node("MatMul", ["x", "w0"], ["y"]),
        node("MatMul", ["x", decode[-1].output[0]], ["t"]),
        node("Add", ["y", "t"], ["u"]),
        node("MatMul", ["u", "v"], ["o"]),
    ]
    params = {"w": w, "s": np.float32(0.1), "z": np.uint8(200), "v": np.ones((8, 2), np.float32)}
    result = onnxprune.prune(model_of(nodes, {"x": [4, 3]}, {"o": [4, 2]}, params), SETTINGS)
    assert list(result.plan.groups[0].keep) == [4, 5, 6, 7]


def test_two_swapped_codes_fail_the_proof() -> None:
    loaded = load(pair()[0])
    analysis = analyse(loaded.model)
    decision = decide(analysis.units, requested(analysis, SETTINGS, loaded), score(analysis.units, SETTINGS))
    pruned = rewritten(loaded.model, decision.removal)
    found = cases(analysis, {}, {}, 0)
    assert proof(analysis, pruned, decision.removal, found).status == "proved"
    tensor = next(t for t in pruned.graph.initializer if t.name == "v_q")
    values = numpy_helper.to_array(tensor)[:, [1, 0, 2, 3]]
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), "v_q"))
    assert proof(analysis, pruned, decision.removal, found).status == FAILED


def test_joined_channels_stay_groups_of_their_own() -> None:
    # The decoded inner axis of the last weight spans the join, but its channels come from two weights.
    q, scale = quantized(random(8, 2))
    nodes = [
        node("DequantizeLinear", ["q", "s"], ["t"]),
        node("Transpose", ["t"], ["turned"], perm=[1, 0]),
        node("Transpose", ["turned"], ["back"], perm=[1, 0]),
        node("MatMul", ["x", "u"], ["y"]),
        node("MatMul", ["x", "w"], ["z"]),
        node("Concat", ["y", "z"], ["j"], axis=1),
        node("MatMul", ["j", "back"], ["o"]),
    ]
    params = {"u": random(3, 4), "w": random(3, 4, seed=1), "q": q, "s": scale}
    found = onnxprune.inspect(model_of(nodes, {"x": [4, 3]}, {"o": [4, 2]}, params))
    assert sorted((g.name, g.channels) for g in found.groups) == [("u", 4), ("w", 4)]


def test_stored_codes_are_parameters_wherever_a_rule_reads_codes() -> None:
    for case in QUANTISED:
        for step in bench(case).units.traced.steps:
            if step.site.name == "node" and isinstance(step.verdict, Signature):
                held = [step.operands[place] for place in step.verdict.codes]
                assert all(o.stored.is_parameter for o in held if o is not None and o.stored), case.name


# -- the zero of codes, and ranges ---------------------------------------------------------------------------
def test_a_range_masked_with_zero_is_the_range_of_what_is_kept() -> None:
    # Zero belongs to the range by the specification, so a removed element that reads 0 never sets it.
    made = model_of(
        [node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])], {"x": ["N", "C"]}, {}, {}
    )  # fmt: skip
    made.graph.output.extend(onnx.ValueInfoProto(name=n) for n in ("q", "s", "z"))
    session = open_session(made)
    rng = np.random.default_rng(0)
    for low, high in ((-3, 3), (1, 5), (-7, -2), (0, 0)):
        x = rng.uniform(low, high, (4, 12)).astype(np.float32)
        x[:, 3] *= 100
        keep = rng.permutation(12)[:5]
        gone = np.setdiff1d(np.arange(12), keep)
        masked = x.copy()
        masked[:, gone] = 0
        whole, small = run(session, {"x": masked}), run(session, {"x": x[:, keep]})
        assert whole["s"] == small["s"]
        assert whole["z"] == small["z"]
        assert np.array_equal(whole["q"][:, keep], small["q"])
        assert (whole["q"][:, gone] == whole["z"]).all()


@pytest.mark.parametrize("largest", [0, 5])
def test_a_removed_channel_that_sets_the_range(largest: int) -> None:
    w = random(3, 8)
    w[:, largest] *= 30
    params = {"w": w, "v": quantized(random(8, 5, seed=1))[0], "vz": np.int8(3), "vs": np.float32(0.02)}
    nodes = [
        node("MatMul", ["x", "w"], ["y"]),
        node("DynamicQuantizeLinear", ["y"], ["q", "s", "z"]),
        node("MatMulInteger", ["q", "v", "z", "vz"], ["i"]),
        node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["s", "vs"], ["t"]),
        node("Mul", ["f", "t"], ["o"]),
    ]
    model = model_of(nodes, {"x": [4, 3]}, {"o": [4, 5]}, params, 17)
    for seed in range(4):
        settings = PruneSettings(ratio=0.5, align=1, bench=False, criterion="random", seed=seed)
        report = onnxprune.prune(model, settings).report
        assert report.verification.max_abs_error == 0.0, seed


def test_integers_are_equal_to_the_bit_where_no_float_sum_comes_first() -> None:
    codes, scale = quantized(random(6, 8))
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("QLinearMatMul", ["q", "s", "z", "w", "ws", "wz", "s", "z"], ["h"]),
        node("QLinearMatMul", ["h", "s", "z", "v", "ws", "wz", "s", "z"], ["k"]),
        node("DequantizeLinear", ["k", "s", "z"], ["o"]),
    ]
    params = {
        "s": np.float32(0.05), "z": np.uint8(7), "w": codes, "ws": scale, "wz": np.int8(0),
        "v": quantized(random(8, 5, seed=2))[0],
    }  # fmt: skip
    model = model_of(nodes, {"x": [4, 6]}, {"o": [4, 5]}, params)
    loaded = load(model)
    analysis = analyse(loaded.model)
    decision = decide(analysis.units, requested(analysis, SETTINGS, loaded), score(analysis.units, SETTINGS))
    masked = masked_original(light(model), decision.removal, analysis.dtypes)
    assert masked.watched == ("k",)
    assert not inexact(masked.model.model, masked.watched, analysis.dtypes)
    result = onnxprune.prune(model, SETTINGS)
    assert kept(result.model, "w") == [6, 4]
    assert result.report.verification.max_abs_error == 0.0


# -- narrow types, blocks, packed weights --------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.float8_e4m3fn])
def test_narrow_weights_keep_their_type(dtype: Any) -> None:
    w, v = (random(*s).clip(-1, 1) for s in ((3, 8), (8, 2)))
    low = 8 if dtype == ml_dtypes.uint4 else 0
    params = {
        "w": np.round(w * 7 + low).astype(dtype), "v": np.round(v * 7 + low).astype(dtype),
        "s": np.float32(0.1), "z": np.asarray(low, np.float32).astype(dtype),
    }  # fmt: skip
    nodes = [
        node("DequantizeLinear", ["w", "s", "z"], ["wf"]),
        node("DequantizeLinear", ["v", "s", "z"], ["vf"]),
        node("MatMul", ["x", "wf"], ["y"]),
        node("MatMul", ["y", "vf"], ["o"]),
    ]
    model = model_of(nodes, {"x": [4, 3]}, {"o": [4, 2]}, params)
    result = onnxprune.prune(model, SETTINGS)
    before, after = (
        {t.name: (t.data_type, tuple(t.dims)) for t in m.graph.initializer} for m in (model, result.model)
    )
    assert after["w"] == (before["w"][0], (3, 4))
    assert after["v"] == (before["v"][0], (4, 2))
    assert result.report.verification.status == "proved"


@pytest.mark.parametrize("block", [2, 4])
def test_blocks_shrink_alike(block: int) -> None:
    # Output channels of w are free; its input channels, cut with the columns of u, keep blocks of one length.
    q, _ = quantized(random(8, 6))
    params = {
        "u": random(3, 8, seed=3),
        "w": q,
        "s": np.abs(random(8 // block, 6)) / 99 + 0.01,
        "v": random(6, 2),
    }
    nodes = [
        node("DequantizeLinear", ["w", "s"], ["wf"], axis=0, block_size=block),
        node("MatMul", ["x", "u"], ["y"]),
        node("MatMul", ["y", "wf"], ["z"]),
        node("MatMul", ["z", "v"], ["o"]),
    ]
    result = onnxprune.prune(model_of(nodes, {"x": [4, 3]}, {"o": [4, 2]}, params), SETTINGS)
    assert kept(result.model, "w") == [4, 3]
    decode = result.model.graph.node[0]
    size = next(a.i for a in decode.attribute if a.name == "block_size")
    assert kept(result.model, "s") == [4 // size, 3]
    assert result.report.verification.status == "proved"


def test_blocks_of_unequal_length_are_frozen_with_a_reason() -> None:
    q, _ = quantized(random(9, 6))
    params = {"u": random(3, 9), "w": q, "s": np.full((3, 6), 0.1, np.float32), "v": random(6, 2)}
    nodes = [
        node("DequantizeLinear", ["w", "s"], ["wf"], axis=0, block_size=4),
        node("MatMul", ["x", "u"], ["y"]),
        node("MatMul", ["y", "wf"], ["o"]),
    ]
    found = onnxprune.inspect(model_of(nodes, {"x": [4, 3]}, {"o": [4, 6]}, params))
    assert not found.groups
    assert any("fixed axis of 'wf'" in p.reason for p in found.pinned)


def test_packed_weights_lose_output_channels_only() -> None:
    codes = np.random.default_rng(0).integers(0, 255, (6, 2, 8)).astype(np.uint8)
    params = {
        "u": random(3, 32), "w": codes, "s": np.abs(random(12)) / 10,
        "z": codes[:, 0, :1].copy(), "v": random(6, 2),
    }  # fmt: skip
    nodes = [
        node("MatMul", ["x", "u"], ["y"]),
        node("MatMulNBits", ["y", "w", "s", "z"], ["h"], domain=MICROSOFT, K=32, N=6, bits=4, block_size=16),
        node("MatMul", ["h", "v"], ["o"]),
    ]
    model = model_of(nodes, {"x": [4, 3]}, {"o": [4, 2]}, params)
    model.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [4, 6]))
    result = onnxprune.prune(model, SETTINGS)
    assert [kept(result.model, n) for n in ("u", "w", "s", "z", "v")] == [
        [3, 32], [3, 2, 8], [6], [3, 1], [3, 2],
    ]  # fmt: skip
    assert next(a.i for a in result.model.graph.node[1].attribute if a.name == "N") == 3
    assert any("packs its weights" in p.reason for p in result.report.pinned)
    assert result.report.verification.status == "proved"


# -- what onnxruntime's quantiser writes ---------------------------------------------------------------------
class Reader:
    """Random calibration inputs, in the way that onnxruntime's quantiser reads them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        rng = np.random.default_rng(0)
        shape = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim]
        name = model.graph.input[0].name
        self.feeds = iter([{name: rng.standard_normal(shape).astype(np.float32)} for _ in range(2)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


FORMS = {
    "pairs": {"per_channel": False}, "pairs by channel": {"per_channel": True},
    "operators": {"per_channel": False}, "operators by channel": {"per_channel": True},
    "dynamic": {},
}  # fmt: skip


@cache
def share_of(name: str) -> float:
    report = onnxprune.prune(str(ROOT / "models" / f"{name}.onnx"), SETTINGS).report
    return report.after.params / report.before.params


def quantised(name: str, form: str, folder: Path) -> Path:
    quantization = pytest.importorskip("onnxruntime.quantization")
    prepared, result = folder / "prepared.onnx", folder / "quantised.onnx"
    quantization.shape_inference.quant_pre_process(
        str(ROOT / "models" / f"{name}.onnx"), str(prepared), skip_symbolic_shape=True
    )
    if form == "dynamic":
        quantization.quantize_dynamic(str(prepared), str(result))
        return result
    kind = quantization.QuantFormat.QDQ if form.startswith("pairs") else quantization.QuantFormat.QOperator
    reader = Reader(onnx.load(prepared))
    quantization.quantize_static(str(prepared), str(result), reader, quant_format=kind, **FORMS[form])
    return result


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["digits_resnet", "digits_mobilenet", "digits_transformer"])
@pytest.mark.slow
def test_quantised_models_are_cut_as_their_float_originals(name: str, form: str, tmp_path: Path) -> None:
    report = onnxprune.prune(str(quantised(name, form, tmp_path)), SETTINGS).report
    assert report.verification.status == "proved"
    assert not report.dropped
    assert abs(report.after.params / report.before.params - share_of(name)) < 0.02
