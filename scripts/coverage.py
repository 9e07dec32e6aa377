"""Prune every model below some folders and say what was kept, what was proved, and what stayed and why.

Usage: python scripts/coverage.py FOLDER... [--ratio 0.5] [--out docs/coverage.md] [--json FILE]

Each model has a process of its own: a crash is a row, not an end. Widths are not aligned (align 1) and
nothing is timed, so that the table shows what the rules reach and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from sections import write_section

HEADER = (
    "model", "nodes", "params", "kept", "MACs", "kept", "s", "proof", "error / tolerance", "groups off / all",
    "kept / asked", "of channels", "worst group", "dropped", "frozen: operator, reason, channels",
)  # fmt: skip


@dataclass
class Row:
    """One model: figures before and after, the proof, and what stayed."""

    file: str
    status: str = "crash"
    message: str = ""
    seconds: float = 0.0
    nodes: tuple[int, int] = (0, 0)
    params: tuple[int, int] = (0, 0)
    macs: tuple[int, int] = (0, 0)
    tolerance_ratio: float | None = None
    groups: int = 0
    off: int = 0
    channels: tuple[int, int, int] = (0, 0, 0)
    worst: str = ""
    dropped: list[str] = field(default_factory=list)
    frozen: list[tuple[str, str, int]] = field(default_factory=list)
    without_rule: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)


def measured(path: Path, ratio: float) -> Row:
    """Prune one model, write it, load it and run it."""
    import onnx

    from onnxprune import PruneSettings, inspect, prune
    from onnxprune.errors import OnnxPruneError

    row = Row(path.name)
    start = perf_counter()
    try:
        row.without_rule = list(inspect(path).without_rule)
        start = perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "pruned.onnx"
            settings = PruneSettings(ratio=ratio, scope="local", align=1, bench=False)
            result = prune(path, settings, output=target)
            row.seconds = perf_counter() - start
            row.nodes = (len(onnx.load(path).graph.node), len(result.model.graph.node))
            row.message = ran(path, target)
            _fill(row, result.report)
    except OnnxPruneError as error:
        row.status, row.message = type(error).__name__, str(error)
        row.seconds = perf_counter() - start
    return row


def ran(original: Path, pruned: Path) -> str:
    """Load and run a written model at onnxruntime's defaults; return what is wrong with it."""
    import numpy as np
    import onnx
    import onnxruntime as ort

    from onnxprune.model.feeds import find_feeds

    options = ort.SessionOptions()
    options.log_severity_level = 4
    feeds = find_feeds(onnx.load(original))
    outputs = []
    for path in (original, pruned):
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        outputs.append(session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()}))
    before, after = ([(np.shape(a), np.asarray(a).dtype) for a in arrays] for arrays in outputs)
    return "" if before == after else f"outputs are {after}, the original's {before}"


def _fill(row: Row, report: Any) -> None:
    """Copy what the table shows out of a report."""
    row.status = str(report.verification.status)
    row.tolerance_ratio = report.verification.tolerance_ratio
    row.params = (report.before.params, report.after.params)
    row.macs = (report.before.macs, report.after.macs)
    row.groups = len(report.groups)
    missed = [g for g in report.groups if g.kept != g.asked]
    row.off = len(missed)
    row.channels = tuple(sum(getattr(g, k) for g in report.groups) for k in ("kept", "asked", "channels"))  # type: ignore[assignment]
    if missed:
        worst = max(missed, key=lambda g: abs(g.kept - g.asked))
        row.worst = f"{worst.name}: {worst.kept} for {worst.asked} of {worst.channels}"
    row.dropped = [f"{d.id} {d.name}: {d.reason}" for d in report.dropped]
    count: Counter[tuple[str, str]] = Counter()
    for pin in report.pinned:
        count[(pin.op or "node", pin.reason)] += pin.channels
    row.frozen = [(op, reason, n) for (op, reason), n in count.most_common()]
    row.timings = dict(report.timings)


