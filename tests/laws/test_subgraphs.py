"""Subgraphs: labels go through the branches of an If; what is read inside of others stays whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import onnxprune
from onnxprune import PruneSettings
from onnxprune.analysis.analyse import analyse
from onnxprune.analysis.replay import replay
from onnxprune.errors import ModelError
from onnxprune.model.runtime import open_session, run
from onnxprune.model.tensors import all_nodes, subgraphs
from tests.laws.generator import generate

WEIGHTS = {"w": (8, 16), "v": (16, 16), "u": (16, 4)}


@dataclass(frozen=True)
class Case:
    """A model of `x -> w -> v -> u -> y` with a subgraph, and the shapes of its weights at half the channels.

    more: further weights; inner: weights of the first subgraph of the first node that has one.
    """

    text: str
    left: dict[str, tuple[int, ...]]
    more: dict[str, Any] = field(default_factory=dict)
    inner: dict[str, Any] = field(default_factory=dict)
    head: str = "g (float[N,8] x, bool c) => (float[N,4] y)"


def branches(first: str, second: str, n: int = 16, names: str = "qr") -> str:
    """An If on c whose branches make [N, n]."""
    bodies = zip(names, (first, second), strict=True)
    parts = [f"() => (float[N,{n}] {name}) {{ {body} }}" for name, body in bodies]
    return f"If (c) <then_branch = t {parts[0]}, else_branch = e {parts[1]}>"


LOOP = "n = Constant<value_int = 3>() t = Constant<value: tensor = bool {1}>()"
ONE_CUT = {"w": (8, 8), "v": (8, 16), "u": (16, 4)}
CASES = {
    "branches read a tensor": Case(
        f"h = MatMul(x, w) k = MatMul(h, v) b = {branches('q = Relu(k)', 'r = Neg(k)')} y = MatMul(b, u)",
        ONE_CUT,
    ),
    "a branch in a branch reads another": Case(
        "h = MatMul(x, w) h1 = Relu(h) k = MatMul(h1, v) "
        f"b = {branches('q = ' + branches('i = Add(k, p)', 'j = Abs(k)', names='ij'), 'r = Neg(k)')} "
        "y = MatMul(b, u)",
        ONE_CUT,
        {"p": (16,)},
    ),
    "a branch passes a tensor on": Case(
        f"h = MatMul(x, w) k = MatMul(h, v) b = {branches('q = Identity(k)', 'r = Identity(k)')} "
        "y = MatMul(b, u)",
        ONE_CUT,
    ),
    "a weight is used inside and outside": Case(
        "h = MatMul(x, w) k = MatMul(h, v) "
        f"b = {branches('a = MatMul(x, p) q = MatMul(a, u)', 'r = MatMul(x, o)', 4)} "
        "z = MatMul(k, u) y = Add(z, b)",
        ONE_CUT,
        {"p": (8, 16), "o": (8, 4)},
    ),
    "another name of a weight is read inside": Case(
        "o = Identity(v) h = MatMul(x, w) k = MatMul(h, p) k1 = MatMul(k, p2) "
        f"b = {branches('a = MatMul(k1, o) q = Relu(a)', 'r = MatMul(k1, v)')} y = MatMul(b, u)",
        {"w": (8, 8), "p": (8, 8), "p2": (8, 16), "v": (16, 16), "u": (16, 4)},
        {"p": (16, 16), "p2": (16, 16)},
    ),
    "weights that only a subgraph has": Case(
        f"h = MatMul(x, w) k = MatMul(h, v) b = {branches('q = MatMul(x, i)', 'r = MatMul(x, o)', 4)} "
        "z = MatMul(k, u) y = Add(z, b)",
        {"w": (8, 8), "v": (8, 8), "u": (8, 4), "o": (8, 4)},
        {"o": (8, 4)},
        {"i": (8, 4)},
    ),
    "a network inside": Case(
        "h = MatMul(x, w) k = MatMul(h, v) "
        f"b = {branches('m = MatMul(x, i) n = Relu(m) q = MatMul(n, j)', 'r = MatMul(x, o)', 4)} "
        "z = MatMul(k, u) y = Add(z, b)",
        {"w": (8, 8), "v": (8, 8), "u": (8, 4), "o": (8, 4)},
        {"o": (8, 4)},
        {"i": (8, 16), "j": (16, 4)},
    ),
    "an inner name is that of a later tensor": Case(
        "h = MatMul(x, w) "
        f"b = {branches('m = MatMul(x, p) q = Relu(m)', 'm2 = MatMul(x, p) r = Neg(m2)', 4)} "
        "k = MatMul(h, v) m = Relu(k) z = MatMul(m, u) y = Add(z, b)",
        {"w": (8, 8), "v": (8, 16), "u": (16, 4), "p": (8, 4)},
        {"p": (8, 4)},
    ),
    "the state of a loop": Case(
        f"h = MatMul(x, w) k = MatMul(h, v) {LOOP} b, s = Loop (n, t, k) <body = body "
        "(int64 i, bool ci, float[N,16] s) => (bool co, float[N,16] so, float[N,16] o) "
        "{ co = Identity(ci) so = MatMul(s, p) o = Relu(so) }> "
        "b1 = ReduceSum<keepdims = 0>(s, ax) b2 = Add(b, b1) y = MatMul(b2, u)",
        ONE_CUT | {"p": (16, 16)},
        {"p": (16, 16), "ax": np.array([0])},
        head="g (float[N,8] x) => (float[N,4] y)",
    ),
    "a loop's input has the name of an outer tensor": Case(
        f"h = MatMul(x, w) {LOOP} z = MatMul(x, p) b = Loop (n, t, z) <body = body "
        "(int64 i, bool ci, float[N,4] k) => (bool co, float[N,4] so) { co = Identity(ci) so = Add(k, z) }> "
        "k = MatMul(h, v) k1 = MatMul(k, u) y = Add(k1, b)",
        {"w": (8, 8), "v": (8, 16), "u": (16, 4), "p": (8, 4)},
        {"p": (8, 4)},
        head="g (float[N,8] x) => (float[N,4] y)",
    ),
    "a scan over rows": Case(
        "h = MatMul(x, w) k = MatMul(h, v) z = ReduceSum<keepdims = 0>(k, ax) "
        "b, s = Scan <num_scan_inputs = 1, "
        "body = body (float[16] s, float[16] e) => (float[16] so, float[16] o) "
        "{ so = Add(s, e) o = Relu(so) }> "
        "(z, k) b1 = Add(s, b) y = MatMul(b1, u)",
        ONE_CUT,
        {"ax": np.array([0])},
        head="g (float[3,8] x) => (float[3,4] y)",
    ),
    "the shape of a tensor is read inside": Case(
        f"h = MatMul(x, w) k = MatMul(h, v) s = Shape(k) "
        f"b = {branches('a = ConstantOfShape(s) q = MatMul(a, u)', 'r = MatMul(x, o)', 4)} "
        "z = MatMul(k, p) y = Add(z, b)",
        {"w": (8, 8), "v": (8, 16), "p": (16, 4), "u": (16, 4), "o": (8, 4)},
        {"p": (16, 4), "o": (8, 4)},
    ),
}


def tensor(name: str, value: Any, rng: np.random.Generator) -> onnx.TensorProto:
    drawn = rng.standard_normal(value).astype(np.float32) if isinstance(value, tuple) else value
    return numpy_helper.from_array(drawn, name)


def build(case: Case) -> onnx.ModelProto:
    text = f'<ir_version: 10, opset_import: ["" : 17]>\n{case.head} {{ {case.text} }}'
    model = parser.parse_model(text)
    rng = np.random.default_rng(0)
    model.graph.initializer.extend(tensor(n, v, rng) for n, v in (WEIGHTS | case.more).items())
    if case.inner:
        graph = next(a.g for node in model.graph.node for a in node.attribute if a.HasField("g"))
        graph.initializer.extend(tensor(n, v, rng) for n, v in case.inner.items())
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_the_boundary(name: str, seed: int) -> None:
    model = build(CASES[name])
    settings = PruneSettings(ratio=0.5, criterion="random", seed=seed, align=1, bench=False, inline="none")
    result = onnxprune.prune(model, settings)
    assert not result.report.dropped
    assert result.report.verification.status == "proved"
    found = {t.name: tuple(t.dims) for t in result.model.graph.initializer}
    assert {n: found[n] for n in CASES[name].left} == CASES[name].left
    assert inner_bytes(result.model) == inner_bytes(model)


THROUGH = {
    "branches read a tensor": {"w": (8, 8), "v": (8, 8), "u": (8, 4)},
    "a branch in a branch reads another": {"w": (8, 8), "v": (8, 8), "u": (8, 4), "p": (8,)},
    "a branch passes a tensor on": {"w": (8, 8), "v": (8, 8), "u": (8, 4)},
    "weights that only a subgraph has": {"w": (8, 8), "v": (8, 8), "u": (8, 4), "i": (8, 4)},
    "a network inside": {"i": (8, 8), "j": (8, 4), "w": (8, 8)},
}


def weights(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The dims of all initializers, those of bodies included, by name."""
    inner = [g for node in all_nodes(model) for g in subgraphs(node)]
    return {t.name: tuple(t.dims) for g in (model.graph, *inner) for t in g.initializer}


