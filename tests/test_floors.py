"""Imports go down the floors only, and the core never imports torch."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "onnxprune"
FLOORS = {
    "errors": 0, "machine": 0, "quantities": 0, "choices": 0, "collection": 0, "plain": 0, "progress": 0,
    "record": 0, "svg": 0, "": 0,
    "model": 1,
    "rules": 2,
    "analysis": 3, "calibration": 3,
    "datascore": 5, "folding": 5, "recovery": 5, "recovering": 6, "stepping": 6, "probing": 6,
    "align": 4, "allocation": 4, "plan": 4, "scoring": 4, "settings": 4, "surgeon": 4,
    "inlining": 5, "planfile": 5, "planner": 5, "pricing": 5, "rewrite": 5, "selecting": 5, "unstructured": 5,
    "detailing": 6, "drift": 6, "inspecting": 6, "metrics": 6, "oracle": 6, "picture": 6, "proving": 6,
    "report": 6, "reports": 6, "sensing": 6, "timing": 6, "validating": 6, "wording": 6,
    "api": 7, "applying": 7, "pipeline": 7, "attempting": 7, "searching": 7,
    "batching": 8,
    "cli": 9, "__main__": 9,
}  # fmt: skip
NO_ONNX = {"allocation", "scoring", "plan", "settings", "align"}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found += (
                [node.module] if node.module != "onnxprune" else [f"onnxprune.{a.name}" for a in node.names]
            )
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        pytest.skip("the package offers its functions lazily")
    mine = FLOORS[module_of(path)]
    for name in imports(path):
        if name.split(".")[0] != "onnxprune" or name == "onnxprune":
            continue
        other = name.split(".")[1]
        if other in FLOORS:
            assert FLOORS[other] <= mine, (
                f"{path.name} on floor {mine} imports {name} on floor {FLOORS[other]}"
            )


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_torch_and_no_onnx_where_arrays_suffice(path: Path) -> None:
    tops = {name.split(".")[0] for name in imports(path)}
    assert "torch" not in tops
    if module_of(path) in NO_ONNX:
        assert not tops & {"onnx", "onnxruntime", "onnx_graphsurgeon"}
