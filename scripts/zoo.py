"""A whole zoo beside twelve inputs that misbehave: python scripts/zoo.py FOLDER... [--jobs 2] [-o DIR].

Runs `onnxprune batch` over all models of the folders and over poisoned inputs that are made here: garbage,
an empty and a truncated file, a web page, a git-LFS pointer, a link to itself, missing external data, a
model that hangs (a Loop of 2^62 steps), one that eats memory (a Loop whose state doubles), one whose
verification fails (a plugin's rule that is wrong about its operator), one that dies of SIGSEGV and one that
is killed (plugin rules that do this to their process). Prints the command, how all ended, and which of the
poisoned ones did not end as they should; exits with 1 where there are such, or where a good one failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from time import monotonic

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[1]
EXPECTED = {
    "garbage": "invalid", "empty": "invalid", "truncated": "invalid", "page": "invalid", "pointer": "invalid",
    "loop": "unreadable", "external": "invalid", "hangs": "timeout", "grows": "out-of-memory",
    "wrong": "unproved", "segfault": "crashed", "killed": "killed",
}  # fmt: skip
RULES = '''
import ctypes, os, signal
from onnxprune.rules.registry import rule
from onnxprune.rules.signature import Signature, numbered

def same(site):
    axes = numbered(site.shape())
    return Signature((axes,), (axes,))

@rule("Running", domain="poison")
def running(site):
    """Wrong: the operator sums along its last axis, so that a channel is not the same channel behind it."""
    return same(site)

@rule("Segfault", domain="poison")
def segfault(site):
    """Reads address 0."""
    ctypes.string_at(0)

@rule("Killed", domain="poison")
def killed(site):
    """Kills its process."""
    os.kill(os.getpid(), signal.SIGKILL)
'''


def dense(op: str) -> onnx.ModelProto:
    """x [n, 8] -> MatMul -> poison::OP [n, 64] -> MatMul; a function of the model, here a running sum."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("w", (8, 64)), ("v", (64, 4)))
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node(op, ["h"], ["a"], domain="poison"),
        helper.make_node("MatMul", ["a", "v"], ["y"]),
    ]
    body = [
        helper.make_node("Constant", [], ["axis"], value_int=1),
        helper.make_node("CumSum", ["p", "axis"], ["q"]),
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("poison", 1)]
    function = helper.make_function("poison", op, ["p"], ["q"], body, opsets[:1])
    graph = helper.make_graph(nodes, op, [_info("x", ["n", 8])], [_info("y", ["n", 4])], weights)
    return helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=9)


