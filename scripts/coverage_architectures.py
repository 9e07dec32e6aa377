"""Prune the models of build_architectures.py, beside what two other pruners make of them.

Usage: python scripts/coverage_architectures.py FOLDER [--only swin levit] [--write]

FOLDER holds (or gets) the models. With `--write` the section of docs/coverage.md is rewritten.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import coverage
import peers
from build_architectures import ARCHITECTURES, EXPORTERS, INDEX, write_models
from coverage import Row
from peers import Outcome
from sections import write_section

PAGE = Path(__file__).resolve().parent.parent / "docs" / "coverage.md"
TIMEOUT = 600.0
PLACE = 4  # the peers' columns stand behind the share that we keep
HEADER = (
    *coverage.HEADER[:PLACE], f"onnxsim {version('onnxsim')} keeps",
    f"Torch-Pruning {version('torch-pruning')} keeps", *coverage.HEADER[PLACE:],
)  # fmt: skip
ABOUT = """\
Architectures of timm {timm} in small variants with random weights, written by both exporters of PyTorch
{torch} with a batch of any size. To repeat it, run `pip install ".[peers]"` and `python
scripts/coverage_architectures.py FOLDER --write`, which builds what is missing in FOLDER without a download.

The peers are asked for half of every layer, too. onnxsim gets the same file (`apply_structured_pruning`, then
`apply_attention_head_pruning`). Torch-Pruning gets the PyTorch module and is told the classifier and the
heads of every attention (`num_heads`), as its documentation asks; pruners for single architectures are not
written for it. *untouched*: nothing went."""


@dataclass(frozen=True)
class Compared:
    """One file: our row, and what the peers make of it; Torch-Pruning sees the module behind the file."""

    ours: Row
    onnxsim: Outcome
    torch_pruning: Outcome

    def cells(self) -> tuple[str, ...]:
        """Write the row of the table."""
        own = coverage.cells(self.ours)
        return (*own[:PLACE], self.onnxsim.cell(), self.torch_pruning.cell(), *own[PLACE:])


def compared(folder: Path, name: str) -> list[Compared]:
    """Measure the files of an architecture."""
    module = peers.isolated(peers.TORCH_PRUNING, name)
    found = []
    for exporter in EXPORTERS:
        path = folder / f"{name}_{exporter}.onnx"
        if path.exists():
            ours = coverage.isolated(path, peers.RATIO, TIMEOUT)
            found.append(Compared(ours, peers.isolated(peers.ONNXSIM, str(path)), module))
            print(*found[-1].cells()[:7], found[-1].ours.status, sep=" | ", file=sys.stderr)
    return found


def kept(outcomes: Sequence[Outcome]) -> str:
    """Say in one sentence how far a peer gets."""
    shares = sorted(100 * o.kept for o in outcomes if o.kept is not None)
    failed = len(outcomes) - len(shares)
    if not shares:
        return f"fails on all {failed}"
    untouched = sum(s > 99 for s in shares)
    middle = coverage.median(shares)
    return (
        f"fails on {failed} of {len(outcomes)}, keeps more than 99 % of {untouched}, and keeps "
        f"{shares[0]:.1f} to {shares[-1]:.1f} % where it completes, median {middle:.1f} %"
    )


def section(rows: Sequence[Compared], exports: dict[str, str]) -> str:
    """Write the section of the page."""
    modules = {r.ours.file.rsplit("_", 1)[0]: r.torch_pruning for r in rows}
    troubles = [f"- {file}: {trouble}" for file, trouble in sorted(exports.items()) if trouble]
    parts = [
        "## Architectures built here, beside two other pruners",
        ABOUT.format(timm=version("timm"), torch=version("torch")),
        f"onnxprune: {coverage.summary([r.ours for r in rows])} onnxsim {kept([r.onnxsim for r in rows])}. "
        f"Torch-Pruning, by architecture, {kept(list(modules.values()))}.",
        coverage.table(HEADER, [r.cells() for r in rows]),
        *(["What the exporters refused:", "\n".join(troubles)] if troubles else []),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """Print the table, or write it into docs/coverage.md; return 1 where one of our rows is not proved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path, help="where the models are or go")
    parser.add_argument("--only", nargs="+", choices=sorted(ARCHITECTURES), default=sorted(ARCHITECTURES))
    parser.add_argument("--write", action="store_true", help="write the section into docs/coverage.md")
    args = parser.parse_args()
    index = args.folder / INDEX
    built = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}
    write_models(args.folder, [name for name in args.only if f"{name}_{EXPORTERS[-1]}.onnx" not in built])
    exports: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))
    rows = [row for name in args.only for row in compared(args.folder, name)]
    text = section(rows, {f: t for f, t in exports.items() if f.rsplit("_", 1)[0] in args.only})
    if args.write:
        write_section(PAGE, "architectures", text)
    else:
        print(text)
    return int(any(r.ours.status != "proved" for r in rows))


if __name__ == "__main__":
    raise SystemExit(main())
