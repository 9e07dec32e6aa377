"""Rules that other packages bring: found, used once, and refused in one line where they are broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxprune.errors import OnnxPruneError, UsageError
from onnxprune.rules import Registry, Signature, Site, Verdict
from onnxprune.rules.signature import numbered

ROOT = Path(__file__).resolve().parents[2]
RULE = '''
from onnxprune.rules.registry import rule
from onnxprune.rules.signature import Signature, numbered

@rule("BiasSquare", domain="acme")
def bias_square(site):
    """Adds a vector along the last axis, then squares."""
    axes = numbered(site.shape())
    return Signature((axes, (axes[-1],)), (axes,))
'''


def install(folder: Path, source: str, entry: str = "acme_rules") -> None:
    """Write what `pip install --target` leaves of a package with one module and one entry point."""
    folder.mkdir(exist_ok=True)
    (folder / "acme_rules.py").write_text(source)
    info = folder / "acme_rules-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-rules\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[onnxprune.rules]\nacme = {entry}\n")


def command(folder: Path | None, *args: object) -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT)] if folder is None else [str(folder), str(ROOT)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    line = [sys.executable, "-m", "onnxprune", *(str(a) for a in args)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, env=env, check=False, cwd=ROOT)


def custom_model(path: Path) -> None:
    """x [n, 8] -> Gemm -> acme::BiasSquare [n, 16] -> Gemm; a function of the model says what it computes."""
    rng = np.random.default_rng(0)
    arrays = {"w": (8, 16), "b": (16,), "v": (16, 4)}
    tensors = [
        numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in arrays.items()
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("BiasSquare", ["h", "b"], ["a"], domain="acme"),
        helper.make_node("MatMul", ["a", "v"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s)
        for n, s in (("x", ["n", 8]), ("y", ["n", 4]))
    ]
    body = [helper.make_node("Add", ["p", "q"], ["s"]), helper.make_node("Mul", ["s", "s"], ["r"])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    function = helper.make_function("acme", "BiasSquare", ["p", "q"], ["r"], body, opsets[:1])
    graph = helper.make_graph(nodes, "custom", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=9)
    onnx.save(model, path)


def test_a_plugin_lets_labels_through_a_custom_operator(tmp_path: Path) -> None:
    model, out = tmp_path / "m.onnx", tmp_path / "o.onnx"
    custom_model(model)
    install(tmp_path / "site", RULE)
    args = ("prune", model, "-o", out, "--ratio", 0.5, "--align", 1, "--no-bench", "--json")
    result = command(tmp_path / "site", *args)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["verification"]["status"] == "proved"
    pruned = onnx.load(out)
    assert {t.name: list(t.dims) for t in pruned.graph.initializer} == {"w": [8, 8], "b": [8], "v": [8, 4]}
    assert [n.op_type for n in pruned.graph.node] == ["MatMul", "BiasSquare", "MatMul"]


def test_without_its_plugin_the_operator_freezes_its_channels(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    custom_model(model)
    result = command(None, "inspect", model, "--json", "--inline", "none")
    assert json.loads(result.stdout)["without_rule"] == ["BiasSquare"]


def test_the_operator_table_says_where_a_rule_comes_from(tmp_path: Path) -> None:
    install(tmp_path / "site", RULE)
    rows = json.loads(command(tmp_path / "site", "ops", "--json").stdout)["operators"]
    foreign = [row for row in rows if row["origin"] != "onnxprune"]
    assert [(r["domain"], r["op"], r["origin"]) for r in foreign] == [("acme", "BiasSquare", "acme-rules")]


@pytest.mark.parametrize(
    ("source", "entry", "says"),
    [
        ("import no_such_module", "acme_rules", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def broken(:", "acme_rules", "SyntaxError"),
        ("raise SystemExit(3)", "acme_rules", "SystemExit: 3"),
        (
            RULE.replace("acme", "").replace("BiasSquare", "Conv"),
            "acme_rules",
            "Conv since opset 1 has a rule",
        ),
        (RULE, "acme_rules:bias_square", "expected the module itself"),
        (RULE, "acme_rulez", "No module named 'acme_rulez'"),
    ],
)
def test_a_broken_plugin_is_one_line_that_names_it(
    source: str, entry: str, says: str, tmp_path: Path
) -> None:
    install(tmp_path / "site", source, entry)
    model = tmp_path / "m.onnx"
    custom_model(model)
    for args in (("ops",), ("inspect", model), ("prune", model, "-o", tmp_path / "o.onnx", "--ratio", 0.5)):
        result = command(tmp_path / "site", *args)
        assert result.returncode == 2, result.stderr
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: the rules of 'acme-rules' (entry point 'acme = ")
        assert says in line
        assert "'pip uninstall acme-rules'" in line
    assert not (tmp_path / "o.onnx").exists()


NORMALISING = '''
from onnxprune.rules.signature import Facets
from onnxprune.rules.registry import rule
from onnxprune.rules.signature import Signature, numbered
from onnxprune.rules.tape import SLOPE

@rule("BiasSquare", domain="acme", facets=Facets(gradient=SLOPE))
def bias_square(site):
    """Adds a vector along the last axis, then does something along it."""
    axes = numbered(site.shape())
    return Signature((axes, (axes[-1],)), (axes,), normalised=frozenset(axes[-1]))
'''


def test_a_rule_that_normalises_and_does_not_say_how_freezes_its_channels(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    custom_model(model)
    install(tmp_path / "site", NORMALISING)
    result = command(tmp_path / "site", "inspect", model, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["groups"] == []
    reasons = {pin["reason"] for pin in found["pinned"]}
    assert "BiasSquare normalises over this axis, and its rule does not say how" in reasons


@pytest.mark.parametrize(
    ("body", "says"),
    [("return site.attrs['size']", "KeyError('size')"), ("return None", "got None, expected a Signature")],
)
def test_a_rule_that_fails_is_named(body: str, says: str, tmp_path: Path) -> None:
    head = RULE[: RULE.index("    axes")]
    install(tmp_path / "site", f"{head}    {body}\n")
    model = tmp_path / "m.onnx"
    custom_model(model)
    result = command(tmp_path / "site", "inspect", model)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "the rule 'bias_square' of 'acme-rules', at BiasSquare" in line
    assert says in line


def test_help_and_import_load_no_plugin(tmp_path: Path) -> None:
    install(tmp_path / "site", "raise SystemExit(3)")
    assert command(tmp_path / "site", "--help").returncode == 0
    code = "import sys, onnxprune, onnxprune.rules; sys.exit('acme_rules' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(ROOT)])}
    assert subprocess.run([sys.executable, "-c", code], env=env, timeout=60, check=False).returncode == 0


def double(site: Site) -> Verdict:
    """Pass labels on."""
    axes = numbered(site.shape())
    return Signature((axes,), (axes,))


def test_an_addition_that_fails_leaves_nothing_behind() -> None:
    registry = Registry()
    registry.rule("One", domain="acme")(double)
    with pytest.raises(OnnxPruneError, match="Two since opset 1"), registry.adding("acme"):
        registry.rule("Two", "Two", domain="acme")(double)
    assert [row.op for row in registry.table()] == ["One"]
    with registry.adding("acme"):
        registry.rule("Two", domain="acme")(double)
    assert [row.origin for row in registry.table()] == [double.__module__, "acme"]


def test_a_foreign_rule_that_raises_is_a_usage_error() -> None:
    registry = Registry()
    registry.rule("Two", domain="acme")(double)
    found = registry.find("acme", "Two", 1)
    assert found is not None
    site = Site("Two", "acme", 1, "node", {}, (None,), (None,), (), ())
    with pytest.raises(UsageError, match="the rule 'double'"):
        found.verdict(site)