def looping(steps: int, grows: bool) -> onnx.ModelProto:
    """x [1, 8] -> MatMul -> a Loop over the hidden channels, which are added up, or doubled in number."""
    rng = np.random.default_rng(0)
    step = helper.make_node("Concat", ["s", "s"], ["t"], axis=0) if grows else helper.make_node(
        "Add", ["s", "s"], ["t"])  # fmt: skip
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), step], "body",
        [_info("i", [], TensorProto.INT64), _info("go", [], TensorProto.BOOL), _info("s", None)],
        [_info("on", [], TensorProto.BOOL), _info("t", None)],
    )  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Loop", ["steps", "yes", "h"], ["l"], body=body),
        helper.make_node("ReduceMax", ["l"], ["m"], keepdims=1),
        helper.make_node("MatMul", ["h", "v"], ["a"]),
        helper.make_node("Add", ["a", "m"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(rng.standard_normal((8, 16)).astype(np.float32), "w"),
        numpy_helper.from_array(rng.standard_normal((16, 4)).astype(np.float32), "v"),
        numpy_helper.from_array(np.array(steps), "steps"),
        numpy_helper.from_array(np.array(True), "yes"),
    ]
    graph = helper.make_graph(nodes, "loop", [_info("x", [1, 8])], [_info("y", [1, 4])], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _info(name: str, shape: list[int | str] | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def poison(folder: Path) -> None:
    """Write the poisoned inputs."""
    folder.mkdir()
    whole = (ROOT / "models" / "digits_resnet.onnx").read_bytes()
    texts = {
        "garbage": np.random.default_rng(0).bytes(5000), "empty": b"", "truncated": whole[: len(whole) // 2],
        "page": b"<!DOCTYPE html><html><body>404</body></html>",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1000000\n",
    }  # fmt: skip
    for name, data in texts.items():
        (folder / f"{name}.onnx").write_bytes(data)
    (folder / "loop.onnx").symlink_to("loop.onnx")
    model = onnx.load_from_string(whole)
    onnx.save(model, folder / "external.onnx", save_as_external_data=True, location="gone.data")
    (folder / "gone.data").unlink()
    onnx.save(looping(2**62, grows=False), folder / "hangs.onnx")
    onnx.save(looping(40, grows=True), folder / "grows.onnx")
    for name, op in (("wrong", "Running"), ("segfault", "Segfault"), ("killed", "Killed")):
        onnx.save(dense(op), folder / f"{name}.onnx")


def plugin(folder: Path) -> None:
    """Write what `pip install --target` leaves of a package with rules."""
    info = folder / "poison_rules-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "poison_rules.py").write_text(RULES)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: poison-rules\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[onnxprune.rules]\npoison = poison_rules\n")


def gathered(folders: list[Path], place: Path) -> Path:
    """Write a manifest of all models: those of the folders by the folder's name, and the poisoned ones."""
    models = [{"path": str(f.resolve()), "name": f.name} for f in folders if f.is_dir()]
    models += [{"path": str(f.resolve()), "name": f"single/{f.name}"} for f in folders if not f.is_dir()]
    models.append({"path": str(place / "poison"), "name": "poison"})
    manifest = place / "zoo.json"
    manifest.write_text(json.dumps({"models": models}))
    return manifest


def told(output: Path) -> list[str]:
    """Print how all ended, and return what did not end as it should."""
    records = json.loads((output / "report.json").read_text())["records"]
    good = [r for r in records if not r["id"].startswith("poison/")]
    print("good:", dict(Counter(r["status"] for r in good)))
    wrong = []
    for record in records:
        poisoned = record["id"].startswith("poison/")
        expected = [EXPECTED[Path(record["id"]).stem]] if poisoned else ["done", "nothing", "target-missed"]
        fits = record["status"] in expected
        if poisoned or not fits:
            mark = "as expected" if fits else f"EXPECTED {expected[0]}"
            line = f"{record['id']}: {record['status']} ({mark}): {record['reason'][:150]}"
            print(line)
            wrong += [] if fits else [line]
    peaks = sorted(((r["peak_bytes"] or 0, r["id"]) for r in good), reverse=True)[:3]
    print("largest:", ", ".join(f"{name} {peak / 1e6:.0f} MB" for peak, name in peaks))
    print(f"seconds of all models together: {sum(r['seconds'] for r in records):.1f}")
    return wrong


def main() -> None:
    """Make the inputs, run, and judge."""
    parser = argparse.ArgumentParser(description="A zoo beside inputs that misbehave.")
    parser.add_argument("folders", type=Path, nargs="+", help="folders of models, or models")
    parser.add_argument("-o", "--output", type=Path, help="kept; by default a temporary folder")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=600)
    parser.add_argument("--memory-limit", default="4GB")
    parser.add_argument(
        "--option", action="append", default=[], help="for onnxprune batch, such as --option=--no-bench"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        poison(place / "poison")
        plugin(place / "site")
        output = args.output or place / "out"
        shutil.rmtree(output, ignore_errors=True) if args.output is None else None
        line = [
            sys.executable, "-m", "onnxprune", "batch", str(gathered(args.folders, place)), "-o", str(output),
            "--jobs", str(args.jobs), "--timeout", str(args.timeout), "--memory-limit", args.memory_limit,
            *(args.option or ["--ratio=0.5"]),
        ]  # fmt: skip
        print(" ".join(line), flush=True)
        paths = os.pathsep.join(
            [str(place / "site"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        begun = monotonic()
        done = subprocess.run(line, env={**os.environ, "PYTHONPATH": paths}, check=False)
        print(f"exit code {done.returncode} after {monotonic() - begun:.1f} s with {args.jobs} jobs")
        sys.exit(1 if done.returncode != 7 or told(output) else 0)


if __name__ == "__main__":
    main()