@pytest.mark.parametrize("name", THROUGH)
def test_labels_go_through_the_branches(name: str) -> None:
    model = build(CASES[name])
    result = onnxprune.prune(model, PruneSettings(ratio=0.5, align=1, bench=False))
    assert not result.report.dropped
    assert result.report.verification.status == "proved"
    found = weights(result.model)
    assert {n: found[n] for n in THROUGH[name]} == THROUGH[name]
    assert [n.op_type for n in result.model.graph.node] == [n.op_type for n in model.graph.node]
    onnx.checker.check_model(result.model)
    again = onnxprune.apply(model, result.plan.to_json())
    assert again.model.SerializeToString() == result.model.SerializeToString()
    assert onnxprune.verify(result.model, model, result.plan).matches_plan


@pytest.mark.parametrize("name", ["branches read a tensor", "a branch passes a tensor on"])
def test_dead_channels_leave_the_outputs_of_both_branches(name: str) -> None:
    model = build(CASES[name])
    for tensor in model.graph.initializer:
        if tensor.name in ("w", "v"):
            values = numpy_helper.to_array(tensor).copy()
            values[:, 8:] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    result = onnxprune.prune(model, PruneSettings(ratio=0.5, align=1, bench=False))
    assert weights(result.model) == {"w": (8, 8), "v": (8, 8), "u": (8, 4)}
    x = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    for condition in (True, False):
        feeds = {"x": x, "c": np.asarray(condition)}
        before, after = (run(open_session(m), feeds)["y"] for m in (model, result.model))
        np.testing.assert_allclose(after, before, atol=1e-5)


