"""Layers fitted together: gradients against differences, windows, and what the fit gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxprune.analysis.analyse import analyse
from onnxprune.analysis.replay import Removal
from onnxprune.data.moments import Evidence
from onnxprune.data.read import Calibration
from onnxprune.recovery.context import ActivationBudget, RecoveryContext, changed
from onnxprune.recovery.joint import dealt, fitted_jointly, round_size
from onnxprune.recovery.problem import Batch, LayerPart, Problem, ends_of, passes, pieced
from onnxprune.recovery.regression import linears
from onnxprune.recovery.walk import Walk
from onnxprune.recovery.windows import Window, windows

Nodes = Sequence[onnx.NodeProto]
OPSET = 17


def node(kind: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def network(
    nodes: Nodes, stored: Mapping[str, np.ndarray], shape: Sequence[int], opset: int = OPSET
) -> onnx.ModelProto:
    """Make a model from `x` [shape] to the output of the last node."""
    graph = helper.make_graph(
        list(nodes), "g", [helper.make_tensor_value_info("x", 1, list(shape))],
        [helper.make_tensor_value_info(nodes[-1].output[0], 1, None)],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in stored.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def problem_of(model: onnx.ModelProto, count: int = 2) -> tuple[Problem, dict[str, np.ndarray]]:
    """Ask a whole model for random outputs; returns the problem and its weights."""
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    feeds = [{"x": drawn(*shape, seed=i)} for i in range(count)]
    walk = Walk(model, feeds)
    layers = linears(walk)
    window = Window(0, len(walk.nodes), tuple(layers))
    piece = pieced(walk, window)
    ends = ends_of(walk, window, piece)
    batches = [
        Batch(feed, {n: drawn(*piece.shapes[n], seed=7 + i) for n in ends}) for i, feed in enumerate(feeds)
    ]
    scales = {name: 0.5 + i for i, name in enumerate(ends)}
    weights = {name: piece.stored[name] for name in window.tensors}
    parts = [LayerPart(batches, batches)]
    return Problem(layers, parts, [], scales, passes(walk, window, piece, ends)), weights


CONV = {"w": drawn(4, 3, 3, 3), "b": drawn(4), "v": drawn(2, 4, 1, 1, seed=1)}
DENSE = {"w": drawn(5, 6), "b": drawn(6), "v": drawn(6, 3, seed=1)}
IMAGE, ROWS = (2, 3, 6, 6), (4, 5)
FIRST, LAST = node("Conv", "x w b", "y", pads=[1, 1, 1, 1]), node("Conv", "z v", "out")
ACTIVATIONS = (
    "Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Softplus", "Erf", "Atan",
    "Cos",
)  # fmt: skip
CASES: dict[str, tuple[Nodes, Mapping[str, np.ndarray], Sequence[int]]] = {
    **{kind: ([FIRST, node(kind, "y", "z"), LAST], CONV, IMAGE) for kind in ACTIVATIONS},
    "Clip": (
        [FIRST, node("Clip", "y low high", "z"), LAST],
        {**CONV, "low": np.float32(-1), "high": np.float32(1.5)}, IMAGE,
    ),
    "strides, dilations, groups": (
        [node("Conv", "x w b", "y", strides=[2, 2], dilations=[2, 1], pads=[2, 1, 1, 0]),
         node("Conv", "y v", "out", group=2, strides=[2, 1], pads=[0, 1, 1, 1])],
        {**CONV, "v": drawn(6, 2, 2, 2, seed=1)}, (2, 3, 9, 8),
    ),
    "one axis": (
        [node("Conv", "x w", "y", strides=[3]), node("Conv", "y v", "out", pads=[1, 1])],
        {"w": drawn(4, 3, 2), "v": drawn(2, 4, 3, seed=1)}, (2, 3, 11),
    ),
    "residual": (
        [FIRST, node("Relu", "y", "r"), node("Conv", "r u", "t", pads=[1, 1, 1, 1]),
         node("Add", "t r", "z"), LAST],
        {**CONV, "u": drawn(4, 4, 3, 3, seed=2)}, IMAGE,
    ),
    "norm": (
        [FIRST, node("BatchNormalization", "y s h m q", "z"), LAST],
        {**CONV, "s": drawn(4), "h": drawn(4), "m": drawn(4), "q": np.ones(4, np.float32)}, IMAGE,
    ),
    "concat": (
        [FIRST, node("Conv", "x u", "t"), node("Concat", "y t", "z", axis=1), LAST],
        {**CONV, "u": drawn(2, 3, 1, 1), "v": drawn(2, 6, 1, 1, seed=1)}, IMAGE,
    ),
    "gate": (
        [FIRST, node("Conv", "x u", "t"), node("Sigmoid", "t", "g"), node("Mul", "y g", "z"), LAST],
        {**CONV, "u": drawn(1, 3, 1, 1)}, IMAGE,
    ),
    "difference, quotient": (
        [FIRST, node("Sub", "c y", "d"), node("Div", "d q", "z"), LAST],
        {**CONV, "c": drawn(4, 1, 1), "q": drawn(4, 1, 1) + 3}, IMAGE,
    ),
    "square, root, larger": (
        [FIRST, node("Pow", "y two", "p"), node("Add", "p one", "q"), node("Sqrt", "q", "r"),
         node("Max", "r one", "z"), LAST],
        {**CONV, "two": np.float32(2), "one": np.full((4, 1, 1), 1.5, np.float32)}, IMAGE,
    ),
    "chosen, divided": (
        [FIRST, node("Where", "m y c", "d"), node("Exp", "d", "e"), node("Div", "c e", "z"), LAST],
        {**CONV, "m": np.asarray([1, 0, 1, 1], bool)[:, None, None], "c": drawn(4, 1, 1)}, IMAGE,
    ),
    "slice": (
        [FIRST, node("Slice", "y a e axes s", "z"), LAST],
        {**CONV, "a": ints(0, -1), "e": ints(99, -99), "axes": ints(2, 3), "s": ints(2, -2)}, IMAGE,
    ),
    "gather": ([FIRST, node("Gather", "y i", "z", axis=1), LAST], {**CONV, "i": ints(3, 0, 0, -2)}, IMAGE),
    "pad": ([FIRST, node("Pad", "y p", "z"), LAST], {**CONV, "p": ints(0, 0, 1, 0, 0, 0, 2, 1)}, IMAGE),
    "turned": (
        [FIRST, node("Transpose", "y", "t", perm=[0, 2, 3, 1]), node("Reshape", "t s", "z"),
         node("MatMul", "z m", "out")],
        {**CONV, "s": ints(-1, 4), "m": drawn(4, 3)}, IMAGE,
    ),
    "dense": (
        [node("Gemm", "x w b", "y"), node("Tanh", "y", "z"), node("MatMul", "z v", "out")], DENSE, ROWS,
    ),
    "dense, transposed": (
        [node("Gemm", "x w b", "y", transB=1), node("Tanh", "y", "z"), node("Gemm", "z v", "out", transB=1)],
        {"w": DENSE["w"].T, "b": DENSE["b"], "v": DENSE["v"].T}, ROWS,
    ),
    "added behind": (
        [node("MatMul", "x w", "m"), node("Add", "m b", "y"), node("Tanh", "y", "z"),
         node("MatMul", "z v", "out")],
        DENSE, ROWS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_gradient_is_what_differences_say(name: str) -> None:
    problem, weights = problem_of(network(*CASES[name]))
    assert list(problem.scales) == ["out"]
    batches = problem.parts[0].batches
    weight_gradients = problem.weight_gradients(weights, batches)
    for layer, pull in zip(problem.layers, weight_gradients, strict=True):
        way = np.random.default_rng(3).normal(size=pull.shape)
        change = {
            layer.weight: layer.changed(np.zeros(weights[layer.weight].shape), way[:, : layer.features])
        }
        if layer.bias:
            change[layer.bias] = way[:, layer.features].ravel()
        ends = []
        for far in (0.002, -0.002):
            there = {n: (v + far * change.get(n, 0.0)).astype(np.float32) for n, v in weights.items()}
            ends.append(problem.error(there, batches) * len(batches) / 2)
        size = np.linalg.norm(pull) * np.linalg.norm(way)
        assert abs((ends[0] - ends[1]) / 0.004 - float((pull * way).sum())) < 3e-3 * size


def test_old_opsets_have_gradients_too() -> None:
    nodes = [FIRST, node("Clip", "y", "z", min=-1.0, max=1.5), LAST]
    problem, weights = problem_of(network(nodes, CONV, IMAGE, opset=9))
    assert all(np.abs(pull).max() > 0 for pull in problem.weight_gradients(weights, problem.parts[0].batches))


def test_what_no_gradient_passes_is_aimed_at() -> None:
    nodes = [FIRST, node("MaxPool", "y", "z", kernel_shape=[2, 2]), LAST]
    problem, weights = problem_of(network(nodes, CONV, IMAGE))
    assert list(problem.scales) == ["out", "y"]
    alone = problem_of(network([FIRST], CONV, IMAGE))[0]
    assert len(problem.weight_gradients(weights, problem.parts[0].batches)) == len(alone.layers) + 1


def chain(blocks: int, width: int = 4) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Make residual blocks of two convolutions."""
    nodes, stored, stream = [], {}, "x"
    for i in range(blocks):
        for j, source in enumerate((stream, f"r{i}")):
            stored[f"w{i}{j}"] = drawn(width, width, 3, 3, seed=2 * i + j) / 6
            nodes.append(node("Conv", f"{source} w{i}{j}", f"y{i}{j}", pads=[1, 1, 1, 1]))
            if not j:
                nodes.append(node("Relu", f"y{i}0", f"r{i}"))
        nodes += [node("Add", f"y{i}1 {stream}", f"a{i}"), node("Relu", f"a{i}", f"s{i}")]
        stream = f"s{i}"
    return nodes, stored


