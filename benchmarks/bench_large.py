"""Measure memory and time of pruning a large model to half, from loading to writing.

    python benchmarks/bench_large.py [--gigabytes 3] [--folder FOLDER]

The model is built in a temporary folder. The run happens in a process of its own, through the public
API; its peak resident memory is printed as a multiple of the weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.build_large_model import build

CHILD = """
import json, resource, sys, time
import onnxprune
start = time.perf_counter()
settings = onnxprune.PruneSettings(ratio=0.5, bench=False)
result = onnxprune.prune(sys.argv[1], settings, sys.argv[2], force=True)
seconds = time.perf_counter() - start
report = result.report
print(json.dumps({
    "seconds": seconds, "timings": report.timings, "status": report.verification.status,
    "before": report.before.bytes, "after": report.after.bytes,
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}))
"""


def measure(model: Path, output: Path) -> dict[str, object]:
    """Prune in a process of its own and return what it measured."""
    line = [sys.executable, "-c", CHILD, str(model), str(output)]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=root)
    if done.returncode:
        raise SystemExit(f"the run failed with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return dict(json.loads(done.stdout))


def main() -> None:
    """Build, prune, print."""
    parser = argparse.ArgumentParser(description="Measure memory and time of pruning a large model.")
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found = measure(build(Path(folder), args.gigabytes), Path(folder) / "small.onnx")
    weights, peak = float(str(found["before"])), float(str(found["peak"]))
    print(f"weights  {weights / 1e9:.2f} GB -> {float(str(found['after'])) / 1e9:.2f} GB, {found['status']}")
    print(f"seconds  {float(str(found['seconds'])):.1f}: {found['timings']}")
    print(f"peak     {peak / 1e9:.2f} GB resident, {peak / weights:.2f} times the weights")


if __name__ == "__main__":
    main()