def isolated(path: Path, ratio: float, timeout: float) -> Row:
    """Measure a model in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--one", str(path), "--ratio", str(ratio)]
    paths = (str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", ""))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    start = perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env, check=False)
    except subprocess.TimeoutExpired:
        return Row(path.name, "timeout", f"no result in {timeout:.0f} s", timeout)
    with contextlib.suppress(ValueError, IndexError):
        return Row(**json.loads(done.stdout.splitlines()[-1]))
    last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
    return Row(path.name, "crash", f"exit {done.returncode}: {''.join(last)}", perf_counter() - start)


def _only(path: Path, ratio: float) -> None:
    """Measure a model in this process and print it as one line of JSON."""
    start = perf_counter()
    try:
        row = measured(path, ratio)
    except Exception as error:  # noqa: BLE001  a crash is a row
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        row = Row(path.name, "crash", f"{type(error).__name__} at {where}: {error}", perf_counter() - start)
    print(json.dumps(vars(row)))


def _share(pair: Sequence[int]) -> str:
    return f"{100 * pair[1] / pair[0]:.1f} %" if pair[0] else "-"


def _count(value: float) -> str:
    for limit, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.0f}"


def _pair(pair: Sequence[int]) -> str:
    return " → ".join(_count(v) for v in pair)


def cells(row: Row) -> tuple[str, ...]:
    frozen = "; ".join(f"{op}: {reason}, {n}" for op, reason, n in row.frozen[:3])
    if not row.params[0]:
        return (row.file, *[""] * 5, f"{row.seconds:.1f}", row.status, *[""] * 6, row.message)
    error = "-" if row.tolerance_ratio is None else f"{row.tolerance_ratio:.2f}"
    kept, asked, channels = row.channels
    return (
        row.file, f"{row.nodes[0]} → {row.nodes[1]}", _pair(row.params), _share(row.params), _pair(row.macs),
        _share(row.macs), f"{row.seconds:.1f}", row.status + (f" ({row.message})" if row.message else ""),
        error, f"{row.off} / {row.groups}", f"{kept} / {asked}", str(channels), row.worst,
        "; ".join(row.dropped), frozen,
    )  # fmt: skip


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a markdown table."""
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (header, *rows)]
    lines = ["| " + " | ".join(row) + " |" for row in escaped]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def median(values: Sequence[float]) -> float:
    """Return the middle of some values."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def summary(rows: Sequence[Row]) -> str:
    """Say in two sentences how far the cut went."""
    done = [r for r in rows if r.params[0]]
    if not done:
        return f"{len(rows)} models, none pruned."
    shares = [100 * r.params[1] / r.params[0] for r in done]
    states = Counter(r.status for r in rows)
    counted = ", ".join(f"{n} {state}" for state, n in states.most_common())
    return (
        f"{len(rows)} models: {counted}. Of the parameters {min(shares):.1f} to {max(shares):.1f} % stay, "
        f"median {median(shares):.1f} %; pruning, proving and writing them all took "
        f"{sum(r.seconds for r in rows):.0f} s."
    )


def section(rows: Sequence[Row], ratio: float) -> str:
    """Write the section."""
    missing: dict[str, list[str]] = {}
    for row in rows:
        for op in row.without_rule:
            missing.setdefault(op, []).append(row.file)
    parts = [
        "## Published models and exported architectures",
        f"`scripts/coverage.py` asks for {100 * ratio:g} % of the channels of every group (scope local, "
        "align 1), proves and writes each model, loads the file back and runs it in onnxruntime.",
        summary(rows),
        table(HEADER, [cells(r) for r in rows]),
        "- groups off: groups that keep another number of channels than was asked.\n"
        "- error / tolerance: the largest over all tensors compared; 1 would be a failure.\n"
        "- frozen: channels with parameters that stay, the three most frequent reasons; all with `--json`.",
        "### Operators without a rule",
        table(("operator", "files"), [(op, ", ".join(files)) for op, files in sorted(missing.items())])
        if missing
        else "None.",
    ]
    return "\n\n".join(parts) + "\n"


def models_below(folders: Sequence[Path]) -> list[Path]:
    """List the models in these folders (or the files themselves), each folder in order of name."""
    found = []
    for folder in folders:
        found += [folder] if folder.is_file() else sorted(folder.rglob("*.onnx"))
    return found


def main() -> int:
    """Measure all models; return 1 where one crashed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--ratio", type=float, default=0.5, help="share of channels to remove")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one model")
    parser.add_argument("--out", type=Path, help="write the section into this page instead of printing it")
    parser.add_argument("--json", type=Path, help="also write the rows as JSON")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        _only(args.one, args.ratio)
        return 0
    paths = models_below(args.folders)
    if not paths:
        parser.error("no .onnx file below these folders")
    rows = []
    for path in paths:
        rows.append(isolated(path, args.ratio, args.timeout))
        print(f"{path.name}: {rows[-1].status} {_share(rows[-1].params)} {rows[-1].message}", file=sys.stderr)
    if args.json:
        args.json.write_text(json.dumps([vars(r) for r in rows], indent=1) + "\n", encoding="utf-8")
    if args.out:
        write_section(args.out, "models", section(rows, args.ratio))
    else:
        print(section(rows, args.ratio))
    return int(any(r.status in ("crash", "timeout") for r in rows))


if __name__ == "__main__":
    raise SystemExit(main())
