"""The command line: every command, its JSON, its exit codes, and what people read."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

import onnxprune
from onnxprune.analysis.analyse import load
from onnxprune.cli import screen, tables
from onnxprune.cli.app import program
from onnxprune.cli.errors import Terminated
from onnxprune.errors import UsageError, nearest, printable, shortened
from onnxprune.evaluation.latency import BenchResult, BenchSettings, LatencyRatio, Timing
from onnxprune.model.runtime import one_line
from onnxprune.oracle.prove import Verification
from onnxprune.reports.data import Dropped, GroupReport, PinReport, PruneReport, Quantities, VerifyReport

MODELS = Path(__file__).parents[2] / "models"
RESNET, SHUFFLE = MODELS / "digits_resnet.onnx", MODELS / "digits_shuffle.onnx"
HALF = ("--ratio", "0.5", "--no-bench")
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and terminals")


def run(*args: object) -> Result:
    return CliRunner().invoke(program, [str(a) for a in args])


def refused(code: int, *args: object) -> str:
    """Run what must fail with one line on stderr and nothing on stdout; return the line."""
    result = run(*args)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "onnxprune", *(str(a) for a in args)]


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A pruned model and its plan."""
    folder = tmp_path_factory.mktemp("pruned")
    model, plan = folder / "small.onnx", folder / "plan.json"
    result = run("prune", RESNET, "-o", model, "--plan", plan, *HALF)
    assert result.exit_code == 0, result.output
    return model, plan


# commands


def test_prune_tells_sizes_proof_groups_and_places(tmp_path: Path) -> None:
    result = run("prune", RESNET, "-o", tmp_path / "o.onnx", "--ratio", "0.5")
    assert result.exit_code == 0
    rows = {line[:10].strip(): line for line in result.stdout.splitlines()}
    assert "214 k" in rows["parameters"]
    assert "25.6 %" in rows["parameters"]
    assert "18.7 M" in rows["MACs"]
    assert "871 kB" in rows["bytes"]
    assert " ms " in rows["latency"]
    assert "proved: error " in result.stdout
    assert "11 of 11 pruned" in result.stdout
    assert "10 channels at graph output" in result.stdout
    assert str(tmp_path / "o.onnx") in result.stdout
    assert (tmp_path / "o.onnx").is_file()


@pytest.mark.parametrize("model", sorted(MODELS.glob("digits_*.onnx")), ids=lambda m: m.stem)
def test_prune_json_is_the_report(model: Path, tmp_path: Path) -> None:
    result = run("prune", model, "-o", tmp_path / "o.onnx", *HALF, "--json")
    assert result.exit_code == 0
    data = json.loads(result.stdout)
    assert data["schema_version"] == 1
    assert data["verification"]["status"] == "proved"
    assert data["after"]["bytes"] == (tmp_path / "o.onnx").stat().st_size < data["before"]["bytes"]
    assert {"groups", "dropped", "pinned", "bench", "timings", "settings"} <= data.keys()


