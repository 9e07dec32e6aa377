"""A branch that is taken for every input is written out; one that an input decides stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import onnxprune
from onnxprune import PruneSettings
from onnxprune.analysis.analyse import inlined, inlined_again
from onnxprune.analysis.branches import with_branches, with_decided_branches
from onnxprune.errors import UsageError
from onnxprune.model.runtime import open_session, run

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
WEIGHTS = {"w": (8, 16), "v": (16, 4), "p": (16, 16)}
SQUEEZE = """
    m = ReduceMean <axes = [1], keepdims = 1> (r)
    n = Shape <start = 1, end = 2> (m)
    c = Equal (n, one)
    q = If (c) <then_branch = t () => (a) { a = Squeeze (m, one) },
                else_branch = e () => (b) { b = Identity (m) }>
"""
WIDTH = """
    s = Shape <start = 2, end = 3> (r)
    k = Constant <value_ints = [8]> ()
    c = Equal (s, k)
    q = If (c) <then_branch = t () => (a) { a = Abs (r) }, else_branch = e () => (b) { b = Neg (r) }>
"""
RANK = """
    s = Shape (r)
    n = Size (s)
    k = Constant <value_int = 2> ()
    c = Greater (n, k)
    q = If (c) <then_branch = t () => (a) { i = MatMul (r, p) a = Relu (i) },
                else_branch = e () => (b) { b = Neg (r) }>
