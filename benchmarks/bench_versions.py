"""How long does `prune` take in two trees? Both side by side, in turns, so that what else runs hits both.

    python benchmarks/bench_versions.py --old OLD --new NEW --models models ../shared/models
    python benchmarks/bench_versions.py --old OLD --models ../shared/models --calibrated --data ../shared/data

Each tree runs in a process of its own, which imports the package once and prunes every model once before
it is timed. Reported are the medians, in seconds of the wall clock and of the processor, the ratio new / old
per model, and the geometric mean of the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from math import exp, log
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

MODELS = (
    "digits_resnet", "digits_mobilenet", "cifar_resnet56", "squeezenet_fp32", "fastestdet",
    "ultraface_rfb320", "hf_bert_legacy", "hf_vit_dynamo", "tv_mobilenet_v3_small_dynamo",
    "v_llama_fn_legacy",
)  # fmt: skip
CALIBRATED = ("cifar_resnet20",)
SAMPLES, DATA, INPUT = 64, "cifar10_calib.npz", "input"


def work() -> None:
    """Prune what is asked for on standard input, and answer with the times: the process of one tree."""
    import numpy as np

    import onnxprune

    warm: set[str] = set()
    for line in sys.stdin:
        asked = json.loads(line)
        settings: dict[str, Any] = {"ratio": 0.5, "bench": False, "threads": 1}
        if asked["data"]:
            with np.load(asked["data"]) as stored:
                settings |= {"calib": {INPUT: stored[INPUT][:SAMPLES]}, "recover": "joint"}
        chosen = onnxprune.PruneSettings(**settings)
        if asked["model"] not in warm:
            onnxprune.prune(asked["model"], chosen)
            warm.add(asked["model"])
        begun = perf_counter(), process_time()
        onnxprune.prune(asked["model"], chosen)
        print(json.dumps([perf_counter() - begun[0], process_time() - begun[1]]), flush=True)


class Tree:
    """A process that prunes with the package of one tree."""

    def __init__(self, home: Path) -> None:
        threads = dict.fromkeys(("ONNXPRUNE_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--work"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **threads, "PYTHONPATH": str(home.resolve())},
        )

    def timed(self, model: Path, data: Path | None) -> tuple[float, float]:
        """Prune once; return seconds of the wall clock and of the processor."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        asked = {"model": str(model), "data": None if data is None else str(data)}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        wall, processor = json.loads(self.process.stdout.readline())
        return wall, processor


def report(times: dict[str, list[list[tuple[float, float]]]]) -> None:
    """Print medians and ratios.

    times: by model, for the old and the new tree, the runs.
    """
    ratios: list[list[float]] = [[], []]
    print(f"{'':34s}{'wall old':>9s} {'new':>7s} {'ratio':>6s}   {'CPU old':>9s} {'new':>7s} {'ratio':>6s}")
    for name, runs in times.items():
        cells = []
        for kind in (0, 1):
            old, new = (median(run[kind] for run in tree) for tree in runs)
            ratios[kind].append(new / old)
            cells.append(f"{old:9.3f} {new:7.3f} {new / old:6.2f}")
        print(f"{name:34s}{'   '.join(cells)}", flush=True)
    means = [exp(sum(map(log, each)) / len(each)) for each in ratios]
    print(f"{'geometric mean':34s}{'':17s} {means[0]:6.2f}   {'':17s} {means[1]:6.2f}")


def main() -> None:
    """Time both trees in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--old", type=Path)
    parser.add_argument("--new", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--models", type=Path, nargs="+", default=[Path("models")])
    parser.add_argument("--data", type=Path, help="the folder with calibration data")
    parser.add_argument("--calibrated", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    if given.work:
        work()
        return
    if given.old is None or (given.calibrated and given.data is None):
        parser.error("give --old, and --data with --calibrated")
    files = {p.stem: p for folder in given.models for p in sorted(folder.rglob("*.onnx"))}
    names = [name for name in (CALIBRATED if given.calibrated else MODELS) if name in files]
    data = given.data / DATA if given.calibrated else None
    trees = [Tree(given.old), Tree(given.new)]
    times: dict[str, list[list[tuple[float, float]]]] = {name: [[], []] for name in names}
    for number in range(given.rounds):
        for name in names:
            for which in (0, 1) if number % 2 else (1, 0):
                times[name][which].append(trees[which].timed(files[name], data))
    report(times)


if __name__ == "__main__":
    main()
