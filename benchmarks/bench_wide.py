"""Measure memory and time of repairing a wide layer: python benchmarks/bench_wide.py [--channels 2048].

A 3x3 Conv over many channels (18,432 features at 2048) between two small layers is built with random weights
and pruned with calibration data, in a process of its own. The data is of low rank, so that there is
something to repair. Its peak resident memory and time are printed, with the drift before and after.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

CHILD = """
import json, resource, sys, time
import msgspec
import numpy as np
import onnxprune
start = time.perf_counter()
settings = onnxprune.PruneSettings(
    ratios=(("first*", float(sys.argv[3])),), bench=False, calib=sys.argv[2], memory_limit=int(sys.argv[4]),
    recover=sys.argv[5], align=1,
)
report = onnxprune.prune(sys.argv[1], settings).report
print(json.dumps({
    "seconds": time.perf_counter() - start, "timings": report.timings,
    "recovery": msgspec.to_builtins(report.recovery), "status": report.verification.status,
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}))
"""


def build(channels: int, folder: Path) -> Path:
    """Write the model: 1x1 Conv to many channels, the wide 3x3 Conv, pooling, a classifier."""
    rng = np.random.default_rng(0)
    shapes = {
        "first.weight": (channels, 32, 1, 1), "first.bias": (channels,),
        "wide.weight": (channels, channels, 3, 3), "wide.bias": (channels,), "last.weight": (channels, 10),
    }  # fmt: skip
    stored = []
    for name, shape in shapes.items():
        fan = int(np.prod(shape[1:])) if len(shape) > 2 else shape[0]
        values = rng.standard_normal(shape, dtype=np.float32) * np.float32((2 / fan) ** 0.5)
        stored.append(numpy_helper.from_array(values, name))
    nodes = [
        helper.make_node("Conv", ["input", "first.weight", "first.bias"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "wide.weight", "wide.bias"], ["c"], "wide", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "last.weight"], ["output"]),
    ]
    given = helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["N", 32, 7, 7])
    made = helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["N", 10])
    graph = helper.make_graph(nodes, "wide", [given], [made], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "wide.onnx"
    onnx.save(model, path)
    return path


def main() -> None:
    """Build, prune, print."""
    parser = argparse.ArgumentParser(description="Measure memory and time of repairing a wide layer.")
    parser.add_argument("--channels", type=int, default=2048)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--ratio", type=float, default=0.125, help="share of the channels removed")
    parser.add_argument("--memory-limit", type=int, default=2 << 30, help="bytes for what is solved")
    parser.add_argument("--recover", default="refit", choices=("none", "ls", "refit"))
    args = parser.parse_args()
    root = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as folder:
        model, data = build(args.channels, Path(folder)), Path(folder) / "calib.npz"
        np.savez(data, input=np.random.default_rng(1).standard_normal((args.samples, 32, 7, 7), np.float32))
        given = [str(model), str(data), str(args.ratio), str(args.memory_limit), args.recover]
        line = [sys.executable, "-c", CHILD, *given]
        done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=root)
    if done.returncode:
        raise SystemExit(f"the run failed with {done.returncode}: {done.stderr.strip()[-2000:]}")
    found = json.loads(done.stdout)
    features = 9 * (args.channels - int(args.ratio * args.channels))
    print(f"layer    {features} features of {9 * args.channels} stay, {found['status']}")
    print(f"seconds  {found['seconds']:.1f}: {found['timings']}")
    print(f"peak     {found['peak'] / 1e9:.2f} GB resident")
    if found["recovery"] is not None:
        told = found["recovery"]
        print(f"drift    {told['drift_before']:.3f} -> {told['drift_after']:.3f} on inputs held out")


if __name__ == "__main__":
    main()