"""


def either(condition: str, first: str, second: str, out: str = "a") -> str:
    """An If; its first branch hands out this tensor, the other one b."""
    then, other = f"t () => ({out}) {{ {first} }}", f"e () => (b) {{ {second} }}"
    return f"If ({condition}) <then_branch = {then}, else_branch = {other}>"


def model_of(body: str, after: str = "y = MatMul (q, v)", out: str = "B, 4") -> onnx.ModelProto:
    """x [B, T, 8] -> w -> Relu -> the body -> v -> y."""
    head = f"{HEAD} g (float[B, T, 8] x, bool given) => (float[{out}] y)"
    model = parser.parse_model(f"{head} {{ h = MatMul (x, w) r = Relu (h) {body} {after} }}")
    rng = np.random.default_rng(0)
    for name, shape in WEIGHTS.items():
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    model.graph.initializer.append(numpy_helper.from_array(np.asarray([1], np.int64), "one"))
    return model


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def outputs(model: onnx.ModelProto, length: int = 5) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((2, length, 8)).astype(np.float32)
    return run(open_session(model), {"x": x, "given": np.asarray(True)})["y"]


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (SQUEEZE, ("If(q)::then_branch",)),
        (RANK, ("If(q)::then_branch",)),
        (WIDTH, ("If(q)::else_branch",)),
    ],
    ids=["a dim that does not change", "a rank", "a number of channels"],
)
def test_a_decided_branch_is_written_out(body: str, names: tuple[str, ...]) -> None:
    model = model_of(body, out="B, 4" if body is SQUEEZE else "B, T, 4")
    before = model.SerializeToString()
    written, found = with_decided_branches(model)
    assert found == names
    assert "If" not in ops(written)
    assert model.SerializeToString() == before
    onnx.checker.check_model(written, full_check=True)
    np.testing.assert_array_equal(outputs(written), outputs(model))


@pytest.mark.parametrize(
    "condition",
    ["c = Identity (given)", "n = Shape <start = 1, end = 2> (r) k = Greater (n, one) c = Squeeze (k)"],
    ids=["an input", "a length"],
)
def test_a_branch_that_an_input_decides_stays(condition: str) -> None:
    body = f"{condition} q = {either('c', 'a = Relu (r)', 'b = Neg (r)')}"
    written, found = with_decided_branches(model_of(body, out="B, T, 4"))
    assert found == ()
    assert "If" in ops(written)


def test_names_inside_that_are_taken_get_new_ones() -> None:
    # Both branches call what they make in between i.
    model = model_of(
        RANK
        + RANK.replace("q =", "q2 =")
        .replace("(r)", "(q)")
        .replace("(r, p)", "(q, p)")
        .replace("s =", "s2 =")
        .replace("(s)", "(s2)")
        .replace("n =", "n2 =")
        .replace("(n, k)", "(n2, k2)")
        .replace("k =", "k2 =")
        .replace("c =", "c2 =")
        .replace("(c)", "(c2)"),
        after="y = MatMul (q2, v)",
        out="B, T, 4",
    )
    written, found = with_decided_branches(model)
    assert found == ("If(q)::then_branch", "If(q2)::then_branch")
    made = [name for node in written.graph.node for name in node.output]
    assert len(made) == len(set(made))
    np.testing.assert_array_equal(outputs(written), outputs(model))


def test_what_a_branch_passes_on_keeps_the_name_of_its_result() -> None:
    body = """
        c = Constant <value: tensor = bool {1}> ()
        q = If (c) <then_branch = t () => (r) {}, else_branch = e () => (b) { b = Neg (r) }>
    """
    model = model_of(body.replace("=> (r) {}", "=> (a) { a = Identity (r) }"), out="B, T, 4")
    then = model.graph.node[3].attribute[0].g
    del then.node[:]
    then.output[0].name = "r"  # the branch hands out a tensor of the outer graph
    written, found = with_decided_branches(model)
    assert found == ("If(q)::then_branch",)
    assert ops(written)[3] == "Identity"


def test_branches_inside_of_branches_are_decided_in_turn() -> None:
    no, yes = (f"Constant <value: tensor = bool {{{value}}}> ()" for value in (0, 1))
    inner = f"d = {no} a = {either('d', 'f = Relu (r)', 'b = Abs (r)', 'f')}"
    body = f"c = {yes} q = {either('c', inner, 'b = Neg (r)')}"
    model = model_of(body, out="B, T, 4")
    written, found = with_decided_branches(model)
    assert found == ("If(q)::then_branch", "If(q)::else_branch")
    assert "Abs" in ops(written)
    again, left = with_branches(model, list(found))
    assert left == []
    assert again.SerializeToString() == written.SerializeToString()


def test_a_network_behind_a_decided_branch_is_pruned_and_its_plan_holds() -> None:
    model = model_of(SQUEEZE)
    settings = PruneSettings(ratio=0.5, align=1, bench=False)
    result = onnxprune.prune(model, settings)
    assert result.report.inlined == ("If(q)::then_branch",)
    assert result.report.verification.status == "proved"
    assert {t.name: list(t.dims) for t in result.model.graph.initializer if t.name in "wv"} == {
        "w": [8, 8],
        "v": [8, 4],
    }
    again = onnxprune.apply(model, result.plan.to_json())
    assert again.model.SerializeToString() == result.model.SerializeToString()
    assert onnxprune.verify(result.model, model, result.plan).matches_plan


def test_inline_none_leaves_branches_and_a_plan_with_others_is_refused() -> None:
    model = model_of(SQUEEZE)
    assert inlined(model, "none").names == ()
    with pytest.raises(
        UsageError, match="branch 'If\\(other\\)::then_branch', which this model does not have"
    ):
        inlined_again(model, ["If(other)::then_branch"], [])


def counted(graph: onnx.GraphProto) -> None:
    """Name the nodes of every graph by their operator and how many came before, as some exporters do."""
    for place, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{place}"
        for attribute in node.attribute:
            counted(attribute.g)


CHOICE = f"q = {either('given', 'i = MatMul (r, p) a = Relu (i)', 'i = MatMul (r, p) b = Neg (i)')}"


@pytest.mark.parametrize("body", [RANK, CHOICE], ids=["written out", "laid out"])
def test_nodes_of_branches_get_names_of_their_own(body: str) -> None:
    model = model_of(body, out="B, T, 4")
    counted(model.graph)
    found = inlined(model)
    assert "If" not in ops(found.model)
    names = [node.name for node in found.model.graph.node]
    assert len(names) == len(set(names))
    np.testing.assert_array_equal(outputs(found.model), outputs(model))


def test_a_name_that_another_body_defines_is_not_given_to_a_tensor_outside() -> None:
    # The second If stays: its branches make several sizes. It defines i, as the first one does.
    other = either("given", "i = Relu (q) a2 = Concat <axis = 1> (i, i)", "b = Neg (q)", out="a2")
    model = model_of(f"{RANK} q2 = {other}", "y = MatMul (q2, v)", "B, T2, 4")
    found = inlined(model)
    assert ops(found.model).count("If") == 1
    np.testing.assert_array_equal(outputs(found.model), outputs(model))


def test_branches_are_laid_out_where_only_a_run_tells_their_sizes() -> None:
    # How many rows NonZero finds is known to no shape inference; the width of what follows is.
    rows = "z = NonZero (x) t = Shape (z) u = Slice (t, one, two) o = ConstantOfShape (u) e = ReduceMin (o)"
    text = f"{rows} n = ReduceSum <keepdims = 0> (e) "
    text += "k = Cast <to = 7> (n) f = Reshape (k, one) g = Sub (f, f) c2 = Add (g, w2) "
    text += "h2 = Concat <axis = 0> (m2, c2) "
    text += "l = Reshape (r, h2) " + CHOICE.replace("(r, p)", "(l, p)")
    model = model_of(text, out="A, 4")
    for name, values in {"two": [2], "w2": [16], "m2": [-1]}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.int64), name))
    found = inlined(model)
    assert len(found.lifted) == 1
    result = onnxprune.prune(model, PruneSettings(ratio=0.5, align=1, bench=False))
    assert result.report.verification.status == "proved"
    dims = {t.name: list(t.dims) for t in result.model.graph.initializer}
    assert dims["v"] == [8, 4]
