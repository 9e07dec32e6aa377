"""The gradient of every rule that has one against central differences, on the cases of its operator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxprune.model.runtime import open_session, run
from onnxprune.recovery.gradients import adjoint, gradient_for
from onnxprune.rules import REGISTRY, Rule
from onnxprune.rules.tape import OPSET, STEP, NodeUse, Piece, Tape, measured
from tests.laws.operator_cases import CASES, RANGES, Fed, OperatorCase

Arrays = Mapping[str, np.ndarray]
IR = 10
FAR = 2e-3  # how far an input is moved
BENT = 0.05  # nearer to zero lie the bends of a Relu or an absolute value
SMOOTH = {"Pow": (0.5, 2.0), "Tan": (-1.0, 1.0)}
ROWS = [row for row in REGISTRY.table() if row.facets.gradient is not None]


@dataclass(frozen=True)
class Trial:
    """A node by itself, and what its inputs are."""

    node: onnx.NodeProto
    opsets: dict[str, int]
    fed: Arrays
    stored: Arrays

    @property
    def piece(self) -> Piece:
        made = self.run(self.fed, [], ["y0"])
        shapes = {n: v.shape for n, v in {**self.fed, **self.stored, **made}.items()}
        return Piece([self.node], shapes, self.stored, self.opsets)

    def run(
        self, fed: Arrays, more: list[onnx.NodeProto], wanted: list[str], opset: int | None = None
    ) -> dict[str, np.ndarray]:
        """Run the node, and more nodes behind it."""
        inputs = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in fed.items()
        ]
        stored = [numpy_helper.from_array(v, n) for n, v in self.stored.items()]
        stored += [numpy_helper.from_array(np.float32(v), n) for n, v in (("h", STEP), ("s", 0.5 / STEP))]
        outputs = [onnx.ValueInfoProto(name=name) for name in wanted]
        graph = helper.make_graph([self.node, *more], "forward", inputs, outputs, stored)
        imports = [helper.make_opsetid(domain, version) for domain, version in self.opsets.items()]
        session = open_session(helper.make_model(graph, opset_imports=imports, ir_version=IR))
        return run(session, fed)


def trials(case: OperatorCase) -> Trial:
    rng = np.random.default_rng(11)
    fed, stored, names = {}, {}, []
    for place, given in enumerate(case.inputs):
        name = "" if given is None else f"x{place}"
        names.append(name)
        if isinstance(given, Fed):
            values = rng.uniform(*SMOOTH.get(case.op, RANGES.get(case.op, (-1.5, 1.5))), given.shape)
            fed[name] = np.where(np.abs(values) < BENT, values + 2 * BENT, values).astype(given.dtype)
        elif given is not None:
            stored[name] = given
    node = helper.make_node(case.op, names, ["y0"], domain=case.domain, **case.attrs)
    return Trial(node, {"": case.opset, "com.microsoft": 1}, fed, stored)


def backward(trial: Trial, tape: Tape, gradient: str, seed: np.ndarray) -> np.ndarray:
    """Run what is on a tape."""
    inside = {name for node in tape.nodes for name in node.output} | {t.name for t in tape.constants}
    read = sorted({name for node in tape.nodes for name in node.input} - inside - {"seed"})
    more = [node for slope in tape.slopes.values() for node in measured(slope, "h", "s")]
    given = {name: trial.stored[name] for name in read if name in trial.stored}
    wanted = [name for name in read if name not in given]
    passed = {name: trial.fed[name] for name in wanted if name in trial.fed}
    computed = [name for name in wanted if name not in passed]
    known = {**given, **passed, **(trial.run(trial.fed, more, computed) if computed else {}), "seed": seed}
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in known.items()
    ]
    outputs = [onnx.ValueInfoProto(name=gradient)]
    graph = helper.make_graph(tape.nodes, "backward", inputs, outputs, tape.constants)
    if gradient == "seed":
        return seed
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    return run(open_session(model), known)[gradient]


def uses(case: OperatorCase) -> Iterator[tuple[Trial, Piece, str]]:
    """Yield a node with each input that its gradient is known for."""
    trial = trials(case)
    piece = trial.piece
    for place, name in enumerate(trial.node.input):
        floats = name in trial.fed and trial.fed[name].dtype == np.float32
        if floats and gradient_for(NodeUse(piece, trial.node, place)) is not None:
            yield trial, piece, name


def cases_of(domain: str, op: str, since: int) -> list[OperatorCase]:
    found = []
    for case in CASES:
        row = REGISTRY.find(case.domain, case.op, 1 if case.domain else case.opset)
        if row is not None and (row.domain, row.op, row.since) == (domain, op, since) and case.outputs == 1:
            found.append(case)
    return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.domain}{row.op}-{row.since}")
def test_a_gradient_is_what_differences_say(row: Rule) -> None:
    sizes = []
    for case in cases_of(row.domain, row.op, row.since):
        for trial, piece, name in uses(case):
            rng = np.random.default_rng(5)
            seed = rng.normal(size=piece.shapes["y0"]).astype(np.float32)
            tape = Tape(piece)
            gradient = adjoint(piece, tape, {"y0": "seed"}, frozenset([name]))[name]
            found = backward(trial, tape, gradient, seed).astype(np.float64)
            assert found.shape == trial.fed[name].shape
            way = rng.normal(size=found.shape)
            ends = []
            for far in (FAR, -FAR):
                moved = {**trial.fed, name: (trial.fed[name] + far * way).astype(np.float32)}
                ends.append(float((trial.run(moved, [], ["y0"])["y0"].astype(np.float64) * seed).sum()))
            measured_rise = (ends[0] - ends[1]) / (2 * FAR)
            sizes.append(np.linalg.norm(found) * np.linalg.norm(way))
            assert abs(measured_rise - float((found * way).sum())) <= 1e-2 * sizes[-1], case.name
    assert max(sizes, default=0) > 0, (
        f"no case of {row.op} has a gradient: add one to tests/laws/operator_cases.py"
    )


def test_a_jump_has_no_slope() -> None:
    """Next to the jump of a ThresholdedRelu a measured slope would be a thousand times too steep."""
    for op, attrs, limit in (("ThresholdedRelu", {"alpha": 1.0}, 1.0), ("Shrink", {"lambd": 0.5}, 0.5)):
        node = helper.make_node(op, ["x0"], ["y0"], **attrs)
        near = np.asarray([limit - STEP / 2, limit + STEP / 2, -limit], np.float32)
        trial = Trial(node, {"": 17}, {"x0": near}, {})
        tape = Tape(trial.piece)
        gradient = adjoint(trial.piece, tape, {"y0": "seed"}, frozenset(["x0"]))["x0"]
        assert backward(trial, tape, gradient, np.ones(3, np.float32)).tolist() == [0.0, 1.0, 0.0]


def test_a_gradient_ends_where_more_than_one_output_is_read() -> None:
    node = helper.make_node("Dropout", ["x0"], ["y0", "mask"])
    piece = Piece([node], {"x0": (2,), "y0": (2,)}, {}, {"": 12})
    assert gradient_for(NodeUse(piece, node, 0)) is None
    other = helper.make_node("Round", ["x0"], ["y0"])
    assert gradient_for(NodeUse(Piece([other], piece.shapes, {}, {"": 12}), other, 0)) is None