def test_prune_passes_all_settings_on(tmp_path: Path) -> None:
    given = (
        "--ratio", "2.body*=0.25", "--criterion", "l1", "--scope", "local", "--granularity", "rows",
        "--align", 4, "--min-channels", 2, "--exclude", "7.body*", "--seed", 3,
        "--input-shape", "input:2,1,16,?",
    )  # fmt: skip
    result = run("prune", RESNET, "-o", tmp_path / "o.onnx", *HALF, *given, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["settings"]
    wanted = {
        "ratio": 0.5, "ratios": [["2.body*", 0.25]], "targets": {}, "criterion": "l1", "scope": "local",
        "granularity": "rows", "align": 4, "min_channels": 2, "exclude": ["7.body*"], "seed": 3,
    }  # fmt: skip
    assert {k: found[k] for k in wanted} == wanted


def test_every_option_of_prune_is_listed() -> None:
    wanted = {
        "-o", "--ratio", "--target", "--criterion", "--scope", "--granularity", "--align", "--min-channels",
        "--exclude", "--seed", "--plan", "--dry-run", "--force", "--no-bench", "--allow-unproved", "--json",
        "-v", "-q", "--input-shape", "--input-value", "--provider", "--threads", "--inline",
        "--calib", "--recover", "--memory-limit", "--validate", "--metric", "--max-drop", "--steps",
        "--max-drift", "--ruined", "--report", "--sensitivity", "--timeout",
    }  # fmt: skip
    assert isinstance(program.commands["prune"], click.Command)
    names = {o for p in program.commands["prune"].params for o in p.opts}
    assert names - {"--output", "--verbose", "--quiet", "model"} == wanted


def test_dry_run_writes_only_the_plan(tmp_path: Path) -> None:
    result = run(
        "prune", RESNET, "--ratio", 0.5, "--dry-run", "-o", tmp_path / "o.onnx", "--plan", tmp_path / "p"
    )
    assert result.exit_code == 0
    assert [f.name for f in tmp_path.iterdir()] == ["p"]
    assert "latency" not in result.stdout
    assert "--dry-run" in result.stdout


def test_force_replaces_model_and_plan(tmp_path: Path) -> None:
    out, plan = tmp_path / "o.onnx", tmp_path / "p.json"
    out.write_text("old")
    plan.write_text("old")
    assert "exists" in refused(2, "prune", RESNET, "-o", out, *HALF)
    assert "exists" in refused(2, "prune", RESNET, "-o", tmp_path / "new.onnx", "--plan", plan, *HALF)
    assert run("prune", RESNET, "-o", out, "--plan", plan, "--force", *HALF).exit_code == 0
    assert json.loads(plan.read_bytes())["schema_version"] == 1
    assert sorted(f.name for f in tmp_path.iterdir()) == ["o.onnx", "p.json"]


def test_apply_repeats_prune(pruned: tuple[Path, Path], tmp_path: Path) -> None:
    result = run("apply", RESNET, "--plan", pruned[1], "-o", tmp_path / "o.onnx")
    assert result.exit_code == 0
    assert "proved" in result.stdout
    assert (tmp_path / "o.onnx").read_bytes() == pruned[0].read_bytes()
    assert "asked" not in result.stdout
    again = run("apply", RESNET, "--plan", pruned[1], "-o", tmp_path / "o.onnx", "--force", "--json")
    assert json.loads(again.stdout)["verification"]["status"] == "proved"


def test_verify(pruned: tuple[Path, Path]) -> None:
    model, plan = pruned
    result = run("verify", model, "--original", RESNET, "--plan", plan)
    assert result.exit_code == 0
    assert "is the plan's result" in result.stdout
    data = json.loads(run("verify", model, "--original", RESNET, "--plan", plan, "--json").stdout)
    assert data["matches_plan"]
    assert data["differences"] == []


def test_verify_lists_what_differs(pruned: tuple[Path, Path], tmp_path: Path) -> None:
    other = onnx.load(pruned[0])
    weight = next(t for t in other.graph.initializer if t.name == "0.0.weight")
    weight.raw_data = np.negative(onnx.numpy_helper.to_array(weight)).tobytes()
    onnx.save(other, tmp_path / "other.onnx")
    result = run("verify", tmp_path / "other.onnx", "--original", RESNET, "--plan", pruned[1])
    assert result.exit_code == 1
    assert "the values of tensor '0.0.weight' differ" in result.stdout
    assert result.stderr.endswith(": 1 difference\n")


def test_verify_prints_the_first_differences(pruned: tuple[Path, Path]) -> None:
    args = ("verify", SHUFFLE, "--original", RESNET, "--plan", pruned[1])
    result = run(*args)
    assert result.exit_code == 1
    found = json.loads(run(*args, "--json").stdout)["differences"]
    assert len(found) > 20
    shown = result.stdout.split("differences\n")[1].splitlines()
    assert shown == [*found[:10], f"and {len(found) - 10} more (--json lists all)"]
    assert f": {len(found)} differences" in result.stderr


def test_verify_of_a_failed_proof(monkeypatch: pytest.MonkeyPatch, pruned: tuple[Path, Path]) -> None:
    report = VerifyReport(replace(PROOF, status="failed"), True, ())
    monkeypatch.setattr(onnxprune, "verify", lambda *_: report, raising=False)
    result = run("verify", pruned[0], "--original", RESNET, "--plan", pruned[1])
    assert result.exit_code == 5
    assert "not proved" in result.stderr


def test_inspect() -> None:
    result = run("inspect", SHUFFLE)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "2.left.1.0.weight" in result.stdout
    assert "node_Conv_" not in result.stdout
    assert "graph output" in result.stdout
    assert "operators without a rule" in result.stdout
    assert "node_Conv_447" in run("inspect", SHUFFLE, "-v").stdout
    data = json.loads(run("inspect", SHUFFLE, "--json").stdout)
    assert data["groups"][0]["members"][0]["tensor"] == "0.0.weight"


@pytest.mark.slow
def test_bench(pruned: tuple[Path, Path]) -> None:
    result = run("bench", RESNET, pruned[0], "--threads", 2, "--input-shape", "input:2,1,16,16")
    assert result.exit_code == 0
    assert "faster" in result.stdout
    assert "2 threads" in result.stdout
    assert "2x1x16x16" in result.stdout
    data = json.loads(run("bench", RESNET, "--json").stdout)
    assert data["models"][0]["name"] == str(RESNET)
    assert data["schema_version"] == 1


def test_sparsify(tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    result = run("sparsify", RESNET, "-o", out, "--sparsity", 0.5)
    assert result.exit_code == 0
    assert "50.0 % of 210 k weights" in result.stdout
    assert "drift" in result.stdout
    assert result.stderr.startswith("note: the file is no smaller, as zeros are stored like other weights")
    assert "--sparse-initializers" in result.stderr
    onnx.checker.check_model(onnx.load(out))
    args = ("--pattern", "2:4", "--exclude", "type:Gemm", "--sparse-initializers", "--force", "--json")
    data = json.loads(run("sparsify", RESNET, "-o", out, *args).stdout)
    assert 0 < data["drift"] < 2
    assert data["total"]["sparsity"] == pytest.approx(0.5, abs=0.01)
    assert "10.weight" not in [t["name"] for t in data["tensors"]]
    assert "0.0.weight" in run("sparsify", RESNET, "-o", out, "--sparsity", 0.5, "--force", "-v").stdout


def test_sparsify_without_inputs_that_run_says_so(tmp_path: Path) -> None:
    out, custom = tmp_path / "o.onnx", tmp_path / "custom.onnx"
    model = onnx.load(RESNET)
    model.graph.node[1].op_type, model.graph.node[1].domain = "Mystery", "acme"
    model.opset_import.add(domain="acme", version=1)
    onnx.save(model, custom)
    result = run("sparsify", custom, "-o", out, "--sparsity", 0.5, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["drift"] is None
    assert "drift is not measured" in result.stderr
    assert out.is_file()


def test_sparsify_says_nothing_of_a_file_that_got_smaller(tmp_path: Path) -> None:
    args = ("--sparsity", 0.9, "--sparse-initializers")
    assert run("sparsify", RESNET, "-o", tmp_path / "o.onnx", *args).stderr == ""
    assert (tmp_path / "o.onnx").stat().st_size < RESNET.stat().st_size / 2


def test_ops() -> None:
    text = run("ops").stdout
    assert "Conv " in text
    rows = json.loads(run("ops", "--json").stdout)["operators"]
    assert {"domain", "op", "since", "family", "origin", "summary"} == rows[0].keys()
    assert len(rows) == len(text.splitlines()) - 1


# exit codes


def test_missing_and_garbage_files(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.onnx"
    garbage.write_text("garbage")
    out = tmp_path / "o.onnx"
    for path in (tmp_path / "missing.onnx", garbage):
        assert path.name in refused(3, "prune", path, "-o", out, *HALF)
        assert path.name in refused(3, "inspect", path)
        assert path.name in refused(3, "bench", path)
        assert refused(3, "bench", RESNET, path) == refused(3, "bench", path)
        assert path.name in refused(3, "sparsify", path, "-o", out, "--sparsity", 0.5)
        assert path.name in refused(3, "verify", path, "--original", RESNET, "--plan", garbage)
    assert [f.name for f in tmp_path.iterdir()] == ["garbage.onnx"]


def test_output_equal_to_input(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(RESNET.read_bytes())
    assert "is the input" in refused(2, "prune", model, "-o", model, "--force", *HALF)
    assert "is the input" in refused(2, "sparsify", model, "-o", model, "--force", "--sparsity", 0.5)
    assert model.read_bytes() == RESNET.read_bytes()


@pytest.mark.parametrize("plan", ["o.onnx", "m.onnx"])
def test_plan_file_equal_to_a_model(plan: str, tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(RESNET.read_bytes())
    args = ("-o", tmp_path / "o.onnx", "--plan", tmp_path / plan, "--force", *HALF)
    assert "two files" in refused(2, "prune", model, *args)
    assert model.read_bytes() == RESNET.read_bytes()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((), "-o OUT is required"),
        (("-o", "OUT"), "got neither"),
        (("-o", "OUT", "--ratio", 0.5, "--target", "macs=0.5"), "got both"),
        (("-o", "OUT", "--ratio", "conv=0.5", "--target", "macs=0.5"), "got both"),
        (("-o", "OUT", "--ratio", 0.5, "--ratio", 0.4), "2 for all groups"),
        (("-o", "OUT", "--ratio", 1.5), "below 1"),
        (("-o", "OUT", "--ratio", "nan"), "below 1"),
        (("-o", "OUT", "--ratio", "half"), "'--ratio'"),
        (("-o", "OUT", "--ratio", "=0.5"), "'--ratio'"),
        (("-o", "OUT", "--target", "speed=0.5"), "macs, params, size"),
        (("-o", "OUT", "--target", "latency=0.5"), "macs, params, size"),
        (("-o", "OUT", "--target", "macs=5Q"), "unknown unit 'Q'"),
        (("-o", "OUT", "--target", "size=1B"), "less than any model"),
        (("-o", "OUT", "--target", "macs=0"), "above 0"),
        (("-o", "OUT", "--target", "macs=0.5", "--target", "macs=0.4"), "given twice"),
        (("-o", "OUT", *HALF, "--criterion", "best"), "'--criterion'"),
        (("-o", "OUT", *HALF, "--align", "0"), "'--align'"),
        (("-o", "OUT", *HALF, "--seed", "-1"), "'--seed'"),
        (("-o", "OUT", *HALF, "--input-shape", "input"), "'--input-shape'"),
        (("-o", "OUT", *HALF, "--input-shape", "other:1"), "no input 'other'"),
        (("-o", "OUT", *HALF, "--input-value", "input=none.npy"), "none.npy"),
        (("-o", "OUT", *HALF, "--input-value", "input=a", "--input-value", "input=b"), "given twice"),
        (("-o", "OUT", *HALF, "--exclude", "0.0.weigth"), "0.0.weight"),
        (("-o", "OUT", "--ratio", "0.0.weigth=0.5"), "0.0.weight"),
        (("-o", "OUT", *HALF, "--steps", "3"), "give --calib DATA"),
        (("-o", "OUT", *HALF, "-q", "-v"), "exclude each other"),
        (("-o", "no folder/o.onnx", *HALF), "does not exist"),
        (("-o", "OUT", *HALF, "--exclude", "type:conv"), "nearest: 'Conv'"),
        (("-o", "OUT", *HALF, "--ratio", "type:Rellu=0.2"), "nearest: 'Relu'"),
        (("-o", "OUT", "--ratio", "type:Flatten=0.2"), "makes the channels of a group"),
        (("-o", "OUT", "--ratio", "50%"), "'--ratio'"),
        (("-o", "OUT", "--target", "macs=50%"), "a share such as 0.5"),
    ],
)
def test_usage_errors_of_prune(args: tuple[object, ...], says: str, tmp_path: Path) -> None:
    args = tuple(tmp_path / "o.onnx" if a == "OUT" else a for a in args)
    assert says in refused(2, "prune", RESNET, *args)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "args",
    [
        ("prun",), ("--ratio",), ("prune",), ("apply", RESNET), ("verify", RESNET), ("bench",),
        ("sparsify", RESNET, "--sparsity", "0.5"), ("ops", "extra"), ("batch", RESNET),
        ("sensitivity", RESNET),
    ],
)  # fmt: skip
def test_usage_errors_name_the_help(args: tuple[object, ...]) -> None:
    assert "--help'" in refused(2, *args)


@pytest.mark.parametrize("command_", ["prune", "inspect", "bench", "sparsify"])
@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            ("--input-shape", "inptu:1,1,16,16"),
            "no input 'inptu'; nearest: 'input'; its inputs are 'input' [",
        ),
        (("--input-value", "inptu=1"), "no input 'inptu'; nearest: 'input'"),
        (("--input-shape", "input:0"), "got 1 size, expected 4"),
        (("--input-shape", "input:0,1,16,16"), "got size 0 at axis 0, expected 1 or more"),
        (("--input-shape", "input:-2,1,16,16"), "got size '-2'"),
        (("--input-shape", "input:1,1,17,16"), "the model declares [batch, 1, 16, 16]"),
        (("--input-value", "input=text"), "no float32"),
    ],
)
def test_inputs_that_the_model_does_not_have(
    command_: str, given: tuple[str, str], says: str, tmp_path: Path
) -> None:
    more = {"prune": HALF, "sparsify": ("--sparsity", "0.5")}.get(command_, ())
    place = ("-o", tmp_path / "o.onnx") if more else ()
    assert says in refused(2, command_, RESNET, *place, *more, *given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("extra", [(), ("--no-bench",), ("--dry-run",)])
def test_a_provider_that_is_not_there_is_refused_early(
    extra: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("onnxprune.pipeline.prune.load", lambda _: pytest.fail("loaded"))
    monkeypatch.setattr("onnxprune.pipeline.api.load", lambda _: pytest.fail("loaded"))
    name = ("--provider", "CPUExecutionProvidr")
    text = refused(2, "prune", RESNET, "-o", tmp_path / "o.onnx", "--ratio", "0.5", *extra, *name)
    assert "'CPUExecutionProvidr' is not available; nearest: 'CPUExecutionProvider'" in text
    assert refused(2, "bench", RESNET, *name) == text
    assert list(tmp_path.iterdir()) == []


def test_a_model_error_names_its_file(tmp_path: Path) -> None:
    model = onnx.load(RESNET)
    model.graph.node[5].input[0] = "nowhere"
    onnx.save(model, tmp_path / "bad.onnx")
    assert f"'{tmp_path / 'bad.onnx'}': node " in refused(3, "bench", RESNET, tmp_path / "bad.onnx")


def test_bench_of_models_with_other_inputs(tmp_path: Path) -> None:
    model = onnx.load(RESNET)
    model.graph.input[0].name = "image"
    for node in model.graph.node:
        node.input[:] = ["image" if name == "input" else name for name in node.input]
    onnx.save(model, tmp_path / "m.onnx")
    text = refused(2, "bench", RESNET, tmp_path / "m.onnx")
    assert "no value for input image; got input, as models are timed on the inputs of the first" in text
    for given in ([], str(RESNET)):
        with pytest.raises(UsageError, match="expected a list"):
            onnxprune.bench(given)


def test_unknown_operators_are_said_in_words(tmp_path: Path) -> None:
    model = onnx.load(RESNET)
    relu = next(n for n in model.graph.node if n.op_type == "Relu")
    relu.op_type = "Affine"
    onnx.save(model, tmp_path / "m.onnx")
    (warning,) = load(tmp_path / "m.onnx").warnings
    assert warning.startswith("the ONNX opset of the model has no operator Affine: ")


def test_seeds_below_zero(pruned: tuple[Path, Path], tmp_path: Path) -> None:
    assert "'--seed'" in refused(
        2, "apply", RESNET, "--plan", pruned[1], "-o", tmp_path / "o.onnx", "--seed", -1
    )


@pytest.mark.slow
def test_bn_scale_says_where_there_is_none(tmp_path: Path) -> None:
    args = ("-o", tmp_path / "o.onnx", "--force", *HALF, "--criterion")
    bare = run("prune", SHUFFLE, *args, "bn-scale")
    assert bare.exit_code == 0
    assert bare.stderr.startswith("warning: criterion bn-scale: ")
    assert "groups have no normalisation scale; l2 (weight norms) ranks their channels" in bare.stderr
    assert run("prune", RESNET, *args, "bn-scale").stderr == ""
    assert run("prune", SHUFFLE, *args, "l2").stderr == ""


def test_sparsify_needs_one_of_sparsity_and_pattern(tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    for args in ((), ("--sparsity", 0.5, "--pattern", "2:4"), ("--sparsity", 1), ("--pattern", "4:2")):
        refused(2, "sparsify", RESNET, "-o", out, *args)
    assert not out.exists()


def test_missed_target_writes_the_model(tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    result = run("prune", RESNET, "-o", out, "--target", "macs=0.0001", "--no-bench", "-q")
    assert result.exit_code == 1
    assert "target missed" in result.stdout
    assert result.stderr.startswith("error: target missed: macs ")
    assert f"'{out}' is written" in result.stderr
    onnx.checker.check_model(onnx.load(out))
    args = ("-o", out, "--force", "--target", "macs=0.0001", "--no-bench", "--json")
    again = run("prune", RESNET, *args)
    assert again.exit_code == 1
    assert json.loads(again.stdout)["targets"]["macs"]["reached"] > 0


def test_reached_target(tmp_path: Path) -> None:
    result = run("prune", RESNET, "-o", tmp_path / "o.onnx", "--target", "size=400kB", "--no-bench")
    assert result.exit_code == 0
    assert "target reached" in result.stdout
    assert (tmp_path / "o.onnx").stat().st_size <= 400_000


@pytest.mark.parametrize("target", ["macs=1", "macs=1G", "size=2MB", "params=1"])
def test_a_target_that_is_met_already(target: str, tmp_path: Path) -> None:
    text = refused(4, "prune", RESNET, "-o", tmp_path / "o.onnx", "--target", target)
    assert "the model meets the target as it is" in text
    assert f"({target.partition('=')[0]} " in text
    assert list(tmp_path.iterdir()) == []


def test_of_two_targets_the_one_that_is_not_met_counts(tmp_path: Path) -> None:
    args = ("--target", "macs=1G", "--target", "size=400kB", "--no-bench", "--json")
    result = run("prune", RESNET, "-o", tmp_path / "o.onnx", *args)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["after"]["bytes"] <= 400_000


def test_settings_that_remove_nothing(tmp_path: Path) -> None:
    args = ("prune", RESNET, "-o", tmp_path / "o.onnx", "--no-bench")
    assert "a ratio of 0 removes no channel" in refused(4, *args, "--ratio", 0)
    assert "widths go by 16" in refused(4, *args, "--ratio", 0.01, "--align", 16)
    assert "999 or more channels stay" in refused(4, *args, "--ratio", 0.5, "--min-channels", 999)


def test_nothing_to_prune(tmp_path: Path) -> None:
    assert "nothing to prune" in refused(
        4, "prune", RESNET, "-o", tmp_path / "o.onnx", *HALF, "--exclude", "*"
    )
    assert list(tmp_path.iterdir()) == []


def test_plans_that_do_not_fit(pruned: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    assert "sha256" in refused(2, "apply", SHUFFLE, "--plan", pruned[1], "-o", out)
    assert "sha256" in refused(2, "verify", pruned[0], "--original", SHUFFLE, "--plan", pruned[1])
    assert "cannot be read" in refused(2, "apply", RESNET, "--plan", tmp_path / "none", "-o", out)
    edited = json.loads(pruned[1].read_bytes())
    edited["groups"][0]["keep"] = edited["groups"][0]["keep"][:-1]
    stale = tmp_path / "stale.json"
    stale.write_text(json.dumps(edited))
    refused(2, "apply", RESNET, "--plan", stale, "-o", out)
    refused(2, "verify", pruned[0], "--original", RESNET, "--plan", stale)
    stale.write_text("{}")
    assert "is not a plan" in refused(2, "apply", RESNET, "--plan", stale, "-o", out)
    assert not out.exists()


def test_internal_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("first\nsecond")

    monkeypatch.setattr(onnxprune, "inspect", fail, raising=False)
    result = run("inspect", RESNET)
    assert result.exit_code == 70
    assert result.stderr.startswith("internal error: KeyError: ")
    assert "please report" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "Traceback" in run("inspect", RESNET, "-vv").stderr
    assert "Traceback" not in run("inspect", RESNET, "-v").stderr


@pytest.mark.parametrize(("error", "code"), [(MemoryError(), 6), (OSError(28, "No space left"), 6)])
def test_resource_errors(monkeypatch: pytest.MonkeyPatch, error: Exception, code: int) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(onnxprune, "inspect", fail, raising=False)
    refused(code, "inspect", RESNET)


def test_help_and_version() -> None:
    assert run("--version").stdout == f"onnxprune {onnxprune.__version__}\n"
    bare = run()
    assert bare.exit_code == 2
    assert "Commands:" in bare.stderr
    for name in program.commands:
        result = run(name, "--help")
        assert result.exit_code == 0
        assert "Example:" in result.stdout


# processes


def test_importing_the_command_line_is_light() -> None:
    heavy = "numpy onnx onnxruntime scipy rich jinja2 onnx_graphsurgeon"  # msgspec takes 15 ms
    code = f"import sys, onnxprune.cli; print([m for m in '{heavy}'.split() if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


@pytest.mark.slow
def test_as_a_process(tmp_path: Path) -> None:
    done = subprocess.run(
        command("prune", RESNET, "-o", tmp_path / "o.onnx", *HALF, "--json"), capture_output=True, check=False
    )
    assert done.returncode == 0
    assert done.stderr == b""
    assert json.loads(done.stdout)["verification"]["status"] == "proved"
    failed = subprocess.run(command("inspect", tmp_path / "none"), capture_output=True, check=False)
    assert failed.returncode == 3
    assert failed.stdout == b""


@posix
def test_a_closed_pipe_is_no_error() -> None:
    with subprocess.Popen(command("ops"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@posix
@pytest.mark.parametrize(
    ("number", "code", "says"), [(signal.SIGINT, 130, b"interrupted"), (signal.SIGTERM, 143, b"terminated")]
)
def test_signals(number: signal.Signals, code: int, says: bytes, tmp_path: Path) -> None:
    script = (
        "import time, onnxprune, onnxprune.cli\n"
        "def wait(*_): print('ready', flush=True); time.sleep(60)\n"
        "onnxprune.inspect = wait\n"
        "onnxprune.cli.main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, "inspect", str(RESNET)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.05)
        process.send_signal(number)
        assert process.stderr.read() == says + b"\n"
    assert process.returncode == code


@pytest.mark.parametrize(("cause", "code"), [(KeyboardInterrupt, 130), (Terminated, 143), (ValueError, 70)])
def test_a_signal_while_a_module_is_imported_is_no_error(
    cause: type[BaseException], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: object) -> None:
        raise ImportError("initialization failed") from cause()

    monkeypatch.setattr(onnxprune, "inspect", failing)
    with pytest.raises(SystemExit) as ended:
        program.main(["inspect", str(RESNET)], "onnxprune")
    assert ended.value.code == code
    told = capsys.readouterr().err
    assert told.startswith(
        {130: "interrupted\n", 143: "terminated\n", 70: "internal error: ImportError"}[code]
    )


@posix
def test_an_interrupted_write_leaves_no_file(tmp_path: Path) -> None:
    script = (
        "import time, onnxprune.cli, onnxprune.model.save as save\n"
        "def wait(*_): print('ready', flush=True); time.sleep(60)\n"
        "save._read_back = wait\n"
        "onnxprune.cli.main()"
    )
    arguments = ("prune", str(RESNET), "-o", str(tmp_path / "o.onnx"), *HALF)
    with subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"ready\n"
        assert [f.suffix for f in tmp_path.iterdir()] == [".tmp"]
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b"interrupted\n"
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


@posix
@pytest.mark.parametrize("columns", [30, 60, 80, 120, 160])
def test_in_a_terminal_nothing_is_cut(columns: int) -> None:
    text = in_terminal(columns, "inspect", "-v", SHUFFLE)
    assert columns < 80 or max(len(line) for line in text.splitlines()) <= columns
    squeezed = "".join(text.split())
    assert "…" not in squeezed
    assert "node_Conv_447" in squeezed
    assert "inspecting" in text, "a spinner on stderr"


@posix
def test_colours_can_be_switched_off() -> None:
    assert "\x1b[31m" in in_terminal(80, "inspect", "none", raw=True)
    assert "\x1b[31m" not in in_terminal(80, "inspect", "none", raw=True, NO_COLOR="1")
    assert "inspecting" not in in_terminal(80, "inspect", "-q", SHUFFLE)


def in_terminal(columns: int, *args: object, raw: bool = False, **env: str) -> str:
    """Run in a pseudo-terminal and return what it shows, or with `raw` what was sent to it."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")}
    process = subprocess.Popen(
        command(*args), stdin=theirs, stdout=theirs, stderr=theirs, env=clean | {"TERM": "xterm"} | env
    )
    os.close(theirs)
    sent = b""
    try:
        while part := os.read(ours, 65536):
            sent += part
    except OSError:  # Linux: the other side is closed
        pass
    process.wait()
    os.close(ours)
    text = sent.decode()
    return (
        text if raw else re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r\n", "\n").replace("\r", "\n")
    )


# reports

PROOF = Verification("proved", 1e-6, 0.1, 3)
REPORT = PruneReport(
    Quantities(1000, 2000, 4000), Quantities(500, 600, 2000), PROOF,
    (GroupReport("g0", "a", 32, 16, 16, "any"), GroupReport("g1", "b", 32, 16, 32, "rows")),
    (), (), {}, None, {"load": 0.1}, {},
)  # fmt: skip


def bench_of(verdict: str) -> BenchResult:
    first = Timing("m", 10, 1234.5, 0.5, 12.345, None)
    second = replace(first, versus_first=LatencyRatio(1.02, 0.98, 1.07, verdict))
    return BenchResult((first, second), BenchSettings(), "1.20", "cpu", {})


@pytest.mark.parametrize("verdict", ["not faster", "slower"])
def test_a_result_that_is_not_faster_is_said_in_words(verdict: str) -> None:
    report = replace(REPORT, bench=bench_of(verdict))
    (text,) = tables.prune_messages(report)
    assert text.startswith(f"warning: the pruned model is {verdict}: it takes 1.02 times the original's time")
    assert verdict in text_of(tables.prune_tables(report, {}, False))
    assert tables.prune_messages(replace(REPORT, bench=bench_of("faster"))) == []


def test_dropped_groups_and_weak_proofs_are_said() -> None:
    report = replace(
        REPORT,
        dropped=(Dropped("g1", "b", "differs"),),
        verification=replace(PROOF, status="weak"),
        warnings=("w",),
    )
    said = tables.prune_messages(report)
    assert said[0] == "warning: w"
    assert said[1] == "dropped: group g1 (b) stays whole: differs"
    assert "weak" in said[2]
    unproved = Verification("unproved", None, None, 3, reason="why")
    assert tables.prune_messages(replace(REPORT, verification=unproved)) == ["warning: not proved: why"]
    assert "unproved: compared in 3 runs; why" in text_of(
        tables.prune_tables(replace(REPORT, verification=unproved), {}, False)
    )


def test_groups_that_keep_more_than_asked_are_counted() -> None:
    text = text_of(tables.prune_tables(REPORT, {}, True))
    assert "1 of 2 pruned, 1 with more channels than asked" in text
    assert "rows" in text


def test_every_option_says_what_it_does_and_its_default() -> None:
    for name, found in program.commands.items():
        for option in (p for p in found.params if isinstance(p, click.Option)):
            assert option.help, f"{name} {option.opts}"
            numeric = isinstance(option.type, click.IntRange) and not option.count
            assert option.show_default or not numeric, f"{name} {option.opts}"


def test_long_texts_are_cut_at_words() -> None:
    text = " ".join(f"word{i}" for i in range(200))
    short = shortened(text, 100)
    assert len(short) <= 103
    start, end = short.split(" … ")
    assert text.startswith(start + " ")
    assert text.endswith(" " + end)
    assert shortened("short", 100) == "short"
    assert len(shortened("x" * 1000, 100)) <= 103


def test_runtime_errors_lose_their_codes() -> None:
    start = "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Non-zero status code returned while running "
    error = RuntimeError(start + "Pad node. Name:'/p' Status Message: Pad reflect:\n too long")
    assert one_line(error) == "Pad '/p': Pad reflect: too long"
    assert one_line(RuntimeError("plain")) == "plain"


def test_nearest_names() -> None:
    known = ["head.0.weight", "body.1.bias", "Conv"]
    assert nearest("hed*", known) == "; nearest: 'head.0.weight'"
    assert nearest("type:conv", known) == "; nearest: 'Conv'"
    assert nearest("re:^bdy", known) == "; nearest: 'body.1.bias'"
    assert nearest("zzz", known) == nearest("*", known) == nearest("x", []) == ""


def test_top_reasons_for_what_is_frozen() -> None:
    pins = tuple(PinReport("t", 1, "n", "Op", f"reason {i}", i) for i in range(1, 6))
    report = replace(REPORT, pinned=(*pins, pins[0]))
    brief, full = (text_of(tables.prune_tables(report, {}, detailed)) for detailed in (False, True))
    assert brief.index("5 channels at Op: reason 5") < brief.index("4 channels at Op")
    assert "2 more reasons" in brief
    assert "reason 1" not in brief
    assert "2 channels at Op: reason 1" in full


def test_reasons_that_differ_in_names_only_are_one() -> None:
    pins = tuple(PinReport("t", 1, "n", "Mul", f"meets the fixed axis of '{n}'", 4) for n in "abb")
    text = text_of(tables.prune_tables(replace(REPORT, pinned=pins), {}, False))
    assert "12 channels at Mul: meets the fixed axis of 'a', and 1 other" in text
    assert text.count("at Mul") == 1


def text_of(found: list[screen.Table]) -> str:
    return "\n".join(screen._lines(table) for table in found)


def test_names_cannot_change_the_terminal(tmp_path: Path) -> None:
    evil = "[red]x[/red]\x1b[2J\n\u202e"
    model = onnx.load(SHUFFLE)
    for node in model.graph.node:
        node.name = evil + node.name
    onnx.save(model, tmp_path / "evil.onnx")
    plain = run("inspect", tmp_path / "evil.onnx", "-v").stdout
    assert printable(evil) in plain
    assert not any(c in plain for c in "\x1b\u202e")
    if os.name == "posix":
        shown = in_terminal(200, "inspect", "-v", tmp_path / "evil.onnx", raw=True)
        assert "\x1b[2J" not in shown
        assert "[red]x[/red]" in shown
    assert "\x1b" not in refused(3, "inspect", tmp_path / "\x1b[2J")


def test_json_has_no_numbers_that_json_cannot_say(capsys: pytest.CaptureFixture[str]) -> None:
    data = {
        "a": float("inf"),
        "b": [np.float32(0.5), float("nan")],
        "c": np.arange(2),
        "d": Path("x"),
        "e": (1, None),
    }
    screen.Screen(as_json=True).result(data, [])
    assert json.loads(capsys.readouterr().out) == {
        "schema_version": 1,
        "a": None,
        "b": [0.5, None],
        "c": [0, 1],
        "d": "x",
        "e": [1, None],
    }


@posix
@pytest.mark.slow
def test_stages_are_counted_in_a_terminal_and_nowhere_else(tmp_path: Path) -> None:
    given = ("prune", RESNET, "--ratio", 0.25, "--recover", "ls", "--no-bench", "--force",
             "--calib", MODELS / "digits_calib.npz", "-o", tmp_path / "o.onnx")  # fmt: skip
    text = in_terminal(120, *given, raw=True)
    assert f"pruning {RESNET}: calibration" in text
    assert f"pruning {RESNET}: proof" in text
    assert re.search(r"\b\d+/\d+\b", text)  # which one, depends on when the screen is drawn
    for quiet in ("-q", "--json"):
        assert "pruning" not in in_terminal(120, *given, quiet)
    assert run(*given).stderr == ""


def test_a_line_shows_one_stage_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.progress import Progress as Bars

    with Bars(disable=True) as bars:
        line = screen._Line(bars, "pruning it")
        for step in (("proof", 1, 2), ("proof", 2, 2), ("refit", 3, 7)):
            line.told(*step)
            assert len(bars.tasks) == 1
            task = bars.tasks[0]
            if step[1] == step[2]:
                assert (task.description, task.total) == ("pruning it", None)
            else:
                assert (task.description, task.completed, task.total) == (f"pruning it: {step[0]}", *step[1:])
    assert capsys.readouterr() == ("", "")
