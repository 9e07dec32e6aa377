"""Model-local functions: written out where they have no rule, and never at the price of another result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import numpy_helper, parser

import onnxprune
from onnxprune import PruneSettings
from onnxprune.analysis.analyse import inlined
from onnxprune.cli.app import program
from onnxprune.errors import ModelError, NothingToPrune, UnprovedError, UsageError
from onnxprune.model.inline import inline
from onnxprune.rules import Registry, Signature, Site, Verdict
from onnxprune.rules.signature import numbered

WEIGHTS = {"w": (8, 16), "v": (16, 16), "u": (16, 4)}
GRAPH = """
<ir_version: 10, opset_import: ["" : {opset}, "l" : 1{more}]>
g (float[N,8] x) => (float[N,4] y) <float[8,16] w, float[16,16] v, float[16,4] u> {{
  h = MatMul(x, w)
  {first}
  k = MatMul(a, v)
  {second}
  y = MatMul(b, u)
}}
"""


def model_of(
    functions: str, first: str = "a = l.f(h)", second: str = "b = l.f(k)", opset: int = 17, more: str = ""
) -> onnx.ModelProto:
    """x [N, 8] -> 16 -> function -> 16 -> function -> y [N, 4], with random weights."""
    text = GRAPH.format(first=first, second=second, opset=opset, more=more)
    model = parser.parse_model(text + functions)
    rng = np.random.default_rng(0)
    del model.graph.initializer[:]
    model.graph.initializer.extend(
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in WEIGHTS.items()
    )
    return model


def function(body: str, head: str = "f (x) => (y)", imports: str = '"" : 17') -> str:
    return f'<domain: "l", opset_import: [{imports}]>\n{head} {{ {body} }}\n'


def settings(inline: str = "auto") -> PruneSettings:
    return PruneSettings(ratio=0.5, align=1, bench=False, inline=inline)


def outputs(model: onnx.ModelProto, feed: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": feed})[0]


def unchanged(model: onnx.ModelProto, which: str = "auto") -> onnx.ModelProto:
    """Inline, and check that the outputs stay and the argument, too."""
    before = model.SerializeToString()
    found = inlined(model, which)
    assert model.SerializeToString() == before
    onnx.checker.check_model(found.model)
    feed = np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32)
    np.testing.assert_array_equal(outputs(model, feed), outputs(found.model, feed))
    return found.model


SWISH = function("s = Sigmoid(x) y = Mul(x, s)")


def test_a_function_without_a_rule_is_written_out_and_pruned_through() -> None:
    model = model_of(SWISH)
    result = onnxprune.prune(model, settings())
    assert result.report.verification.status == "proved"
    assert result.report.inlined == ("l::f",)
    assert [list(t.dims) for t in result.model.graph.initializer] == [[8, 8], [8, 8], [8, 4]]
    assert not result.model.functions
    assert not {n.op_type for n in result.model.graph.node} - {"MatMul", "Sigmoid", "Mul"}


def test_none_leaves_functions_in_place_and_they_freeze() -> None:
    with pytest.raises(NothingToPrune, match="no rule for f"):
        onnxprune.prune(model_of(SWISH), settings("none"))
    assert onnxprune.inspect(model_of(SWISH), inline="none").without_rule == ("f",)
    assert onnxprune.inspect(model_of(SWISH)).without_rule == ()


def test_the_plan_carries_what_was_written_out(tmp_path: Path) -> None:
    model, small, plan = (tmp_path / name for name in ("m.onnx", "s.onnx", "p.json"))
    onnx.save(model_of(SWISH), model)
    result = onnxprune.prune(model, settings(), small, beside=onnxprune.SideFiles(plan))
    assert result.plan.settings["inlined"] == ["l::f"]
    assert onnxprune.apply(model, plan).model == result.model
    assert onnxprune.verify(small, model, plan).matches_plan


def test_a_plan_that_names_other_functions_is_refused() -> None:
    model = model_of(SWISH)
    plan = onnxprune.prune(model, settings()).plan
    plan.settings["inlined"] = ["l::g"]
    with pytest.raises(UsageError, match="inlines function 'l::g'"):
        onnxprune.apply(model, plan)
    plan.settings["inlined"] = [3]
    with pytest.raises(UsageError, match=r"settings\.inlined"):
        onnxprune.apply(model, plan)


def test_the_command_line_says_what_was_inlined(tmp_path: Path) -> None:
    onnx.save(model_of(SWISH), tmp_path / "m.onnx")
    args = [
        "prune",
        tmp_path / "m.onnx",
        "-o",
        tmp_path / "s.onnx",
        "--ratio",
        "0.5",
        "--align",
        "1",
        "--no-bench",
    ]
    result = CliRunner().invoke(program, [str(a) for a in args])
    assert result.exit_code == 0, result.output
    assert "inlined  l::f" in result.stdout
    assert (
        CliRunner().invoke(program, [str(a) for a in [*args, "--force", "--inline", "none"]]).exit_code == 4
    )


BODIES = {
    "nested": function("y = l.g(x)", imports='"" : 17, "l" : 1') + function("y = Tanh(x)", "g (x) => (y)"),
    "equal names": function("h = Neg(x) a = Abs(h) k = Add(a, h) y = Identity(k)"),
    "subgraph": function(
        "s = Abs(x) c = Constant<value: tensor = bool {1}>() "
        "y = If (c) <then_branch = one () => (q) { h = Neg(s) q = Relu(h) },"
        " else_branch = two () => (r) { r = Sub(x, s) }>"
    ),
    "output is input": function("y = Identity(x)"),
    "missing input": function("y = Clip(x, lo, hi)", "f (x, lo, hi) => (y)"),
    "unused": function("y = Relu(x)") + function("y = Neg(x)", "lonely (x) => (y)"),
    "older opset, same meaning": function("s = Sigmoid(x) y = Mul(x, s)", imports='"" : 14'),
}


@pytest.mark.parametrize("name", BODIES)
def test_inlining_changes_no_output(name: str) -> None:
    found = unchanged(model_of(BODIES[name]))
    assert {f.name for f in found.functions} == ({"lonely"} if name == "unused" else set())


def test_defaults_of_attributes_survive() -> None:
    body = function("y = LeakyRelu <alpha : float = @slope> (x)", "f <slope: float = 0.3>(x) => (y)")
    found = unchanged(model_of(body, second="b = l.f <slope = 0.7> (k)"))
    slopes = [n.attribute[0].f for n in found.graph.node if n.op_type == "LeakyRelu"]
    assert slopes == pytest.approx([0.3, 0.7])


def test_overloads_are_told_apart() -> None:
    body = '<domain: "l", overload: "{}", opset_import: ["" : 17]>\nf (x) => (y) {{ y = {}(x) }}\n'
    model = model_of(
        body.format("one", "Relu") + body.format("two", "Neg"), "a = l.f:one(h)", "b = l.f:two(k)"
    )
    found = inlined(model)
    assert found.names == ("l::f:one", "l::f:two")
    assert [n.op_type for n in found.model.graph.node] == ["MatMul", "Relu", "MatMul", "Neg", "MatMul"]


def test_domains_that_only_functions_import_are_declared() -> None:
    found = unchanged(model_of(function("y = com.microsoft.Gelu(x)", imports='"" : 17, "com.microsoft" : 1')))
    assert {o.domain: o.version for o in found.opset_import} == {"": 17, "l": 1, "com.microsoft": 1}


def test_a_function_whose_operators_mean_something_else_stays() -> None:
    body = "s = ReduceSum <axes = [1], keepdims = 1> (x) y = Add(x, s)"
    model = model_of(
        function(body, imports='"" : 12') + function("y = Relu(x)", "g (x) => (y)"), second="b = l.g(k)"
    )
    found = inlined(model)
    assert found.names == ("l::g",)
    assert found.kept == (
        "function l::f is not inlined: its ReduceSum is of opset 12 of ai.onnx, and the model's is 17",
    )
    assert [f.name for f in found.model.functions] == ["f"]


def test_a_function_that_is_kept_keeps_what_it_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()

    @registry.rule("f", domain="l")
    def passed(site: Site) -> Verdict:
        """Pass labels on."""
        axes = numbered(site.shape())
        return Signature((axes,), (axes,))

    monkeypatch.setattr("onnxprune.analysis.analyse.REGISTRY", registry)
    model = model_of(BODIES["nested"], second="b = l.g(k)")
    found = unchanged(model)
    assert {f.name for f in found.functions} == {"f", "g"}
    assert [f.SerializeToString() for f in found.functions] == [
        f.SerializeToString() for f in model.functions
    ]
    assert [n.op_type for n in found.graph.node] == ["MatMul", "f", "MatMul", "Tanh", "MatMul"]
    assert not unchanged(model, "all").functions


def test_weights_of_a_function_called_twice_are_stored_once() -> None:
    body = function("c = Constant <value: tensor = float[1] {0.5}> () y = Mul(x, c)")
    model = model_of(body)
    weight = np.random.default_rng(2).standard_normal((16, 16)).astype(np.float32)
    model.functions[0].node[0].attribute[0].t.CopyFrom(numpy_helper.from_array(weight, "inner"))
    model.functions[0].node[1].op_type = "MatMul"
    found = unchanged(model)
    made = [n for n in found.graph.node if n.op_type in ("Constant", "Identity")]
    assert [n.op_type for n in made] == ["Constant", "Identity"]
    assert np.array_equal(numpy_helper.to_array(made[0].attribute[0].t), weight)
    result = onnxprune.prune(model, settings())
    assert result.report.verification.status == "proved"
    assert result.report.after.params < 0.4 * result.report.before.params


def test_a_kernel_that_disagrees_with_the_body_is_noticed() -> None:
    body = '<domain: "com.microsoft", opset_import: ["" : 17]>\nGelu (x) => (y) { y = Relu(x) }\n'
    model = model_of(
        body, "a = com.microsoft.Gelu(h)", "b = com.microsoft.Gelu(k)", more=', "com.microsoft" : 1'
    )
    feed = np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32)
    found = inline(model, lambda _: True)
    assert not np.allclose(outputs(model, feed), outputs(found.model, feed))
    with pytest.raises(UnprovedError, match="--inline none"):
        onnxprune.prune(model, settings("all"))


def test_a_function_that_calls_itself_is_refused() -> None:
    both = '"" : 17, "l" : 1'
    for body in (
        function("y = l.f(x)", imports=both),
        function("y = l.g(x)", imports=both) + function("y = l.f(x)", "g (x) => (y)", both),
    ):
        with pytest.raises(ModelError, match="calls itself, directly or"):
            onnxprune.inspect(model_of(body))


def test_a_call_inside_a_subgraph_is_written_out_there() -> None:
    first = (
        "c = Constant <value: tensor = bool {1}> () a = If (c) <then_branch = one () => (float[N,16] q) "
        "{ q = l.f(h) }, else_branch = two () => (float[N,16] r) { t = Neg(h) r = l.f(t) }>"
    )
    found = unchanged(model_of(SWISH, first))
    assert not found.functions


def test_settings_refuse_another_word() -> None:
    with pytest.raises(UsageError, match="unknown inline 'some'"):
        settings("some")
