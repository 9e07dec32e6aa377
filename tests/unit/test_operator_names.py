"""What is known of an operator is known in `onnxprune/rules`: nobody else compares operator names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import onnx.defs
import pytest

from onnxprune.rules import REGISTRY

PACKAGE = Path(__file__).resolve().parents[2] / "onnxprune"
NAMES = {row.op for row in REGISTRY.table()} | {schema.name for schema in onnx.defs.get_all_schemas()}
STRUCTURE = {
    "model/graph.py": {"Constant", "Identity"},
    # Names of nodes that are made, listed with what they are made of.
    "rewrite/apply.py": {"Mul", "Div"},
    "oracle/restricted.py": {"Mul", "Add"},
}
OUTSIDE = sorted(p for p in PACKAGE.rglob("*.py") if p.relative_to(PACKAGE).parts[0] != "rules")


def written(tree: ast.AST) -> set[int]:
    """The names that make a node: arguments of a call, and what an `op_type` or `op` is set to."""
    made = {id(arg) for call in ast.walk(tree) if isinstance(call, ast.Call) for arg in call.args}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            ends = {target.attr for target in node.targets if isinstance(target, ast.Attribute)}
            made |= {id(node.value)} if ends & {"op_type", "op"} else set()
    return made


def is_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in NAMES


def compared(source: str) -> Iterator[tuple[int, str]]:
    """The operator names in a source that are no argument of a call: with their lines."""
    tree = ast.parse(source)
    made = written(tree)
    for node in ast.walk(tree):
        if is_name(node) and id(node) not in made:
            assert isinstance(node, ast.Constant)
            yield node.lineno, node.value


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_no_operator_name_is_compared_outside_of_the_rules(path: Path) -> None:
    place = path.relative_to(PACKAGE).as_posix()
    found = [
        (line, name) for line, name in compared(path.read_text()) if name not in STRUCTURE.get(place, ())
    ]
    assert not found, f"onnxprune/{place}: say it in the rule, as a facet, and read the facet: {found}"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("x = node.op == 'Conv'", ["Conv"]),
        ("x = node.op in ('Conv', 'Gemm')", ["Conv", "Gemm"]),
        ("match op:\n    case 'Relu':\n        pass", ["Relu"]),
        ("table = {'MaxPool': 1}", ["MaxPool"]),
        ("table = frozenset(('Add', 'Sub'))", ["Add", "Sub"]),
        ("node = make_node('Add', names, outputs)", []),
        ("node.op_type = 'Constant'", []),
        ("word = 'Convolution'", []),
    ],
)
def test_a_comparison_is_seen(source: str, found: list[str]) -> None:
    assert [name for _, name in compared(source)] == found


def test_every_family_names_its_specification() -> None:
    for path in {
        PACKAGE / "rules" / f"{row.family}.py" for row in REGISTRY.table() if row.origin == "onnxprune"
    }:
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        assert "https://onnx.ai/onnx/operators/" in text or "ContribOperators.md" in text, path.name
