"""Measure the models in models/ before and after pruning, and write the table of the README.

Accuracy is on held-out digits: of the original, pruned by norms alone, and chosen and repaired on 256
calibration inputs without labels.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import onnxprune
from onnxprune.quantities import count, size

sys.path.insert(0, str(Path(__file__).resolve().parent))
from accuracy import accuracy
from sections import write_section

ROOT = Path(__file__).resolve().parent.parent
CALIB = ROOT / "models" / "digits_calib.npz"
HEADER = (
    "| model | MACs | parameters | bytes | latency, 1 thread | error / tolerance "
    "| accuracy before | norms alone | with `--calib` |\n"
    "|---|---|---|---|---|---|---|---|---|\n"
)


def row(path: Path, folder: Path, macs: float) -> str:
    """Prune one model and return its row."""
    output = folder / path.name
    plain = folder / f"norms_{path.name}"
    settings = onnxprune.PruneSettings(targets={"macs": macs}, align=4)
    onnxprune.prune(path, replace(settings, bench=False), plain)
    report = onnxprune.prune(path, replace(settings, calib=CALIB), output).report
    assert report.bench is not None
    timing = report.bench.timings[1].versus_first
    assert timing is not None
    before, after = report.before, report.after
    macs_cell = f"{count(before.macs)} → {count(after.macs)}"
    params_cell = f"{count(before.params)} → {count(after.params)}"
    bytes_cell = f"{size(before.bytes)} → {size(after.bytes)}"
    latency = f"{timing.ratio:.2f} ({timing.low:.2f} to {timing.high:.2f})"
    error = f"{report.verification.tolerance_ratio:.2f}"
    right = [f"{100 * accuracy(str(p)):.1f} %" for p in (path, plain, output)]
    cells = (f"`{path.stem}`", macs_cell, params_cell, bytes_cell, latency, error, *right)
    return f"| {' | '.join(cells)} |\n"


def main() -> None:
    """Print the table, or write it into the README."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--macs", type=float, default=0.5, help="share of the MACs that remains")
    parser.add_argument("--write", action="store_true", help="write the table into README.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = sorted((ROOT / "models").glob("*.onnx"))
        table = HEADER + "".join(row(path, Path(folder), options.macs) for path in models)
    print(table)
    if options.write:
        write_section(ROOT / "README.md", "figures", table)


if __name__ == "__main__":
    main()
