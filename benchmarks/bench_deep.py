"""Time a plan and its rewrite on a deep model and on one a quarter as deep: what is quadratic shows.

    python benchmarks/bench_deep.py [--layers 250]

Seconds are of the processor, since other work on the machine does not change them.
"""

from __future__ import annotations

import argparse
import sys
from itertools import pairwise
from pathlib import Path
from time import process_time

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from onnxprune import PruneSettings
from onnxprune.analysis.analyse import analyse, load
from onnxprune.pipeline.resolve import requested
from onnxprune.planning.decide import decide, score
from onnxprune.rewrite.apply import apply
from scripts.build_deep_model import build


def seconds(layers: int) -> tuple[int, dict[str, float]]:
    """Return the nodes of the model, and the seconds of each stage."""
    loaded = load(build(layers))
    settings = PruneSettings(ratio=0.5, align=4)
    marks = [process_time()]
    analysis = analyse(loaded.model)
    marks.append(process_time())
    request, scores = requested(analysis, settings, loaded), score(analysis.units, settings)
    decision = decide(analysis.units, request, scores)
    marks.append(process_time())
    apply(analysis.model, decision.removal)
    marks.append(process_time())
    spent = [b - a for a, b in pairwise(marks)]
    return len(loaded.model.graph.node), dict(zip(("analyse", "plan", "rewrite"), spent, strict=True))


def main() -> None:
    """Measure both and print a line each."""
    parser = argparse.ArgumentParser(description="Time the pass on a deep model.")
    parser.add_argument("--layers", type=int, default=250)
    args = parser.parse_args()
    for layers in (max(args.layers // 4, 1), args.layers):
        nodes, spent = seconds(layers)
        stages = ", ".join(f"{stage} {value:.2f}" for stage, value in spent.items())
        print(f"{nodes:6d} nodes  {sum(spent.values()):6.2f} s  ({stages})")


if __name__ == "__main__":
    main()
