"""Time models pruned by onnxprune, onnxsim and Torch-Pruning to the same MACs, side by side in one run.

Usage: python benchmarks/bench_latency.py FOLDER [--macs 0.5] [--seconds 4] [--only resnet50] [--write]

FOLDER holds (or gets) the files of build_bench_models.py. A peer that is not installed is skipped and
named below the table; `pip install ".[peers]"` brings both.
"""

from __future__ import annotations

import argparse
import copy
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import onnx

import onnxprune
from onnxprune import PruneSettings
from onnxprune.evaluation.latency import BenchResult, BenchSettings, Timing, bench
from onnxprune.model.feeds import find_feeds
from onnxprune.pipeline.resolve import machine_step

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from scripts import build_bench_models as zoo
from scripts.sections import write_section

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
MODELS = ("resnet50", "mobilenetv2")
BAR = 0.6
SEARCH_STEPS = 9
HEADER = "| model | tool | MACs kept | parameters kept | latency | median |\n|---|---|---|---|---|---|\n"
ABOUT = (
    "Latency is relative to the original, with a 95 % interval, at batch 1 and one thread; all files of a "
    "model alternate run by run. The weights are random: widths, not accuracy, are compared.\n\n"
    'To repeat it, install the peers with `pip install ".[peers]"` and run '
    "`python benchmarks/bench_latency.py FOLDER --write`. It builds the two models in FOLDER where they are "
    "missing, searches each peer's ratio so that the same MACs remain, and rewrites this section.\n"
)


@dataclass(frozen=True)
class Entry:
    """A pruned file, who made it, and what it keeps of the original."""

    tool: str
    path: Path
    macs: float
    params: float


class Bench:
    """One model: its file, and the files that the tools make of it at the same MACs."""

    def __init__(self, name: str, folder: Path, macs: float) -> None:
        """Build the model where the folder does not hold it."""
        self.name, self.folder, self.target = name, folder, macs
        self.path = folder / f"{name}.onnx"
        if not self.path.exists():
            zoo.write_model(name, folder)
        self.whole = onnxprune.inspect(self.path).quantities
        self.entries: list[Entry] = [Entry("original", self.path, 1.0, 1.0)]
        self.skipped: list[str] = []

    def run(self, seconds: float) -> BenchResult:
        """Make all files and time them interleaved; the original comes twice, as a measure of the noise."""
        self.entries.append(Entry("original, again", self.path, 1.0, 1.0))
        for scope in ("global", "local"):
            self._ours(scope)
        self._peer("onnxsim", "onnxsim", self._onnxsim)
        step = machine_step()
        self._peer("Torch-Pruning", "torch-pruning", lambda out: self._torch_pruning(out, None))
        label = f"Torch-Pruning, round_to={step}"
        self._peer(label, "torch-pruning", lambda out: self._torch_pruning(out, step))
        feeds = find_feeds(onnx.load(str(self.path)))
        paths = [str(e.path) for e in self.entries]
        return bench(paths, feeds, BenchSettings(threads=1, seconds=seconds))

    def _ours(self, scope: str) -> None:
        path = self._file(f"onnxprune, {scope}")
        settings = PruneSettings(targets={"macs": self.target}, scope=scope, bench=False)
        onnxprune.prune(self.path, settings, path, force=True)
        self._add(f"onnxprune, {scope}", "onnxprune", path)

    def _peer(self, tool: str, package: str, make: Callable[[Path], None]) -> None:
        """Let a peer write its file; note why there is none."""
        path = self._file(tool)
        try:
            make(path)
            self._add(tool, package, path)
        except ImportError as error:
            self.skipped.append(f"{tool} is not installed ({error})")
        except Exception as error:  # noqa: BLE001  a peer may fail in any way
            text = " ".join(str(error).split())[:160]
            self.skipped.append(f"{tool} failed on {self.name}: {type(error).__name__}: {text}")

    def _file(self, tool: str) -> Path:
        slug = re.sub(r"\W+", "-", tool)
        return self.folder / f"{self.name}.{slug}.onnx"

    def _add(self, tool: str, package: str, path: Path) -> None:
        kept = onnxprune.inspect(path).quantities
        macs, params = kept.macs / self.whole.macs, kept.params / self.whole.params
        self.entries.append(Entry(f"{tool} ({_version(package)})", path, macs, params))
        print(f"{self.name}: {tool}: MACs {macs:.3f}, params {params:.3f}", file=sys.stderr)

    def _onnxsim(self, path: Path) -> None:
        from onnxsim.pruning import apply_structured_pruning

        model = onnx.load(str(self.path))

        def trial(ratio: float) -> tuple[float, onnx.ModelProto]:
            pruned = apply_structured_pruning(model, ratio)
            return onnxprune.inspect(pruned).quantities.macs / self.whole.macs, pruned

        onnx.save(searched(trial, self.target), str(path))

    def _torch_pruning(self, path: Path, round_to: int | None) -> None:
        import torch_pruning as tp

        module = torch_module(self.name)
        images = zoo.torch.zeros(1, 3, zoo.IMAGE, zoo.IMAGE)
        whole = tp.utils.count_ops_and_params(module, images)[0]

        def trial(ratio: float) -> tuple[float, Any]:
            pruned = torch_pruned(copy.deepcopy(module), ratio, round_to)
            return tp.utils.count_ops_and_params(pruned, images)[0] / whole, pruned

        zoo.export_torch(searched(trial, self.target), path)


