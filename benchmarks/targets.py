"""How near does planning come to what was asked? python benchmarks/targets.py FOLDER... [--align 1]

Every `.onnx` file below the folders is planned, without proof and timing, for targets of 0.8, 0.6, 0.4 and
0.25 of its MACs and of its parameters. Printed is by case the share asked, the share reached and the floor,
the least that can be left; in the end the share of the cases whose floor lies below the target in which the
reached share is at most 0.02 below the asked one (and not above it), and the exceptions with the step that
was too large.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from time import perf_counter
from typing import Any

from onnxprune.analysis.analyse import analyse, inlined, load
from onnxprune.errors import OnnxPruneError
from onnxprune.pipeline.resolve import requested, require_groups, scored
from onnxprune.planning.cost_model import CostModel
from onnxprune.planning.decide import decide
from onnxprune.settings import PruneSettings

ASKED, KEYS = (0.8, 0.6, 0.4, 0.25), ("macs", "params")
ALLOWED = 0.02  # below what was asked
BAR = 0.97


@dataclass(frozen=True)
class Case:
    """What one target came to, in shares of the whole; step: why it is passed under, or empty."""

    model: str
    key: str
    asked: float
    reached: float
    floor: float
    seconds: float
    step: str = ""

    @property
    def reachable(self) -> bool:
        """Tell whether the target lies above the floor."""
        return self.floor <= self.asked

    @property
    def near(self) -> bool:
        """Tell whether the target is met, and not by more than is allowed."""
        return self.asked - ALLOWED <= self.reached <= self.asked


def planned(path: Path, align: int) -> Iterator[Case]:
    """Plan a model for every target. Raises OnnxPruneError where it cannot be read or nothing may go."""
    loaded = load(path)
    analysis = analyse(inlined(loaded.model, "auto").model, {}, {})
    units, scores = analysis.units, None
    for key in KEYS:
        for asked in ASKED:
            start = perf_counter()
            settings = PruneSettings(targets={key: asked}, align=align, bench=False)
            request = requested(analysis, settings, loaded)
            require_groups(analysis, request)
            scores = scored(analysis, None, settings) if scores is None else scores
            decision = decide(units, request, scores)
            found = decision.reached
            assert found is not None
            prices = CostModel(units, request.overhead)
            whole = max(prices.quantities()[key], 1.0)
            prices.remove(prices.effect(decision.removal.removed.nonzero()[0]))
            step, large = "", found.large
            if large is not None:
                name = units.groups[large.group].name
                step = f"{large.channels} channels of {name}, {100 * large.share:.1f} %"
            reached = prices.quantities()[key] / whole
            floor = min(found.floor[key] / whole, reached)
            yield Case(path.stem, key, asked, reached, floor, perf_counter() - start, step)


def _work(path: Path, align: int, queue: Any) -> None:
    try:
        for case in planned(path, align):
            queue.put(case)
        queue.put("")
    except OnnxPruneError as error:
        queue.put(str(error))


def cases(path: Path, align: int, timeout: float) -> Iterator[Case | str]:
    """Plan a model in a process of its own; yield its cases, and a sentence where it ends early."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=_work, args=(path, align, queue), daemon=True)
    worker.start()
    end = perf_counter() + timeout
    try:
        while True:
            item = queue.get(timeout=max(end - perf_counter(), 0.01))
            if isinstance(item, str):
                if item:
                    yield item
                return
            yield item
    except Empty:
        yield f"left after {timeout:g} s"
    finally:
        worker.kill()
        worker.join()


def main() -> int:
    """Plan, print, sum up; exit with 1 below the bar."""
    parser = argparse.ArgumentParser(description="How near does planning come to what was asked?")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--align", default="auto", help="as of prune: auto, or a number of channels")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for a model")
    args = parser.parse_args()
    align = 0 if args.align == "auto" else int(args.align)
    found: list[Case] = []
    for path in sorted(p for folder in args.folders for p in folder.rglob("*.onnx")):
        for case in cases(path, align, args.timeout):
            if isinstance(case, str):
                print(f"{path.stem}: {case}", flush=True)
                continue
            found.append(case)
            print(
                f"{case.model} {case.key} asked {case.asked:.2f} reached {case.reached:.4f} "
                f"floor {case.floor:.4f} {case.seconds:.1f} s",
                flush=True,
            )
    return summed(found)


def summed(found: list[Case]) -> int:
    """Print the share of reachable cases that came near enough, and the exceptions."""
    reachable = [c for c in found if c.reachable]
    near = sum(c.near for c in reachable)
    share = near / max(len(reachable), 1)
    print(
        f"\n{len(found)} cases, {len(reachable)} above the floor, {near} of these near: {100 * share:.1f} %"
    )
    for case in reachable:
        if not case.near:
            print(f"  {case.model} {case.key} asked {case.asked:.2f} reached {case.reached:.4f}; {case.step}")
    print(f"slowest: {max((c.seconds for c in found), default=0):.1f} s a case")
    return 0 if share >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
