"""Imports go down the floors only, and the core never imports torch."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "onnxprune"
ROOT = {"__init__", "__main__", "errors", "paths", "progress", "quantities", "registries", "registry"}
FLOORS = (
    "settings", "model", "rules", "analysis", "data", "rewrite", "oracle", "evaluation", "planning",
    "recovery", "reports", "pipeline", "batches", "cli",
)  # fmt: skip
NO_ONNX = {"planning/criteria", "planning/criterion", "planning/obs", "planning/allocate", "planning/plan"}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def floor_of(room: str) -> int:
    """The root is below all rooms."""
    return FLOORS.index(room) if room else -1


def imports(path: Path) -> list[str]:
    return imports_of(ast.parse(path.read_text()), path)


def imports_of(tree: ast.AST, path: Path) -> list[str]:
    result = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            result += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            result += (
                [node.module] if node.module != "onnxprune" else [f"onnxprune.{a.name}" for a in node.names]
            )
    return result


def executed(path: Path) -> list[str]:
    """Return what a module imports when it runs: not what stands below `if TYPE_CHECKING:`."""
    tree = ast.parse(path.read_text())
    tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test))]
    return imports_of(tree, path)


def test_rooms_are_the_floors() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == ROOT
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    if path.parent == PACKAGE and path.stem in ("__init__", "__main__"):
        pytest.skip("the ways into the package reach all floors")
    mine = floor_of(room_of(path))
    # The registries name the home modules of each kind anyway; they take the classes of these for types.
    named = executed(path) if path == PACKAGE / "registries.py" else imports(path)
    for name in named:
        parts = name.split(".")
        if parts[0] != "onnxprune" or len(parts) == 1:
            continue
        if parts[1] in FLOORS:
            assert floor_of(parts[1]) <= mine, f"{path} imports {name}, which is above it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_torch_and_no_onnx_where_arrays_suffice(path: Path) -> None:
    tops = {name.split(".")[0] for name in imports(path)}
    assert "torch" not in tops
    if path.relative_to(PACKAGE).with_suffix("").as_posix() in NO_ONNX:
        assert not tops & {"onnx", "onnxruntime", "onnx_graphsurgeon"}