def torch_module(name: str) -> Any:
    """Build the module that a benchmark file was exported from. Raises ImportError without torch."""
    if zoo.torch is None:
        raise ImportError("no torch")
    return {"resnet50": zoo.build_resnet50, "mobilenetv2": zoo.build_mobilenetv2}[name]()


def torch_pruned(module: Any, ratio: float, round_to: int | None = None) -> Any:
    """Prune a module in place with Torch-Pruning: L2 norm, the same ratio everywhere, classifier kept."""
    import torch_pruning as tp

    classifier = [m for m in module.modules() if isinstance(m, zoo.nn.Linear)][-1]
    images = zoo.torch.zeros(1, 3, zoo.IMAGE, zoo.IMAGE)
    pruner = tp.pruner.MagnitudePruner(
        module, images, importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=ratio, ignored_layers=[classifier], round_to=round_to,
    )  # fmt: skip
    pruner.step()
    return module


def searched(trial: Callable[[float], tuple[float, Any]], target: float) -> Any:
    """Bisect the ratio; return the result whose MACs come nearest to the target."""
    low, high = 0.0, 0.95
    tried: list[tuple[float, Any]] = []
    for _ in range(SEARCH_STEPS):
        middle = (low + high) / 2
        kept, result = trial(middle)
        tried.append((abs(kept - target), result))
        tried = [min(tried, key=lambda pair: pair[0])]
        low, high = (low, middle) if kept <= target else (middle, high)
    return tried[0][1]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return onnxprune.__version__ if package == "onnxprune" else "?"


def latency(timing: Timing) -> str:
    """Write a latency relative to the first model's, with its interval."""
    own = timing.versus_first
    return f"{own.ratio:.2f} ({own.low:.2f} to {own.high:.2f})" if own else "1"


def rows(found: Bench, result: BenchResult) -> str:
    """Write the rows of one model."""
    lines = [
        f"| {found.name} | {e.tool} | {e.macs:.2f} | {e.params:.2f} | {latency(t)} | {t.median_ms:.1f} ms |\n"
        for e, t in zip(found.entries, result.timings, strict=True)
    ]
    return "".join(lines)


def main() -> int:
    """Print the table, or write it into docs/benchmarks.md; return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path, help="where the benchmark models are or go")
    parser.add_argument("--macs", type=float, default=0.5, help="share of the MACs that remains")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds of timing per file")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=MODELS, help="time only these")
    parser.add_argument("--write", action="store_true", help="write the table into docs/benchmarks.md")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    table, missed, skipped, machine = HEADER, [], [], ""
    for name in args.only:
        found = Bench(name, args.folder, args.macs)
        result = found.run(args.seconds)
        table += rows(found, result)
        skipped += found.skipped
        machine = f"{result.cpu}, onnxruntime {result.onnxruntime}, alignment {machine_step()}."
        for entry, timing in zip(found.entries, result.timings, strict=True):
            if entry.tool.startswith("onnxprune") and timing.versus_first.ratio > BAR:
                missed.append(f"{name}, {entry.tool}: latency {latency(timing)}, the bar is {BAR}")
    notes = "".join(f"\nSkipped: {line}.\n" for line in skipped)
    section = f"## Latency at {100 * args.macs:g} % of the MACs\n\n{ABOUT}\n{table}\n{machine}\n{notes}"
    print(section)
    print("\n".join(missed) or "all bars met", file=sys.stderr)
    if args.write:
        write_section(PAGE, "latency", section)
    return int(bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