def test_windows_are_of_whole_blocks() -> None:
    walk = Walk(network(*chain(4), (1, 4, 5, 5)), [{"x": drawn(1, 4, 5, 5)}])
    found = windows(walk, linears(walk))
    assert [[layer.weight for layer in window.layers] for window in found] == [
        ["w00", "w01", "w10", "w11"], ["w10", "w11", "w20", "w21"], ["w20", "w21", "w30", "w31"],
    ]  # fmt: skip
    assert [walk.nodes[w.stop - 1].output[0] for w in found] == ["s1", "s2", "s3"]
    assert windows(walk, []) == []


def disturbed(scale: float) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Make a network, and one whose weights are a little off."""
    nodes, stored = chain(3)
    off = {n: v + scale * drawn(*v.shape, seed=50 + i) for i, (n, v) in enumerate(stored.items())}
    return network(nodes, stored, (4, 4, 5, 5)), network(nodes, off, (4, 4, 5, 5))


def fitted(
    models: tuple[onnx.ModelProto, onnx.ModelProto], batches: int
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    return fitted_on(
        models, Calibration(tuple({"x": drawn(4, 4, 5, 5, seed=i)} for i in range(batches)), 4 * batches)
    )


def fitted_on(
    models: tuple[onnx.ModelProto, onnx.ModelProto], data: Calibration
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    units = analyse(models[0]).units
    whole = Removal.of(units, np.zeros(units.count, bool))
    context = RecoveryContext(models[0], whole, data, Evidence(data, (), ({},)), ActivationBudget(0, 0))
    found = fitted_jointly(context, models[1])
    return found, tuple(changed(models[1], found))


def missed(models: tuple[onnx.ModelProto, onnx.ModelProto]) -> float:
    """Measure the error on inputs that nothing was fitted to."""
    ends = [Walk(model, [{"x": drawn(4, 4, 5, 5, seed=99)}]) for model in models]
    for walk in ends:
        walk.until(len(walk.nodes))
    first, second = (walk.values[0]["s2"] for walk in ends)
    return float(np.linalg.norm(second - first) / np.linalg.norm(first))


def test_weights_that_are_off_are_found_again() -> None:
    models = disturbed(0.05)
    found, names = fitted(models, 30)
    assert set(names) == {f"w{i}{j}" for i in range(3) for j in range(2)}
    assert missed((models[0], found)) < 0.3 * missed(models)


def test_a_network_without_error_stays_as_it_is() -> None:
    models = disturbed(0.0)
    assert fitted(models, 10)[1] == ()


def test_a_network_that_overflows_stays_as_it_is() -> None:
    nodes, stored = [node("Conv", "x w", "y"), node("Exp", "y", "z"), node("Conv", "z v", "s2")], {
        "w": 1e3 * drawn(4, 4, 1, 1), "v": drawn(4, 4, 1, 1, seed=1),
    }  # fmt: skip
    off = {**stored, "w": 0.9 * stored["w"]}
    models = network(nodes, stored, (4, 4, 5, 5)), network(nodes, off, (4, 4, 5, 5))
    assert fitted(models, 10)[1] == ()


def test_the_fit_is_the_same_every_time() -> None:
    models = disturbed(0.05)
    first, second = (fitted(models, 10)[0].SerializeToString() for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("size", "each", "rows", "expected"),
    [
        (1 << 20, 32, 1024, 4),  # as many as make four million outputs
        (1 << 24, 4, 4, 8),  # few rows of a sample: 32 samples
        (1 << 24, 1, 20_000, 4),  # many: 65,536 rows
        (1 << 24, 1, 307_200, 1),
        (0, 64, 0, 1 << 22),
    ],
)
def test_a_round_is_full_with_enough_samples_or_rows(size: int, each: int, rows: int, expected: int) -> None:
    assert round_size(size, each, rows) == expected


def test_batches_are_dealt_to_rounds() -> None:
    assert dealt([range(4)], 4) == [[0, 1, 2, 3]]
    assert dealt([range(5)], 2) == [[0, 3], [1, 4], [2]]
    assert dealt([range(4), range(4, 8)], 4) == [[0, 5, 2, 7], [4, 1, 6, 3]]
    assert dealt([range(4), range(4, 8)], 2) == [[0, 6], [1, 7], [4, 2], [5, 3]]
    for most in range(1, 9):
        found = dealt([range(7), range(7, 14)], most)
        assert sorted(i for part in found for i in part) == list(range(14))
        assert max(len(part) for part in found) <= most


def test_mirrored_images_are_fitted_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of images that are dark on their right only mirrored ones tell what weights do there."""
    dark = np.where(np.arange(6) < 3, 1.0, 0.0).astype(np.float32)
    data = Calibration(tuple({"x": drawn(4, 3, 6, 6, seed=i) * dark} for i in range(20)), 80)
    nodes = [
        node("Flatten", "x", "f"),
        node("Gemm", "f w b", "y"),
        node("Tanh", "y", "z"),
        node("MatMul", "z v", "s2"),
    ]
    stored = {"w": drawn(108, 6) / 10, "b": drawn(6), "v": drawn(6, 3, seed=1)}
    off = {**stored, "w": stored["w"] + 0.03 * drawn(108, 6, seed=9)}
    models = network(nodes, stored, (4, 3, 6, 6)), network(nodes, off, (4, 3, 6, 6))

    def missed() -> float:
        found = {t.name: numpy_helper.to_array(t) for t in fitted_on(models, data)[0].graph.initializer}
        return float(np.linalg.norm((found["w"] - stored["w"])[np.tile(dark == 0, 18)]))

    before = float(np.linalg.norm((off["w"] - stored["w"])[np.tile(dark == 0, 18)]))
    assert missed() < 0.95 * before
    monkeypatch.setattr("onnxprune.data.images.FEW", 0)
    assert missed() == pytest.approx(before)
