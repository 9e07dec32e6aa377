"""The command line that a page tells is the one that was run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from click.testing import CliRunner, Result

from onnxprune.cli.app import program
from onnxprune.reports.facts import command

MODELS = Path(__file__).parents[3] / "models"
RESNET, CALIB, EVAL = (MODELS / n for n in ("digits_resnet.onnx", "digits_calib.npz", "digits_eval.npz"))
QUICK = ("--ratio", "0.5", "--no-bench")


def run(*args: object) -> Result:
    return CliRunner().invoke(program, [str(a) for a in args])


def test_the_command_of_a_page_is_the_one_that_was_run(tmp_path: Path) -> None:
    given = (
        "--ratio", "0.5", "--ratio", "2.body*=0.25", "--exclude", "re:^/[67]/ ?",
        "--criterion", "wanda", "--calib", str(CALIB), "--recover", "ls", "--align", "4", "--seed", "3",
        "--input-shape", "input:2,1,16,?", "--no-bench", "--json", "--dry-run",
    )  # fmt: skip
    first = json.loads(run("prune", RESNET, *given).stdout)
    text = " ".join(command(first["settings"], str(RESNET), str(tmp_path / "o.onnx")))
    again = json.loads(run(*shlex.split(text)[1:], "--no-bench", "--json").stdout)
    assert again["settings"] == first["settings"]
    assert again["groups"] == first["groups"]


def test_the_command_quotes_and_names_what_python_gave() -> None:
    settings = {
        "targets": {"macs": 0.5, "size": 12345678.0},
        "calib": "given in Python",
        "exclude": ["a b'c"],
    }
    text = " ".join(command(settings, "my model.onnx", ""))
    assert shlex.split(text) == [
        "onnxprune", "prune", "my model.onnx", "-o", "OUT", "--target", "macs=0.5", "--target",
        "size=12345678", "--exclude", "a b'c", "--calib", "DATA",
    ]  # fmt: skip
