"""Time the pruning pass against loading and saving the same file, and measure its peak memory.

Usage: python benchmarks/bench_pass.py FOLDER [--runs 9] [--only deep_chain] [--profile] [--write]

The pass goes from a loaded model to a pruned one in memory (analyse, plan, rewrite; half of every group,
align 1): no imports, no file, no proof. All tools of a model run by turns in one process; memory is measured
in a process of its own each. FOLDER holds (or gets) the files of build_bench_models.py.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
MODELS = ("resnet50", "mobilenetv2", "deep_chain")
BASE, OURS = "onnx load + save", "onnxprune"
TOOLS = (BASE, OURS, "onnxsim", "Torch-Pruning")
RATIO = 0.5
BARS = {"resnet50": (1.0, None), "deep_chain": (None, 2.0)}  # times load + save; seconds
MEMORY_TIMES, MEMORY_MB = 3.0, 300.0
FEWEST = 7
PATIENCE = 60.0  # seconds; a tool slower than that in its first run is not run again
HEADER = (
    "| model | tool | median | CPU | × load + save | peak memory | × weights |\n"
    "|---|---|---|---|---|---|---|\n"
)
ABOUT = (
    "The pass goes from a loaded model (or module) to a pruned one in memory: half of every group, "
    "unaligned, without imports, files and proof. CPU is the processor time of all threads in a run. Peak "
    "memory is what the pass adds to a process that has the model loaded.\n\n"
    'To repeat it, install the peers with `pip install ".[peers]"` and run '
    "`python benchmarks/bench_pass.py FOLDER --write`. It builds the models in FOLDER where they are "
    "missing, runs the tools by turns and rewrites this section; compare ratios, as seconds depend on the "
    "machine.\n"
)
Call = Callable[[], object]


def prepared(tool: str, path: Path, scratch: Path) -> Call:
    """Load what a tool starts from; return its pass. Raises ImportError for a tool that is not there."""
    if tool == BASE:
        return _load_and_save(path, scratch / path.name)
    if tool == OURS:
        return _ours(path)
    if tool == "onnxsim":
        import onnx
        from onnxsim.pruning import apply_structured_pruning

        model = onnx.load(str(path))
        return lambda: apply_structured_pruning(model, RATIO)
    return _torch_pruning(path)


def _load_and_save(path: Path, target: Path) -> Call:
    import onnx

    def call() -> None:
        onnx.save(onnx.load(str(path)), str(target))

    return call


def _ours(path: Path) -> Call:
    from onnxprune import PruneSettings, planner, rewrite
    from onnxprune.analysis.analyse import analyse, load
    from onnxprune.pipeline.resolve import requested

    settings = PruneSettings(ratio=RATIO, scope="local", align=1)
    loaded = load(path)

    def call() -> object:
        analysis = analyse(loaded.model)
        request = requested(analysis, settings, loaded)
        scores = planner.score(analysis.units, settings)
        decision = planner.decide(analysis.units, request, scores)
        return rewrite.apply(analysis.model, decision.removal)

    return call


def _torch_pruning(path: Path) -> Call:
    """The module is copied before each pass, as that changes it; `call.again` does so outside the clock."""
    if path.stem == "deep_chain":  # without importing torch, whose objects the garbage collector walks
        raise LookupError("needs a PyTorch module, there is none")
    import copy

    import torch
    import torch_pruning  # noqa: F401  its import is not part of the pass
    from bench_latency import torch_module, torch_pruned

    torch.set_num_threads(1)
    module = torch_module(path.stem)
    fresh: list[Any] = []

    def again() -> None:
        fresh[:] = [copy.deepcopy(module)]

    def call() -> object:
        return torch_pruned(fresh.pop(), RATIO)

    call.again = again  # type: ignore[attr-defined]
    return call


def timed(call: Call) -> tuple[float, float]:
    """Return the wall and processor seconds of one run."""
    getattr(call, "again", lambda: None)()
    gc.collect()
    cpu, wall = process_time(), perf_counter()
    call()
    return perf_counter() - wall, process_time() - cpu


def times(path: Path, scratch: Path, runs: int) -> dict[str, Any]:
    """Run all tools by turns; return seconds by tool, and why a tool is missing."""
    calls: dict[str, Call] = {}
    missing: dict[str, str] = {}
    seconds: dict[str, list[tuple[float, float]]] = {}
    for tool in TOOLS:
        try:
            calls[tool] = prepared(tool, path, scratch)
            seconds[tool] = [timed(calls[tool])]
        except ImportError as error:
            missing[tool] = f"not installed ({error})"
        except LookupError as error:
            missing[tool] = str(error)
    quick = [tool for tool in seconds if seconds[tool][0][0] < PATIENCE]
    for tool in quick:
        seconds[tool] = []
    for index in range(runs):
        for tool in quick[::-1] if index % 2 else quick:
            seconds[tool].append(timed(calls[tool]))
    return {"seconds": seconds, "missing": missing}


def memory(tool: str, path: Path, scratch: Path) -> float:
    """Return the megabytes that the pass adds at its peak to a process that has the model loaded."""
    call = prepared(tool, path, scratch)
    getattr(call, "again", lambda: None)()
    before = _mark()
    call()
    return (_peak() - before) / 1e6


def _mark() -> int:
    """Set the peak back to what is resident now, where the system can; return that peak in bytes."""
    gc.collect()
    with contextlib.suppress(OSError):  # not Linux: what loading took for a moment hides some of the pass
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """Return the largest resident size so far."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def isolated(*arguments: str) -> Any:
    """Call this script in a process of its own; return its JSON, or None where it fails."""
    paths = (str(ROOT), os.environ.get("PYTHONPATH", ""))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        print(done.stderr.strip().splitlines()[-1:], file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def profile(path: Path, count: int = 25) -> str:
    """Return the functions in which our pass spends most of its own time."""
    import cProfile
    import io
    import pstats

    call = prepared(OURS, path, path.parent)
    call()
    profiler = cProfile.Profile()
    profiler.runcall(call)
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(count)
    return text.getvalue()


def measured(path: Path, runs: int) -> tuple[str, list[str], list[str]]:
    """Return the rows of a model, the bars it misses, and what was skipped."""
    import numpy as np

    from onnxprune.evaluation.latency import compare

    weights = _weights(path)
    found = isolated(str(path.parent), "--time", path.stem, "--runs", str(runs))
    if found is None:
        raise SystemExit(f"{path.name} could not be measured")
    rows, missed = "", []
    base = np.asarray([wall for wall, _ in found["seconds"][BASE]])
    for tool, pairs in found["seconds"].items():
        wall, cpu = np.asarray(pairs).T
        middle = float(np.median(wall))
        ratio = middle / float(np.median(base))
        shown = f"{ratio:.2f} (one run)" if tool != BASE else "1"
        if tool != BASE and len(wall) == len(base):
            own = compare(base, wall)
            ratio, shown = own.ratio, f"{own.ratio:.2f} ({own.low:.2f} to {own.high:.2f})"
        peak = isolated(str(path.parent), "--memory", path.stem, tool)
        times_weights = "-" if peak is None else f"{peak * 1e6 / weights:.1f}"
        megabytes = "-" if peak is None else f"{peak:.0f} MB"
        rows += (
            f"| {path.stem} | {tool} | {middle:.3f} s | {np.median(cpu):.3f} s | {shown} | {megabytes} "
            f"| {times_weights} |\n"
        )
        if tool == OURS:
            missed = _missed(path.stem, ratio, middle, peak or 0.0, weights)
    return rows, missed, [f"{tool} on {path.stem}: {why}" for tool, why in found["missing"].items()]


def _missed(name: str, ratio: float, seconds: float, peak: float, weights: int) -> list[str]:
    most_ratio, most_seconds = BARS.get(name, (None, None))
    missed = []
    if most_ratio is not None and ratio > most_ratio:
        missed.append(f"{name}: {ratio:.2f} times load + save, the bar is {most_ratio:g}")
    if most_seconds is not None and seconds > most_seconds:
        missed.append(f"{name}: {seconds:.2f} s, the bar is {most_seconds:g} s")
    limit = MEMORY_TIMES * weights / 1e6 + MEMORY_MB
    if peak > limit:
        missed.append(f"{name}: peak {peak:.0f} MB, the bar is {limit:.0f} MB")
    return missed


def _weights(path: Path) -> int:
    import onnx

    tensors = onnx.load(str(path)).graph.initializer
    return sum(t.ByteSize() for t in tensors)


def _child(args: argparse.Namespace) -> None:
    """Measure in this process and print one line of JSON."""
    name = args.time or args.memory[0]
    path = args.folder / f"{name}.onnx"
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        scratch = Path(folder)
        found = times(path, scratch, args.runs) if args.time else memory(args.memory[1], path, scratch)
    print(json.dumps(found))


def main() -> int:
    """Print the table, or write it into docs/benchmarks.md; return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path, help="where the benchmark models are or go")
    parser.add_argument("--runs", type=int, default=9, help=f"timed runs of each tool, at least {FEWEST}")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=MODELS, help="measure only these")
    parser.add_argument("--profile", action="store_true", help="print our pass's profiles instead")
    parser.add_argument("--write", action="store_true", help="write the table into docs/benchmarks.md")
    parser.add_argument("--time", metavar="MODEL", help=argparse.SUPPRESS)
    parser.add_argument("--memory", nargs=2, metavar=("MODEL", "TOOL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.time or args.memory:
        _child(args)
        return 0
    from scripts import build_bench_models as zoo

    args.folder.mkdir(parents=True, exist_ok=True)
    table, missed, skipped = HEADER, [], []
    for name in args.only:
        path = args.folder / f"{name}.onnx"
        if not path.exists():
            zoo.write_model(name, args.folder)
        if args.profile:
            print(f"{name}\n{profile(path)}")
            continue
        rows, short, absent = measured(path, max(args.runs, FEWEST))
        table, missed, skipped = table + rows, missed + short, skipped + absent
        print(rows, file=sys.stderr)
    if not args.profile:
        _finish(table, missed, skipped, args.write)
    return int(bool(missed))


def _finish(table: str, missed: list[str], skipped: list[str], write: bool) -> None:
    from bench_latency import PAGE

    from onnxprune.evaluation.latency import cpu_name
    from scripts.sections import write_section

    notes = "".join(f"\nSkipped: {line}.\n" for line in skipped)
    section = f"## Time and memory of the pass\n\n{ABOUT}\n{table}\n{cpu_name()}.\n{notes}"
    print(section)
    print("\n".join(missed) or "all bars met", file=sys.stderr)
    if write:
        write_section(PAGE, "pass", section)


if __name__ == "__main__":
    raise SystemExit(main())
