"""What two other pruners make of an architecture: the share of parameters they keep, or how they fail.

Both are asked for half of the channels of every layer with their own choices, told which layer is the
classifier, and Torch-Pruning also where the heads of attention are, as its documentation asks.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

RATIO = 0.5
ONNXSIM, TORCH_PRUNING = "onnxsim", "torch-pruning"
SHORT = 140


@dataclass
class Outcome:
    """kept: share of the parameters, 1 for an untouched model, None where no model came out that runs."""

    kept: float | None = None
    failure: str = ""
    seconds: float = 0.0

    def cell(self) -> str:
        """Write the outcome into a table."""
        if self.kept is None:
            return self.failure
        share = "untouched" if self.kept == 1 else f"{100 * self.kept:.1f} %"
        return f"{share}; {self.failure}" if self.failure else share


def isolated(peer: str, what: str, timeout: float = 180.0) -> Outcome:
    """Run a peer in a process of its own, on a file (onnxsim) or an architecture's name (Torch-Pruning)."""
    command = [sys.executable, str(Path(__file__).resolve()), peer, what]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return Outcome(failure=f"no result in {timeout:.0f} s", seconds=timeout)
    with contextlib.suppress(ValueError, IndexError, TypeError):
        return Outcome(**json.loads(done.stdout.splitlines()[-1]))
    last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
    return Outcome(failure=f"exit {done.returncode}: {''.join(last)}"[:SHORT])


def onnxsim(path: Path) -> Outcome:
    """Prune a file with onnxsim: channels, then heads of attention; keep what onnxruntime runs."""
    import onnx
    from coverage import ran
    from onnxsim.pruning import apply_attention_head_pruning, apply_structured_pruning

    from onnxprune.analysis.cost import parameters

    start = perf_counter()
    original = onnx.load(path)
    try:
        pruned = apply_attention_head_pruning(apply_structured_pruning(original, RATIO), RATIO)
    except Exception as error:  # noqa: BLE001  a crash is an outcome
        return Outcome(failure=f"crash: {_shown(error)}", seconds=perf_counter() - start)
    seconds = perf_counter() - start
    with TemporaryDirectory() as folder:
        target = Path(folder) / "pruned.onnx"
        onnx.save(pruned, target)
        try:
            wrong = ran(path, target)
        except Exception as error:  # noqa: BLE001  onnxruntime refuses with errors of many types
            wrong = _shown(error)
    if wrong:
        return Outcome(failure=f"invalid in onnxruntime: {wrong}"[:SHORT], seconds=seconds)
    return Outcome(parameters(pruned) / parameters(original), "", seconds)


def torch_pruning(name: str) -> Outcome:
    """Prune a module with Torch-Pruning, run it, export it and run that in onnxruntime."""
    import torch
    from build_architectures import EXPORTERS, build, export, images

    module, sample = build(name), images(name, 2)
    whole = sum(p.numel() for p in module.parameters())
    start = perf_counter()
    stage = "crash"
    try:
        _magnitude_pruned(module, sample)
        seconds = perf_counter() - start
        stage = "the pruned module does not run"
        with torch.no_grad():
            module(sample)
    except Exception as error:  # noqa: BLE001  a crash is an outcome
        return Outcome(failure=f"{stage}: {_shown(error)}", seconds=perf_counter() - start)
    kept = sum(p.numel() for p in module.parameters()) / whole
    problems = []
    with TemporaryDirectory() as folder:
        for exporter in EXPORTERS:
            try:
                export(module, sample, Path(folder) / "pruned.onnx", exporter)
            except RuntimeError as error:
                problems.append(f"{exporter}: {error}")
            else:
                return Outcome(kept, "", seconds)
    return Outcome(kept, f"not exported: {'; '.join(problems)}"[:SHORT], seconds)


def _magnitude_pruned(module: Any, sample: Any) -> None:
    """Prune a module in place: L2 norm, half of every layer but the classifier, along head dimensions.

    The sizes that an attention keeps as numbers are set to what is left, as Torch-Pruning's examples do.
    """
    import torch_pruning as tp
    from build_architectures import CLASSES
    from torch import nn

    ends = [m for m in module.modules() if isinstance(m, nn.Linear) and m.out_features == CLASSES]
    attentions = [m for m in module.modules() if hasattr(m, "qkv") and hasattr(m, "num_heads")]
    layers = [next(m for m in a.qkv.modules() if isinstance(m, (nn.Linear, nn.Conv2d))) for a in attentions]
    pruner = tp.pruner.MagnitudePruner(
        module, sample, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=RATIO,
        ignored_layers=ends, num_heads={q: a.num_heads for a, q in zip(attentions, layers, strict=True)},
    )  # fmt: skip
    pruner.step()
    for attention, layer in zip(attentions, layers, strict=True):
        heads = pruner.num_heads[layer]
        size = layer.weight.shape[0] // (3 * heads)
        now = {"num_heads": heads, "head_dim": size, "dim_head": size, "attn_dim": heads * size}
        for name in now.keys() & vars(attention).keys():
            setattr(attention, name, now[name])


def _shown(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:SHORT]


def main() -> None:
    """Run one peer on what the command line names and print the outcome as one line of JSON."""
    peer, what = sys.argv[1:]
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()):
        outcome = onnxsim(Path(what)) if peer == ONNXSIM else torch_pruning(what)
    print(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main()
