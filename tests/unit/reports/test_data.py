"""Reports as data: typed from the engine to the page, and the JSON of every command as it always was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import onnxprune
from onnxprune import PruneSettings
from onnxprune.cli.app import program
from onnxprune.reports.plain import versioned
from onnxprune.reports.reading import prune_report
from tests.report_data import two_convs

KEYS = Path(__file__).with_name("json_keys.json")
NAMES = {int: "number", float: "number", str: "text", bool: "boolean", type(None): "null"}


def tree(value: Any) -> Any:
    """Return what keys JSON has, and of what type values are; the entries of a list are one."""
    if isinstance(value, dict):
        return {key: tree(item) for key, item in value.items()}
    if isinstance(value, list):
        return [merged([tree(item) for item in value])] if value else []
    return NAMES[type(value)]


def merged(trees: list[Any]) -> Any:
    if not all(isinstance(t, dict) for t in trees):
        return trees[0]
    keys = dict.fromkeys(key for t in trees for key in t)
    found = {key: [t[key] for t in trees if key in t] for key in keys}
    return {key: merged([t for t in every if t != "null"] or ["null"]) for key, every in found.items()}


def outputs(folder: Path) -> dict[str, Any]:
    """Run every command that prints a report; return the JSON of each."""
    model, small, plan, data = (folder / n for n in ("m.onnx", "small.onnx", "plan.json", "data.npz"))
    zoo, curves = folder / "zoo", folder / "curves.json"
    zoo.mkdir()
    onnx.save(two_convs("n"), model)
    onnx.save(two_convs("n"), zoo / "m.onnx")
    rng = np.random.default_rng(0)
    np.savez(data, x=rng.normal(size=(8, 3, 8, 8)).astype(np.float32))
    usual = ("--align", 1, "--calib", data, "--recover", "ls")
    runs: dict[str, tuple[object, ...]] = {
        "sensitivity": ("sensitivity", model, "--calib", data, "--share", 0.5),
        "prune": ("prune", model, "-o", small, "--plan", plan, "--ratio", 0.5, "--steps", 2, *usual,
                  "--validate", data, "--max-drop", 9, "--report", folder / "page.html"),
        "search": ("prune", model, "--dry-run", "--target", "drift=0.9", *usual),
        "apply": ("apply", model, "--plan", plan, "-o", folder / "again.onnx"),
        "verify": ("verify", small, "--original", model, "--plan", plan),
        "inspect": ("inspect", model),
        "bench": ("bench", model, small),
        "sparsify": ("sparsify", model, "-o", folder / "sparse.onnx", "--sparsity", 0.5),
        "compare": ("compare", curves.with_name("prune.json"), curves.with_name("prune.json")),
        "batch": ("batch", zoo, "-o", folder / "out", "--ratio", 0.5, "--align", 1, "--no-bench"),
    }  # fmt: skip
    found = {}
    for name, words in runs.items():
        result = CliRunner().invoke(program, [*(str(w) for w in words), "--json"])
        assert result.exit_code == 0, (name, result.stderr)
        (folder / f"{name}.json").write_text(result.stdout)
        found[name] = json.loads(result.stdout)
    found["report"] = json.loads((folder / "out" / "report.json").read_text())
    return found


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return outputs(tmp_path_factory.mktemp("json"))


@pytest.mark.parametrize("name", json.loads(KEYS.read_text()))
def test_the_keys_of_json_are_those_of_version_0_1_0(told: dict[str, Any], name: str) -> None:
    wanted = json.loads(KEYS.read_text())[name]
    assert tree(told[name]) == wanted
    assert list(told[name]) == list(wanted)
    assert told[name]["schema_version"] == 1


@pytest.mark.parametrize("name", ["prune", "search", "apply"])
def test_a_report_of_prune_is_read_back_to_the_same_json(told: dict[str, Any], name: str) -> None:
    assert versioned(prune_report(told[name])) == told[name]


def test_the_parts_of_a_report_are_typed() -> None:
    rng = np.random.default_rng(0)
    calib = {"x": rng.normal(size=(8, 3, 8, 8)).astype(np.float32)}
    settings = PruneSettings(targets={"drift": 0.9}, align=1, calib=calib, recover="ls", detailed=True)
    report = onnxprune.prune(two_convs("n"), settings).report
    assert report.verification.status == "proved"
    assert report.verification.cases > 1
    assert report.recovery is not None
    assert report.recovery.drift_after <= report.recovery.drift_before
    assert report.bench is not None
    assert report.bench.timings[0].versus_first is None
    versus = report.bench.timings[1].versus_first
    assert versus is not None
    assert versus.low <= versus.ratio <= versus.high
    assert report.targets["drift"].reached <= report.targets["drift"].limit == 0.9
    assert list(report.search[0]) == ["asked", "macs_share", "drift", "holds"]
    assert any(t.holds and t["drift"] == report.targets["drift"].reached for t in report.search)
    assert report.drift is not None
    assert report.drift.inputs == "generated"
    assert report.profile is not None
    assert report.profile.operators[0].op in ("Conv", "Relu", "ReorderInput", "ReorderOutput")
