"""What is read up to a length that is known only at run time stays, and the rest goes; at every length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import onnxprune
from onnxprune import PruneSettings
from onnxprune.analysis.analyse import analyse
from onnxprune.model.runtime import open_session, run, runtime_errors
from onnxprune.oracle.cases import cases_of, proof
from onnxprune.planning.plan import planned_removal

HEAD = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>'
TAIL = """
    h = MatMul (u, w)
    r = Relu (h)
    y = MatMul (r, v)
"""
LENGTH = """
    s = Shape <start = 1, end = 2> (x)
"""
COUNTED = """
    t = Squeeze (s, zero)
    places = Range (none, t, single)
"""
POSITIONS = {
    "slice of a table": LENGTH + "p = Slice (table, zero, s, zero) u = Add (x, p)",
    "slice from the middle": LENGTH + "e = Add (s, three) p = Slice (table, three, e, zero) u = Add (x, p)",
    "lookup by a range": LENGTH + COUNTED + "p = Gather (table, places) u = Add (x, p)",
    "lookup by places cut to length":
        LENGTH + "i = Slice (index, zero, s, one) p = Gather (table, i) u = Add (x, p)",
    "padded to the length of the table":
        LENGTH + "m = Sub (rows, s) pads = Concat <axis = 0> (zero, zero, zero, zero, m, zero) "
        "q = Pad (x, pads) k = Mul (q, table) u = Slice (k, zero, s, one)",
    "sizes of a Split":
        LENGTH + "m = Sub (rows, s) sizes = Concat <axis = 0> (s, m) p, o = Split <axis = 0> (table, sizes) "
        "u = Add (x, p)",
    "mask cut both ways":
        LENGTH + "e = Concat <axis = 0> (s, s) m = Slice (mask, corner, e, both) u = MatMul (m, x)",
}  # fmt: skip
ROWS, WIDTH = 40, 8


def values() -> Mapping[str, np.ndarray]:
    rng = np.random.default_rng(0)
    floats = {"table": (ROWS, WIDTH), "w": (WIDTH, 16), "v": (16, 3)}
    made = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in floats.items()}
    ints = {
        "zero": [0], "one": [1], "three": [3], "rows": [ROWS], "none": 0, "single": 1, "corner": [0, 0],
        "both": [0, 1], "index": np.arange(ROWS)[None],
    }  # fmt: skip
    mask = np.tril(rng.standard_normal((ROWS, ROWS))).astype(np.float32)
    return made | {name: np.asarray(v, np.int64) for name, v in ints.items()} | {"mask": mask}


def model_of(body: str) -> onnx.ModelProto:
    """x [B, T, 8] meets what the body reads up to T; two linear layers follow."""
    model = parser.parse_model(
        f"{HEAD} graph (float[B, T, {WIDTH}] x) => (float[B, T, 3] y) {{ {body} {TAIL} }}"
    )
    read = {name for node in model.graph.node for name in node.input}
    made = values()
    model.graph.initializer.extend(
        numpy_helper.from_array(made[name], name) for name in sorted(read & made.keys())
    )
    return model


@dataclass(frozen=True)
class Pruned:
    """A model, what is left of it, and the removal."""

    before: onnx.ModelProto
    result: onnxprune.PruneResult

    def dims(self, name: str) -> list[int]:
        return next(list(t.dims) for t in self.result.model.graph.initializer if t.name == name)

    def status_at(self, *lengths: int) -> str:
        """Prove at lengths that nothing was planned at."""
        analysis = analyse(self.before)
        removed = planned_removal(analysis.units, self.result.plan, self.result.plan.model_sha256)
        rng = np.random.default_rng(1)
        base = {name: rng.standard_normal(s).astype(np.float32) for name, s in analysis.sizes.items()}
        feeds = [{"x": rng.standard_normal((2, n, WIDTH)).astype(np.float32)} for n in lengths]
        return proof(analysis, self.result.model, removed, cases_of(analysis, [base, *feeds])).status


def pruned(body: str) -> Pruned:
    model = model_of(body)
    settings = PruneSettings(ratio=0.5, align=1, bench=False)
    return Pruned(model, onnxprune.prune(model, settings))


@pytest.mark.parametrize("body", POSITIONS.values(), ids=POSITIONS)
def test_a_table_keeps_what_may_be_read(body: str) -> None:
    found = pruned(body)
    assert found.result.report.verification.status == "proved"
    assert found.dims("w") == [WIDTH, 8]  # the layer behind goes
    table = "mask" if "mask" in body else "table"
    assert found.dims(table)[0] == ROWS
    assert found.status_at(5, 23, ROWS - 3) == "proved"


@pytest.mark.parametrize("body", POSITIONS.values(), ids=POSITIONS)
def test_the_pruned_model_runs_up_to_the_limit_of_the_original(body: str) -> None:
    found = pruned(body)
    for length in (ROWS - 3, ROWS, ROWS + 1):
        feeds = {"x": np.zeros((1, length, WIDTH), np.float32)}
        ran = []
        for model in (found.before, found.result.model):
            try:
                ran.append(run(open_session(model), feeds)["y"].shape)
            except runtime_errors():
                ran.append(None)
        assert ran[0] == ran[1]


def test_channels_beside_the_places_of_a_table_go() -> None:
    body = LENGTH + "z = MatMul (x, a) p = Slice (wide, zero, s, zero) q = Add (z, p) u = MatMul (q, b)"
    model = model_of(body)
    rng = np.random.default_rng(2)
    for name, shape in {"a": (WIDTH, 12), "wide": (ROWS, 12), "b": (12, WIDTH)}.items():
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    result = onnxprune.prune(model, PruneSettings(ratio=0.5, align=1, bench=False))
    assert next(list(t.dims) for t in result.model.graph.initializer if t.name == "wide") == [ROWS, 6]


def test_a_bound_from_a_channel_count_is_no_length() -> None:
    # Half of the channels, written as Shape -> Div: the count is the same at every size of the input.
    body = """
        z = MatMul (x, a)
        n = Shape <start = 2, end = 3> (z)
        half = Div (n, two)
        left = Slice (z, zero, half, last)
        right = Slice (z, half, n, last)
        u0 = Mul (left, right)
        u = MatMul (u0, b)
    """
    model = model_of(body)
    rng = np.random.default_rng(2)
    for name, shape in {"a": (WIDTH, 24), "b": (12, WIDTH)}.items():
        model.graph.initializer.append(
            numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        )
    for name, value in {"two": [2], "last": [2]}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.int64), name))
    result = onnxprune.prune(model, PruneSettings(ratio=0.5, align=1, bench=False))
    assert result.report.verification.status == "proved"
    assert next(list(t.dims) for t in result.model.graph.initializer if t.name == "a") == [WIDTH, 12]
