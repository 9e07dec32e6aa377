"""Every command and example of the README runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "models", tmp_path / "models")
    return tmp_path


def environment() -> dict[str, str]:
    result = dict(os.environ)
    result["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{result['PATH']}"
    result["PYTHONPATH"] = str(ROOT)
    return result


def test_commands_run(folder: Path) -> None:
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("onnxprune")]
    assert len(commands) >= 6
    for command in commands:
        arguments = [sys.executable, "-m", *command.split()]
        done = subprocess.run(
            arguments, cwd=folder, env=environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr


def test_python_examples_run(folder: Path) -> None:
    examples = blocks("python")
    assert examples
    for example in examples:
        done = subprocess.run(
            [sys.executable, "-c", example],
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{example}\n{done.stderr}"
        assert "proved" in done.stdout


def test_scripts_of_the_readme_exist() -> None:
    named = re.findall(r"(scripts/\w+\.(?:sh|py))", TEXT)
    assert {"scripts/demo.sh", "scripts/test.sh"} <= set(named)
    for name in named:
        assert (ROOT / name).exists()


def test_the_table_is_filled() -> None:
    table = TEXT.split("<!-- figures -->")[1].split("<!-- end of figures -->")[0]
    assert table.count("| `digits_") == 4