def test_branches_of_other_sizes_stay() -> None:
    text = "g (float[N,8] x, bool c) => (float[M,4] y)"
    pad = "q = Concat <axis = 0> (k, k)"
    body = f"h = MatMul(x, w) k = MatMul(h, v) b = {branches(pad, 'r = Neg(k)')} y = MatMul(b, u)"
    model = build(Case(body, {}, head=text))
    result = onnxprune.prune(model, PruneSettings(ratio=0.5, align=1, bench=False))
    assert weights(result.model) == {"w": (8, 8), "v": (8, 16), "u": (16, 4)}
    assert ("k", "read inside a subgraph") in [(p.tensor, p.reason) for p in result.report.pinned]


@pytest.mark.parametrize("name", ["branches read a tensor", "a branch in a branch reads another"])
def test_a_removal_of_what_a_subgraph_reads_is_refused_by_the_replay_itself(name: str) -> None:
    units = analyse(build(CASES[name])).units
    read = units.traced.tensors["k"].factors[0].labels
    for label in (read[0], read[-1]):
        removed = np.zeros(units.count, dtype=bool)
        removed[units.of[label]] = True
        replayed = replay(units.traced, units.alive(units.rows.close(removed)))
        assert [c.reason for c in replayed.conflicts] == [
            "a channel of 'k' is removed that stays: read inside a subgraph"
        ]
        assert label in replayed.conflicts[0].labels


def test_every_pin_is_checked_by_the_replay() -> None:
    for seed in range(0, 40, 8):
        units = analyse(generate(seed).model).units
        assert units.pins
        for members, pin in units.pins:
            removed = np.zeros(units.count, dtype=bool)
            removed[members[:1]] = True
            conflicts = replay(units.traced, units.alive(removed)).conflicts
            assert any(pin.node == c.node and pin.reason in c.reason for c in conflicts), f"{seed}: {pin}"


def inner_bytes(model: onnx.ModelProto) -> list[bytes]:
    graphs = [a.g for node in model.graph.node for a in node.attribute if a.HasField("g")]
    return [g.SerializeToString() for g in graphs]


def test_the_shape_of_a_pruned_tensor_may_be_an_output_and_pins_it() -> None:
    case = Case(
        "h = MatMul(x, w) s = Shape(h) h1 = Relu(h) k = MatMul(h1, v) y = MatMul(k, u)", {},
        head="g (float[N,8] x) => (float[N,4] y, int64[2] s)",
    )  # fmt: skip
    result = onnxprune.prune(build(case), PruneSettings(ratio=0.5, align=1, bench=False))
    assert [list(t.dims) for t in result.model.graph.initializer] == [[8, 16], [16, 8], [8, 4]]
    assert ("s", "graph output") in [(p.tensor, p.op) for p in result.report.pinned]


@pytest.mark.parametrize("shape", [(16, 16), (8, 4)])
def test_an_initializer_that_hides_an_outer_tensor_is_refused(shape: tuple[int, int]) -> None:
    """onnx-graphsurgeon reads the outer one in its place: with equal shapes the model would be another."""
    case = Case(
        f"h = MatMul(x, w) b = {branches('a = MatMul(h, v) q = MatMul(a, u)', 'r = MatMul(h, u)', 4)} "
        "k = MatMul(h, v) z = MatMul(k, u) y = Add(z, b)",
        {},
        inner={"v": shape},
    )
    with pytest.raises(ModelError, match="initializer 'v' has the name of a tensor outside"):
        onnxprune.inspect(build(case))
