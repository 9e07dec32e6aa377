"""Accuracy of trained classifiers before and after pruning: python benchmarks/bench_accuracy.py MODELS DATA.

Channels are chosen and weights repaired on calibration inputs without labels only; the evaluation file
is read once, at the end. Each row is the mean over several calibration subsets, with a 95 % interval of
the difference to the unpruned model. --write puts the table into docs/accuracy.md. Where onnxsim is installed
(`pip install ".[peers]"`), its structured pruning by weights and activations stands beside.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import onnxprune
from onnxprune import PruneSettings
from scripts.sections import table_parser, told, write_section

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "accuracy.md"
METHODS: Mapping[str, Mapping[str, Any]] = {
    "L1 norm": {"criterion": "l1", "recover": "none"},
    "obs, no repair": {"criterion": "obs", "recover": "none"},
    "obs, ls": {"criterion": "obs", "recover": "ls"},
    "obs, refit": {"criterion": "obs", "recover": "refit"},
    "obs, joint": {"criterion": "obs", "recover": "joint"},
    "obs, refit, 3 steps": {"criterion": "obs", "recover": "refit", "steps": 3},
}
PEER = "onnxsim wanda"
USUAL = ("L1 norm", PEER, "obs, no repair", "obs, ls", "obs, refit", "obs, joint")
ONCE = ("L1 norm", PEER)  # without data, or too slow to search often: the first subset only
ROUNDS = 8  # of the search for the peer's sparsity


@dataclass(frozen=True)
class Task:
    """A classifier, its data files, and the shares of MACs that remain."""

    model: str
    calib: str
    evaluation: str
    shares: tuple[float, ...]
    samples: int


TASKS = (
    Task("cifar_resnet20", "cifar10_calib", "cifar10_eval", (0.5,), 768),
    Task("cifar_resnet56", "cifar10_calib", "cifar10_eval", (0.5, 0.375), 768),
    Task("squeezenet_fp32", "imagenet_calib_u8", "imagenet_eval_u8", (0.8, 1 / 1.5), 80),
)


@dataclass(frozen=True)
class Scores:
    """Top-1, agreement with the unpruned model, and the drift of the logits."""

    right: np.ndarray
    same: float
    drift: float


def inputs(path: Path) -> np.ndarray:
    """Read the inputs of a data file; bytes of images are turned into the BGR of Caffe."""
    data = np.load(path)
    if "input" in data:
        return np.asarray(data["input"])
    images = data["images"][..., ::-1].astype(np.float32) - np.float32([103.939, 116.779, 123.68])
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def session_of(model: onnx.ModelProto) -> ort.InferenceSession:
    """Open a model in onnxruntime."""
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def logits(model: onnx.ModelProto, values: np.ndarray) -> np.ndarray:
    """Run a classifier over inputs, one batch of its size at a time."""
    session = session_of(model)
    node = session.get_inputs()[0]
    size = node.shape[0] if isinstance(node.shape[0], int) else 50
    parts = [session.run(None, {node.name: values[i : i + size]})[0] for i in range(0, len(values), size)]
    return np.concatenate(parts).reshape(len(values), -1)


def scores(model: onnx.ModelProto, values: np.ndarray, labels: np.ndarray, first: np.ndarray) -> Scores:
    """Judge a model on the evaluation inputs."""
    found = logits(model, values)
    apart = np.linalg.norm(found - first, axis=1) / np.linalg.norm(first, axis=1)
    return Scores(
        found.argmax(1) == labels, float((found.argmax(1) == first.argmax(1)).mean()), float(apart.mean())
    )


def pruned(
    model: onnx.ModelProto, inputs: Mapping[str, np.ndarray], method: str, share: float
) -> onnx.ModelProto | None:
    """Prune a model to a share of its MACs; None where a method does not get there."""
    if method == PEER:
        return by_onnxsim(model, inputs, share)
    settings = PruneSettings(targets={"macs": share}, align=1, bench=False, calib=inputs, **METHODS[method])
    return onnxprune.prune(model, settings).model


def by_onnxsim(
    model: onnx.ModelProto, inputs: Mapping[str, np.ndarray], share: float
) -> onnx.ModelProto | None:
    """Search for the sparsity of all layers at which onnxsim leaves at most a share of the MACs."""
    try:
        from onnxsim import apply_structured_wanda_pruning
    except ImportError:
        return None
    size = session_of(model).get_inputs()[0].shape[0]
    step = size if isinstance(size, int) else 32
    count = len(next(iter(inputs.values())))
    feeds = [{n: a[i : i + step] for n, a in inputs.items()} for i in range(0, count, step)]
    whole = onnxprune.inspect(model).quantities.macs
    low, high, best = 0.0, 1.0, None
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        try:
            found = apply_structured_wanda_pruning(model, calibration_data=feeds, sparsity=middle)
        except ValueError as error:  # it takes no model whose weights are listed among the inputs
            print(f"onnxsim: {error}", file=sys.stderr)
            return None
        if onnxprune.inspect(found).quantities.macs <= share * whole:
            high, best = middle, found
        else:
            low = middle
    return best


def row(task: Task, share: float, method: str, found: list[Scores], base: np.ndarray, seconds: float) -> str:
    """Return one row of the table; the interval is of the paired difference over subsets and samples."""
    lost = np.mean([s.right.astype(float) - base for s in found], axis=0)
    half = 1.96 * float(lost.std(ddof=1)) / np.sqrt(len(lost))
    cells = (
        f"`{task.model}`", f"{share:.3g}", method,
        f"{100 * np.mean([s.right.mean() for s in found]):.1f} %",
        f"{100 * lost.mean():+.1f} ± {100 * half:.1f}",
        f"{100 * np.mean([s.same for s in found]):.1f} %", f"{np.mean([s.drift for s in found]):.2f}",
        f"{seconds:.0f} s",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def measured(task: Task, folders: tuple[Path, Path], subsets: int, methods: list[str]) -> Iterator[str]:
    """Yield the rows of one task."""
    model = onnx.load(folders[0] / f"{task.model}.onnx")
    name = next(i.name for i in model.graph.input if i.name not in {t.name for t in model.graph.initializer})
    calib = inputs(folders[1] / f"{task.calib}.npz")
    values = inputs(folders[1] / f"{task.evaluation}.npz")
    labels = np.load(folders[1] / f"{task.evaluation}.npz")["labels"]
    first = logits(model, values)
    base = (first.argmax(1) == labels).astype(float)
    yield f"| `{task.model}` | 1 | unpruned | {100 * base.mean():.1f} % | | | | |"
    for share in task.shares:
        for method in methods:
            found, begun = [], perf_counter()
            for seed in range(1 if method in ONCE else subsets):
                chosen = np.sort(np.random.default_rng(seed).permutation(len(calib))[: task.samples])
                result = pruned(model, {name: calib[chosen]}, method, share)
                if result is None:
                    break
                found.append(scores(result, values, labels, first))
            if not found:
                yield f"| `{task.model}` | {share:.3g} | {method} | not reached | | | | |"
                continue
            yield row(task, share, method, found, base, (perf_counter() - begun) / len(found))


def table(folders: tuple[Path, Path], only: str, subsets: int, methods: list[str]) -> Iterator[str]:
    """Yield the table of all models that are there."""
    yield "| model | MACs kept | method | top-1 | against unpruned | agreement | logit drift | time |"
    yield "|---|---|---|---|---|---|---|---|"
    for task in TASKS:
        if only in task.model and (folders[0] / f"{task.model}.onnx").exists():
            yield from measured(task, folders, subsets, methods)


def main() -> None:
    """Print the table, or write it into the document."""
    parser = table_parser(__doc__, "docs/accuracy.md")
    parser.add_argument("--subsets", type=int, default=5, help="calibration subsets for each row")
    parser.add_argument("--method", action="append", choices=(*METHODS, PEER), help="only these methods")
    options = parser.parse_args()
    folders = (options.models, options.data)
    text = told(table(folders, options.only, options.subsets, options.method or list(USUAL)))
    if options.write:
        write_section(DOCUMENT, "table", text)


if __name__ == "__main__":
    main()
