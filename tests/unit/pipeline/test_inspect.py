"""What is frozen: every frozen channel has a reason, no other axis counts, and no parameter that may go."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

import onnxprune

node = helper.make_node
HIDDEN = 8


def recurrent(op: str, states: tuple[str, ...], dirs: int = 1) -> onnx.ModelProto:
    """x [4, 2, 5] -> MatMul -> op, with states as inputs of the model -> MatMul -> y."""
    rng, gates = np.random.default_rng(0), {"GRU": 3, "LSTM": 4}[op]
    direction = "bidirectional" if dirs == 2 else "forward"
    nodes: list[NodeProto] = [
        node("MatMul", ["x", "m"], ["a"]),
        node(op, ["a", "w", "r", "", "", *states], ["s"], op, hidden_size=HIDDEN, direction=direction),
        node("Transpose", ["s"], ["t"], perm=[0, 2, 1, 3]),
        node("Reshape", ["t", "flat"], ["f"]),
        node("MatMul", ["f", "u"], ["y"]),
    ]
    stored = {
        "m": (5, 6), "w": (dirs, gates * HIDDEN, 6), "r": (dirs, gates * HIDDEN, HIDDEN),
        "u": (dirs * HIDDEN, 3),
    }  # fmt: skip
    inputs = {"x": [4, 2, 5]} | {name: [dirs, 2, HIDDEN] for name in states if name}
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            *(numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n)
              for n, s in stored.items()),
            numpy_helper.from_array(np.array([0, 0, -1]), "flat"),
        ],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("op", "states"), [("GRU", ("h",)), ("LSTM", ("h", "c")), ("LSTM", ("", "c"))])
@pytest.mark.parametrize("dirs", [1, 2])
def test_hidden_units_whose_state_is_an_input_are_pinned_with_a_reason(
    op: str, states: tuple[str, ...], dirs: int
) -> None:
    model = recurrent(op, states, dirs)
    report = onnxprune.inspect(model)
    (pin,) = [p for p in report.pinned if p.op == op]
    assert pin.channels == dirs * HIDDEN
    assert pin.reason == f"meets the fixed axis of '{next(s for s in states if s)}'"
    assert [g.name for g in report.groups] == ["m"]
    stays = {"r", "u"}  # the columns of w and all of m belong to channels that may go
    sizes = {t.name: int(np.prod(t.dims)) for t in model.graph.initializer}
    assert report.frozen_params == sum(sizes[name] for name in stays)
    result = onnxprune.prune(model, onnxprune.PruneSettings(ratio=0.5, align=1, bench=False))
    assert result.report.verification.status == "proved"
    assert [(g.name, g.kept) for g in result.report.groups] == [("m", 3)]


def test_the_directions_of_an_lstm_are_no_channels() -> None:
    report = onnxprune.inspect(recurrent("LSTM", (), dirs=2))
    assert {g.name: g.channels for g in report.groups} == {"m": 6, "w": 2 * HIDDEN}
    assert [(p.op, p.channels) for p in report.pinned] == [("graph output", 3)]
    assert report.frozen_params == 0


def test_parameters_of_an_operator_without_a_rule_stay() -> None:
    model = recurrent("GRU", ())
    model.graph.node[-1].CopyFrom(node("Odd", ["f", "u"], ["y"], domain="custom"))
    model.opset_import.append(helper.make_opsetid("custom", 1))
    report = onnxprune.inspect(model)
    assert report.frozen_params >= HIDDEN * 3
