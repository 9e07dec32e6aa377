"""The same command gives the same bytes, whatever order Python hashes strings in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

MODELS = Path(__file__).resolve().parents[2] / "models"
DATA = ("--calib", str(MODELS / "digits_calib.npz"))


@pytest.mark.parametrize("more", [(), DATA, ("--calib", "synthetic")], ids=["norms", "data", "synthetic"])
@pytest.mark.parametrize("name", ["digits_resnet", "digits_shuffle"])
def test_two_processes_write_the_same_bytes(tmp_path: Path, name: str, more: tuple[str, ...]) -> None:
    written = []
    for seed in ("1", "2"):
        target = tmp_path / f"{seed}.onnx"
        command = [
            "prune",
            str(MODELS / f"{name}.onnx"),
            "-o",
            str(target),
            "--target",
            "macs=0.6",
            "--no-bench",
        ]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run(
            [sys.executable, "-m", "onnxprune", *command, *more],
            env=environment,
            check=True,
            capture_output=True,
        )
        written.append(target.read_bytes())
    assert written[0] == written[1]
