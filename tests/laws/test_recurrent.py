"""Recurrent layers in whole models: what is removed, what is pinned, and that the oracle would notice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import PruneSettings
from onnxprune.analysis.analyse import analyse
from onnxprune.analysis.cost import macs
from onnxprune.errors import NothingToPrune
from onnxprune.model.feeds import find_feeds
from tests.laws.counting import count_macs, count_params
from tests.laws.mutants import HOLE, Arena

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
SEQ, BATCH, INNER, HIDDEN = 5, 2, 6, 8


@dataclass
class Draft:
    """A model under construction: x [5, batch, 6], and parameters drawn at random."""

    params: dict[str, np.ndarray] = field(default_factory=dict)
    nodes: list[NodeProto] = field(default_factory=list)
    inputs: dict[str, Sequence[int | str]] = field(default_factory=lambda: {"x": [SEQ, "batch", INNER]})

    def drawn(self, name: str, *shape: int) -> str:
        rng = np.random.default_rng(len(self.params))
        self.params[name] = (0.5 * rng.standard_normal(shape)).astype(np.float32)
        return name

    def ints(self, name: str, values: Any) -> str:
        self.params[name] = np.asarray(values, np.int64)
        return name

    def node(self, op: str, inputs: Sequence[str], *outputs: str, **attrs: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, outputs, name=outputs[0], **attrs))
        return outputs[0]

    def recurrent(
        self, op: str, x: str, outputs: Sequence[str], more: Sequence[str] = (), **attrs: Any
    ) -> str:
        """A layer whose weights are named after its first output; `inner` is the width of x."""
        dirs, inner, name = attrs.pop("dirs", 1), attrs.pop("inner", INNER), outputs[0] or outputs[1]
        rows = GATES[op] * HIDDEN
        weights = [self.drawn(f"{name}.w", dirs, rows, inner), self.drawn(f"{name}.r", dirs, rows, HIDDEN)]
        direction = "bidirectional" if dirs == 2 else "forward"
        inputs = [x, *weights, *more]
        self.nodes.append(
            helper.make_node(op, inputs, outputs, name=name, hidden_size=HIDDEN, direction=direction, **attrs)
        )
        return outputs[0]

    def joined(self, y: str, dirs: int, out: str = "seq") -> str:
        """[seq, dirs, batch, hidden] to [seq, batch, dirs x hidden], as exporters do."""
        if dirs == 1:
            return self.node("Squeeze", [y, self.ints(f"{out}.axes", [1])], out)
        turned = self.node("Transpose", [y], f"{out}.t", perm=[0, 2, 1, 3])
        return self.node("Reshape", [turned, self.ints(f"{out}.shape", [0, 0, -1])], out)

    def model(
        self, features: str, width: int, more: dict[str, Sequence[int | str]] | None = None
    ) -> onnx.ModelProto:
        """Close the model with a dense layer; `more` are further outputs."""
        self.node("MatMul", [features, self.drawn("dense", width, 3)], "out")
        outputs: dict[str, Sequence[int | str] | None] = {"out": None, **(more or {})}
        infos = [
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in side.items()]
            for side in (self.inputs, outputs)
        ]
        weights = [numpy_helper.from_array(a, n) for n, a in self.params.items()]
        graph = helper.make_graph(self.nodes, "recurrent", infos[0], infos[1], weights)
        result = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        result = onnx.shape_inference.infer_shapes(result)
        onnx.checker.check_model(result, full_check=True)
        return result


def pruned(model: onnx.ModelProto, ratio: float = 0.5) -> onnxprune.PruneResult:
    """Prune at random and check the proof and the counts."""
    settings = PruneSettings(ratio=ratio, criterion="random", align=1, bench=False)
    result = onnxprune.prune(model, settings)
    assert result.report.verification.status == "proved"
    assert not result.report.dropped
    for quantities, counted in ((result.report.before, model), (result.report.after, result.model)):
        assert quantities.params == count_params(counted)
        assert quantities.macs == count_macs(counted, find_feeds(counted))
    return result


def shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    return {t.name: list(t.dims) for t in model.graph.initializer}


def hidden_sizes(model: onnx.ModelProto) -> list[int]:
    return [a.i for n in model.graph.node for a in n.attribute if a.name == "hidden_size"]


def reasons(model: onnx.ModelProto) -> set[str]:
    return {pin.reason for _, pin in analyse(model).units.pins}


OPTIONAL = ("bias", "lengths", "initial_h", "initial_c", "peepholes")


def single(op: str, dirs: int, given: Sequence[str], **attrs: Any) -> onnx.ModelProto:
    """One layer with some of its optional inputs stored."""
    draft, rows = Draft(), GATES[op] * HIDDEN
    made = {
        "bias": lambda: draft.drawn("b", dirs, 2 * rows),
        "lengths": lambda: draft.ints("lengths", [SEQ - 1]),
        "initial_h": lambda: draft.drawn("h", dirs, 1, HIDDEN),
        "initial_c": lambda: draft.drawn("c", dirs, 1, HIDDEN),
        "peepholes": lambda: draft.drawn("p", dirs, 3 * HIDDEN),
    }
    if set(given) - {"bias"}:
        draft.inputs["x"] = [SEQ, 1, INNER]
    more = [made[name]() if name in given else "" for name in OPTIONAL]
    while more and not more[-1]:
        more.pop()
    if "lengths" in given:
        draft.params["lengths"] = draft.params["lengths"].astype(np.int32)
    y = draft.recurrent(op, "x", ["y"], more, dirs=dirs, **attrs)
    return draft.model(draft.joined(y, dirs), dirs * HIDDEN)


@pytest.mark.parametrize("dirs", [1, 2])
@pytest.mark.parametrize(
    ("op", "given"),
    [
        (op, given)
        for op in GATES
        for given in ((), ("bias",), ("lengths",), ("initial_h",), ("bias", "initial_h"))
    ]
    + [("LSTM", (name,)) for name in ("initial_c", "peepholes")]
    + [("LSTM", OPTIONAL)],
)
def test_half_of_the_hidden_units_go(op: str, given: Sequence[str], dirs: int) -> None:
    model = single(op, dirs, given)
    result = pruned(model)
    rows = GATES[op] * HIDDEN // 2
    found = shapes(result.model)
    assert hidden_sizes(result.model) == [HIDDEN // 2]
    assert found["y.w"] == [dirs, rows, INNER]
    assert found["y.r"] == [dirs, rows, HIDDEN // 2]
    assert found["dense"] == [dirs * HIDDEN // 2, 3]
    wanted = {
        "b": [dirs, 2 * rows], "h": [dirs, 1, HIDDEN // 2], "c": [dirs, 1, HIDDEN // 2],
        "p": [dirs, 3 * HIDDEN // 2],
    }  # fmt: skip
    assert all(found[name] == shape for name, shape in wanted.items() if name in found)


@pytest.mark.parametrize("op", list(GATES))
def test_directions_keep_units_of_their_own(op: str) -> None:
    result = pruned(single(op, 2, ("bias",)))
    columns = next(s.keep for s in result.plan.slices if (s.tensor, s.axis) == ("y.r", 2))
    assert len(columns) == 2
    assert columns[0] != columns[1]
    assert len(columns[0]) == len(columns[1]) == HIDDEN // 2


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("LSTM", {"clip": 0.4}),
        ("LSTM", {"input_forget": 1}),
        ("LSTM", {"activations": ["HardSigmoid", "Relu", "Softsign"]}),
        ("GRU", {"linear_before_reset": 1}),
        ("RNN", {"activations": ["Relu"], "clip": 0.7}),
    ],
)
def test_attributes_of_the_cell_stay(op: str, attrs: dict[str, Any]) -> None:
    result = pruned(single(op, 1, ("bias",), **attrs))
    node = next(n for n in result.model.graph.node if n.op_type == op)
    assert attrs.keys() <= {a.name for a in node.attribute}
    assert hidden_sizes(result.model) == [HIDDEN // 2]


@pytest.mark.parametrize("dirs", [1, 2])
@pytest.mark.parametrize("op", list(GATES))
def test_stacked_layers(op: str, dirs: int) -> None:
    draft = Draft()
    first = draft.joined(draft.recurrent(op, "x", ["y1"], dirs=dirs), dirs, "seq1")
    second = draft.recurrent(op, first, ["y2"], dirs=dirs, inner=dirs * HIDDEN)
    result = pruned(draft.model(draft.joined(second, dirs, "seq2"), dirs * HIDDEN))
    assert hidden_sizes(result.model) == [HIDDEN // 2] * 2
    assert shapes(result.model)["y2.w"] == [dirs, GATES[op] * HIDDEN // 2, dirs * HIDDEN // 2]


@pytest.mark.parametrize("form", ["reshape", "gather", "split", "slice"])
def test_final_states_of_both_directions(form: str) -> None:
    draft = Draft()
    draft.recurrent("LSTM", "x", ["", "last"], dirs=2)
    if form == "reshape":
        turned = draft.node("Transpose", ["last"], "turned", perm=[1, 0, 2])
        features = draft.node("Reshape", [turned, draft.ints("shape", [0, -1])], "features")
    else:
        parts = ["forward", "back"]
        if form == "split":
            draft.node("Split", ["last"], *(f"{p}.3" for p in parts), axis=0)
        for place, part in enumerate(parts):
            if form == "gather":
                draft.node("Gather", ["last", draft.ints(f"{part}.at", place)], part, axis=0)
                continue
            if form == "slice":
                bounds = [draft.ints(f"{part}.{i}", [v]) for i, v in enumerate((place, place + 1, 0))]
                draft.node("Slice", ["last", *bounds], f"{part}.3")
            draft.node("Squeeze", [f"{part}.3", draft.ints(f"{part}.axes", [0])], part)
        features = draft.node("Concat", parts, "features", axis=1)
    result = pruned(draft.model(features, 2 * HIDDEN))
    assert hidden_sizes(result.model) == [HIDDEN // 2]
    columns = next(s.keep for s in result.plan.slices if (s.tensor, s.axis) == ("last.r", 2))
    assert len(columns) == 2, "the directions keep the same units"


@pytest.mark.parametrize("made", ["ConstantOfShape", "Expand"])
@pytest.mark.parametrize("dirs", [1, 2])
def test_zero_states_follow_the_hidden_size(made: str, dirs: int) -> None:
    draft = Draft()
    shape = draft.node("Shape", ["x"], "shape")
    batch = draft.node("Gather", [shape, draft.ints("one", [1])], "batch", axis=0)
    parts = [draft.ints("dirs", [dirs]), batch, draft.ints("hidden", [HIDDEN])]
    target = draft.node("Concat", parts, "target", axis=0)
    if made == "Expand":
        draft.params["zero"] = np.zeros((), np.float32)
        zeros = draft.node("Expand", ["zero", target], "zeros")
    else:
        zeros = draft.node("ConstantOfShape", [target], "zeros")
    y = draft.recurrent("LSTM", "x", ["y"], ["", "", zeros, zeros], dirs=dirs)
    result = pruned(draft.model(draft.joined(y, dirs), dirs * HIDDEN))
    assert hidden_sizes(result.model) == [HIDDEN // 2]
    assert ("y.w", "produces") in {(s.tensor, s.role) for s in result.plan.slices}


def test_a_state_that_comes_from_an_encoder_shares_its_units() -> None:
    draft = Draft()
    draft.recurrent("GRU", "x", ["", "last"])
    y = draft.recurrent("GRU", "x", ["y"], ["", "", "last"])
    model = draft.model(draft.joined(y, 1), HIDDEN)
    assert [len(group.units) for group in analyse(model).units.groups] == [HIDDEN]
    assert hidden_sizes(pruned(model).model) == [HIDDEN // 2] * 2


def test_a_state_in_another_order_is_followed() -> None:
    # A channel shuffle in front of the initial state: weights adopt the order that arrives, R's columns too.
    draft = Draft()
    draft.inputs["z"] = ["batch", INNER]
    dense = draft.node("MatMul", ["z", draft.drawn("pre", INNER, HIDDEN)], "dense_z")
    rows = draft.node("Reshape", [dense, draft.ints("rows", [0, 2, HIDDEN // 2])], "grid")
    turned = draft.node("Transpose", [rows], "turned", perm=[0, 2, 1])
    state = draft.node("Reshape", [turned, draft.ints("flat", [1, -1, HIDDEN])], "state")
    y = draft.recurrent("GRU", "x", ["y"], ["", "", state])
    model = draft.model(draft.joined(y, 1), HIDDEN)
    orders = []
    for seed in range(8):
        settings = PruneSettings(ratio=0.5, criterion="random", seed=seed, align=1, bench=False)
        result = onnxprune.prune(model, settings)
        assert result.report.verification.status == "proved"
        assert not result.report.dropped
        keep = {(s.tensor, s.axis): s.keep for s in result.plan.slices}
        assert keep["y.r", 2] == keep["dense", 0]
        orders.append(keep["y.r", 2])
    assert any(order != sorted(order) for order in orders)


def test_weights_that_two_layers_share() -> None:
    draft = Draft()
    first = draft.joined(draft.recurrent("LSTM", "x", ["y1"], inner=INNER), 1, "seq1")
    draft.node("Neg", ["x"], "negated")
    again = helper.make_node("LSTM", ["negated", "y1.w", "y1.r"], ["y2"], name="y2", hidden_size=HIDDEN)
    draft.nodes.append(again)
    both = draft.node("Add", [first, draft.joined("y2", 1, "seq2")], "both")
    result = pruned(draft.model(both, HIDDEN))
    assert hidden_sizes(result.model) == [HIDDEN // 2] * 2
    assert shapes(result.model)["y1.r"] == [1, 2 * HIDDEN, HIDDEN // 2]


@pytest.mark.parametrize("fed", [("h",), ("c",), ("h", "c")])
def test_states_that_are_graph_inputs_pin(fed: Sequence[str]) -> None:
    draft = Draft()
    draft.inputs |= {name: [1, "batch", HIDDEN] for name in fed}
    states = [name if name in fed else "" for name in ("h", "c")]
    y = draft.recurrent("LSTM", "x", ["y"], ["", "", *states])
    with pytest.raises(NothingToPrune):
        pruned(draft.model(draft.joined(y, 1), HIDDEN))


@pytest.mark.parametrize("name", ["y_h", "y_c"])
@pytest.mark.parametrize("dirs", [1, 2])
def test_final_states_that_are_graph_outputs_pin(name: str, dirs: int) -> None:
    draft = Draft()
    y = draft.recurrent("LSTM", "x", ["y", "y_h", "y_c"], dirs=dirs)
    model = draft.model(draft.joined(y, dirs), dirs * HIDDEN, {name: [dirs, "batch", HIDDEN]})
    with pytest.raises(NothingToPrune, match="graph output"):
        pruned(model)


def test_batch_first_pins_with_a_reason_and_is_counted() -> None:
    draft = Draft()
    draft.inputs["x"] = [BATCH, SEQ, INNER]
    draft.node("MatMul", ["x", draft.drawn("pre", INNER, INNER)], "z")
    draft.recurrent("GRU", "z", ["y"], layout=1)
    turned = draft.node("Squeeze", ["y", draft.ints("axes", [2])], "seq")
    model = draft.model(turned, HIDDEN)
    assert any("layout 1" in reason for reason in reasons(model))
    assert not len(analyse(model).units.groups)
    steps = BATCH * SEQ
    wanted = steps * (INNER * INNER + 3 * HIDDEN * (INNER + HIDDEN) + HIDDEN * 3)
    assert macs(analyse(model).units.traced) == wanted


@pytest.mark.parametrize("op", list(GATES))
@pytest.mark.parametrize("dirs", [1, 2])
@pytest.mark.slow
def test_a_wrong_rewrite_is_noticed(op: str, dirs: int) -> None:
    model = single(op, dirs, ("bias",))
    arena = Arena.of(model, find_feeds(model))
    noticed = list(arena.try_rewrites())
    assert {name for name, _ in noticed} >= {"a slice left out", "two channels swapped", "a fix left out"}
    assert [name for name, verdict in noticed if verdict == HOLE] == []


def test_a_target_is_met_through_both_products() -> None:
    # MACs of the recurrence fall with the square of the hidden size.
    model = single("LSTM", 1, ("bias",))
    settings = PruneSettings(targets={"macs": 0.4}, align=1, bench=False)
    result = onnxprune.prune(model, settings)
    assert result.report.after.macs == count_macs(result.model, find_feeds(result.model))
    assert 0.25 < result.report.after.macs / result.report.before.macs <= 0.4
