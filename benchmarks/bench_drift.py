"""Drift of networks without labels at 25 % fewer MACs: python benchmarks/bench_drift.py MODELS DATA.

Every second input of a file `inputs_MODEL.npz` is for calibration, the others are held out and measured on:
norms alone, selection from data, and selection with repair. --write puts the table into docs/accuracy.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import perf_counter

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import onnxprune
from onnxprune import PruneSettings
from onnxprune.data.read import read_calibration
from onnxprune.errors import OnnxPruneError
from onnxprune.evaluation.drift import drift
from scripts.sections import table_parser, told, write_section

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "accuracy.md"
METHODS: Mapping[str, Mapping[str, str]] = {
    "L1": {"criterion": "l1", "recover": "none"},
    "data": {"criterion": "obs", "recover": "none"},
    "repaired": {"criterion": "obs", "recover": "joint"},
}


def found(folder: Path, name: str) -> Path | None:
    """Return the file of a model, in a folder or below; of several variants the first."""
    return next(iter(sorted(folder.rglob(f"{name}*.onnx"))), None)


def row(path: Path, data: Mapping[str, np.ndarray], share: float) -> str:
    """Prune a model in three ways; return its row of the table."""
    model = onnx.load(path)
    half, other = ({n: a[start::2] for n, a in data.items()} for start in (0, 1))
    calibration = read_calibration(other, model)
    judge = [*calibration.fit, *calibration.held_out]
    cells, begun = [], perf_counter()
    for method in METHODS.values():
        settings = PruneSettings(targets={"macs": share}, align=1, bench=False, calib=half, **method)
        try:
            result = onnxprune.prune(model, settings)
            cells.append(f"{drift(model, result.model, judge):.3f}")
        except OnnxPruneError as error:
            cells.append(str(error)[:60])
    count = len(next(iter(half.values())))
    return f"| `{path.stem}` | {count} | {' | '.join(cells)} | {perf_counter() - begun:.0f} s |"


def rows(models: Path, data: Path, share: float, only: str) -> Iterator[str]:
    """Yield the table."""
    yield "| model | calibration inputs | L1 | chosen from data | and repaired | time of all |"
    yield "|---|---|---|---|---|---|"
    for file in sorted(data.glob("inputs_*.npz")):
        path = found(models, file.stem.removeprefix("inputs_"))
        if path is not None and only in path.stem:
            yield row(path, dict(np.load(file)), share)


def main() -> None:
    """Print the table, or write it into the document."""
    parser = table_parser(__doc__, "docs/accuracy.md")
    parser.add_argument("--macs", type=float, default=0.75, help="share of the MACs that remains")
    options = parser.parse_args()
    table = told(rows(options.models, options.data, options.macs, options.only))
    if options.write:
        write_section(DOCUMENT, "drift", table)


if __name__ == "__main__":
    main()
