"""Has a change of the code changed a result? Hashes of pruned models and plans, compared with stored ones.

    python benchmarks/golden.py FOLDER... --data DATA --store golden.json     before a change
    python benchmarks/golden.py FOLDER... --data DATA --against golden.json   after it

Every `.onnx` file below the folders is pruned without data by a ratio and to a target of MACs; those that
have inputs in DATA also with calibration. It calls the public functions only, so that it runs on any version.
Without data models and plans must be equal byte for byte; with data the keep lists must be equal and the
weights to 1e-5, or the drift on held-out inputs within 1 %.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

import onnxprune
from onnxprune import PruneSettings

PLAIN: dict[str, dict[str, Any]] = {
    "ratio": {"ratio": 0.5},
    "macs": {"targets": {"macs": 0.5}},
}
CALIBRATED: dict[str, dict[str, Any]] = {
    "calibrated": {"targets": {"macs": 0.7}, "recover": "refit"},
    "joint": {"ratio": 0.3, "recover": "joint"},
}
COMMON: dict[str, Any] = {"align": 4, "bench": False, "threads": 1}
SAMPLES = 48
WEIGHT_TOLERANCE, DRIFT_TOLERANCE = 1e-5, 0.01
DATA = {  # models whose inputs lie in a file of another name
    "cifar_resnet20": ("cifar10_calib.npz", "input"),
    "cifar_resnet56": ("cifar10_calib.npz", "input"),
    "mnist_cntk": ("mnist_calib.npz", "Input3"),
}
JOINT = ("cifar_resnet20", "digits_transformer", "digits_mobilenet", "selfie_seg_landscape")


@dataclass(frozen=True)
class Case:
    """One model and one way to prune it."""

    path: Path
    name: str
    settings: dict[str, Any]
    data: Path | None

    @property
    def key(self) -> str:
        """Return the name under which the result is stored."""
        return f"{self.path.stem} {self.name}"


def cases(folders: list[Path], data: Path | None) -> Iterator[Case]:
    """List what is run: every model by every way that its data allow."""
    for path in sorted(p for folder in folders for p in folder.rglob("*.onnx")):
        for name, settings in PLAIN.items():
            yield Case(path, name, settings, None)
        inputs = inputs_of(path, data)
        for name, settings in CALIBRATED.items():
            if inputs is not None and (name != "joint" or path.stem in JOINT):
                yield Case(path, name, settings, inputs)


def inputs_of(path: Path, data: Path | None) -> Path | None:
    """Return the file with inputs of a model, where there is one."""
    beside = path.parent / "digits_calib.npz"
    if path.stem.startswith("digits_") and beside.exists():
        return beside
    if data is None:
        return None
    named = data / DATA.get(path.stem, (f"inputs_{path.stem}.npz", ""))[0]
    return named if named.exists() else None


def feeds_of(case: Case) -> dict[str, np.ndarray]:
    """Return the first samples of a model's inputs, by input name."""
    assert case.data is not None
    wanted = {i.name for i in onnx.load(str(case.path), load_external_data=False).graph.input}
    with np.load(case.data) as stored:
        arrays = {name: stored[name][:SAMPLES] for name in stored.files if name in wanted}
    if case.path.stem.startswith("digits_") and not arrays:
        raise SystemExit(f"{case.data} has no array for {sorted(wanted)}")
    return arrays


def outcome(case: Case) -> dict[str, Any]:
    """Prune one model and describe what came of it."""
    settings = {**COMMON, **case.settings}
    if case.data is not None:
        settings["calib"] = feeds_of(case)
    begun = perf_counter()
    try:
        result = onnxprune.prune(str(case.path), PruneSettings(**settings))
    except onnxprune.errors.OnnxPruneError as error:
        return {"error": type(error).__name__, "text": str(error)[:200]}
    found: dict[str, Any] = {"seconds": round(perf_counter() - begun, 2)}
    report = result.report
    found["status"] = field(report.verification, "status")
    found["macs"] = report.after.macs
    bare = onnx.ModelProto()
    bare.CopyFrom(result.model)
    del bare.metadata_props[:]
    if case.data is None:
        found["model"] = hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()[:20]
        found["plan"] = hashlib.sha256(result.plan.to_json()).hexdigest()[:20]
        found["values"] = values(result.model)
        return found
    keep = json.dumps([[g.name, g.kept] for g in report.groups])
    kept = json.dumps(json.loads(result.plan.to_json())["groups"])
    found["keep"] = hashlib.sha256((keep + kept).encode()).hexdigest()[:20]
    found["weights"] = {
        t.name: [float(np.linalg.norm(a)), float(a.sum())]
        for t in result.model.graph.initializer
        if (a := numpy_helper.to_array(t).astype(np.float64, copy=False)).dtype == np.float64 and a.ndim > 1
    }
    found["drift"] = None if report.recovery is None else field(report.recovery, "drift_after")
    return found


def field(part: Any, name: str) -> Any:
    """Read a part of a report, which was a mapping before it was a structure."""
    return part[name] if isinstance(part, dict) else getattr(part, name)


def values(model: onnx.ModelProto) -> str:
    """Return a hash of what a model computes, whatever the order of its initializers."""
    digest = hashlib.sha256()
    for tensor in sorted(model.graph.initializer, key=lambda t: t.name):
        array = numpy_helper.to_array(tensor)
        digest.update(f"{tensor.name} {array.dtype} {array.shape}".encode() + array.tobytes())
    for node in model.graph.node:
        digest.update(f"{node.op_type} {list(node.input)} {list(node.output)}".encode())
    return digest.hexdigest()[:20]


def difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Say in what two outcomes differ; empty where they agree."""
    if "error" in old or "error" in new:
        mine, other = (f"{o.get('error')}: {o.get('text')}" if "error" in o else "done" for o in (old, new))
        return "" if mine == other else f"{mine} -> {other}"
    if "keep" not in old:
        parts = [k for k in ("model", "plan", "status") if old[k] != new[k]]
        same = ", the values are equal" if parts and old["values"] == new["values"] else ""
        return f"{', '.join(parts)} differ{same}" if parts else ""
    near = old["weights"].keys() == new["weights"].keys() and all(
        np.allclose(pair, new["weights"][name], rtol=WEIGHT_TOLERANCE, atol=WEIGHT_TOLERANCE)
        for name, pair in old["weights"].items()
    )
    if old["keep"] == new["keep"] and near:
        return ""
    if old["drift"] and abs(new["drift"] / old["drift"] - 1) <= DRIFT_TOLERANCE:
        return ""
    lists = "equal" if old["keep"] == new["keep"] else "differ"
    return f"keep lists {lists}, drift {old['drift']} -> {new['drift']}"


def main() -> int:
    """Run all cases, and store or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--only", default="", help="run cases whose name holds this text")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    todo = [c for c in cases(given.folders, given.data) if given.only in c.key]
    with ProcessPoolExecutor(given.jobs, max_tasks_per_child=1) as pool:
        found = dict(zip((c.key for c in todo), pool.map(outcome, todo), strict=True))
    if given.store:
        given.store.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    before = json.loads(given.against.read_text()) if given.against else {}
    told = {k: difference(before[k], found[k]) for k in found if k in before}
    for key, text in told.items():
        if text:
            print(f"{key}: {text}")
    agreeing = sum(not text for text in told.values())
    print(f"{len(found)} run, {agreeing} of {len(told)} agree, {len(told) - agreeing} differ")
    return int(agreeing < len(told))


if __name__ == "__main__":
    sys.exit(main())
