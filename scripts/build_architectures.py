"""Build small variants of published architectures, with random weights and a fixed seed, and export them.

Usage: python scripts/build_architectures.py FOLDER [--only swin levit]

Needs `pip install ".[peers]"`, downloads nothing. Every architecture is written by both exporters of PyTorch
(NAME_legacy.onnx, NAME_dynamo.onnx); what an exporter failed at stands in FOLDER/exports.json.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

SEED = 2024
CLASSES = 100
OPSET = 18
AGREE = 1e-3  # of the largest output: an exported model that differs by more is the exporter's mistake
EXPORTERS = ("legacy", "dynamo")
INDEX = "exports.json"
NOT_DOWNLOADED = "torchvision::nms", "torchvision::qnms"


@dataclass(frozen=True)
class Architecture:
    """A model (or a class of models) of timm, the side of its square input in pixels, what makes it small."""

    timm: str
    side: int
    options: Mapping[str, Any] = field(default_factory=dict)


ARCHITECTURES = {
    "convnext": Architecture("convnext_atto", 64, {"depths": (1, 1, 2, 1)}),
    "densenet": Architecture("densenet121", 64, {"block_config": (2, 2, 3, 2)}),
    "dpn": Architecture("dpn48b", 64, {"k_sec": (2, 2, 2, 1)}),
    "efficientnet": Architecture("efficientnet_b0", 64),
    "ghostnet": Architecture("ghostnet_100", 64),
    "hrnet": Architecture("hrnet_w18_small", 64),
    "inception": Architecture("inception_v3", 96),
    "levit": Architecture("levit_128s", 128, {"img_size": 128}),
    "maxvit": Architecture(
        "maxvit_pico_rw_256", 128,
        {
            "img_size": 128, "depths": (1, 1, 1, 1),
            "transformer_window_size": (4, 4), "transformer_grid_size": (4, 4),
        },
    ),
    "mixer": Architecture(
        "MlpMixer", 64, {"img_size": 64, "patch_size": 8, "num_blocks": 3, "embed_dim": 128}
    ),
    "mobilevit": Architecture("mobilevit_xxs", 128),
    "poolformer": Architecture("poolformer_s12", 64),
    "regnet": Architecture("regnety_002", 64),
    "repvgg": Architecture("repvgg_a0", 64),
    "res2net": Architecture("res2net50_26w_4s", 64, {"layers": (2, 1, 1, 1)}),
    "resnext": Architecture("resnext50_32x4d", 64, {"layers": (2, 1, 1, 1)}),
    "swin": Architecture(
        "swin_tiny_patch4_window7_224", 64,
        {"img_size": 64, "window_size": 4, "embed_dim": 48, "depths": (2, 2, 2), "num_heads": (2, 4, 8)},
    ),
    "xcit": Architecture("xcit_nano_12_p16_224", 64, {"img_size": 64, "depth": 3}),
}  # fmt: skip


def build(name: str) -> nn.Module:
    """Return one architecture in eval mode, with seeded weights of which none is degenerate."""
    timm = _timm()
    chosen = ARCHITECTURES[name]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(SEED)
        known = getattr(timm.models, chosen.timm)
        arguments = {"num_classes": CLASSES, **chosen.options}
        module = (
            known(**arguments) if isinstance(known, type) else timm.create_model(chosen.timm, **arguments)
        )
        with torch.no_grad():
            for owner, key, values in _parameters(module):
                _draw(owner, key, values)
        _measure_statistics(module, chosen.side)
    return module.eval()


def images(name: str, count: int) -> Tensor:
    """Return seeded random inputs [count, 3, side, side] of unit variance."""
    side = ARCHITECTURES[name].side
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(SEED))


def _timm() -> Any:
    """Import timm, which imports torchvision.

    Its wheels are made for CUDA: beside a torch for the CPU its kernels do not load, and its Python code asks
    for two of their names.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for operator in NOT_DOWNLOADED:
            torch.library.define(operator, "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm

    return timm


def _parameters(module: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for owner in module.modules():
        for key, values in owner.named_parameters(recurse=False):
            yield owner, key, values


def _draw(owner: nn.Module, key: str, values: Tensor) -> None:
    """Draw the values of a parameter anew, so that every one of them shows in the outputs.

    Matrices keep the variance of what they read; scales, layer scales of 1e-6 among them, lie around 1, and
    what starts at zero (biases, last norms of residual branches) does not stay there.
    """
    is_norm = "norm" in type(owner).__name__.lower()
    constant = values.numel() > 1 and values.min() == values.max()
    if isinstance(owner, (nn.Linear, nn.modules.conv._ConvNd)) and key == "weight":
        values.normal_(0, 1 / math.sqrt(values[0].numel()))
    elif (is_norm and key == "weight") or (constant and values.flatten()[0] != 0):
        values.uniform_(0.5, 1.5)
    else:
        values.normal_(0, 0.2)


def _measure_statistics(module: nn.Module, side: int) -> None:
    """Set the statistics of every BatchNorm to those of a random batch: activations keep their scale."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    module.train()
    with torch.no_grad():
        module(torch.randn(16, 3, side, side))


def export(module: nn.Module, sample: Tensor, path: Path, exporter: str) -> str:
    """Export with a batch of any size, or with a fixed one where that fails; return what went wrong.

    Raises RuntimeError where no valid model came out.
    """
    trouble = ""
    for dynamic in (True, False):
        try:
            _export(module, sample, path, exporter, dynamic)
            _check(module, sample, path)
        except Exception as error:  # noqa: BLE001  exporters raise anything
            trouble = f"{'any' if dynamic else 'fixed'} batch: {_shown(error)}"
            path.unlink(missing_ok=True)
        else:
            return trouble
    raise RuntimeError(trouble)


def _shown(error: BaseException) -> str:
    """Return the first line of what lies at the bottom of an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:160]}"


def _export(module: nn.Module, sample: Tensor, path: Path, exporter: str, dynamic: bool) -> None:
    names: dict[str, Any] = {"input_names": ["input"], "output_names": ["logits"], "opset_version": OPSET}
    if exporter == "legacy":
        axes = {"input": {0: "batch"}, "logits": {0: "batch"}} if dynamic else None
        names |= {"dynamic_axes": axes, "dynamo": False}
    else:
        shapes = ({0: torch.export.Dim("batch", min=1, max=64)},) if dynamic else None
        names |= {"dynamic_shapes": shapes, "dynamo": True, "external_data": False, "verbose": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (sample,), str(path), **names)


def _check(module: nn.Module, sample: Tensor, path: Path) -> None:
    """Compare with PyTorch. Raises ValueError where the exported model computes something else."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    with torch.no_grad():
        expected = module(sample).numpy()
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: sample.numpy()})
    error = float(np.abs(got - expected).max() / np.abs(expected).max())
    if not error < AGREE:
        raise ValueError(f"the exported model's outputs differ from PyTorch's by {error:.1e}")


def write_models(folder: Path, names: Sequence[str]) -> None:
    """Write architectures into a folder, and what the exporters said into its index."""
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / INDEX
    outcome: dict[str, str] = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}
    for name in names:
        module = build(name)
        for exporter in EXPORTERS:
            file = f"{name}_{exporter}.onnx"
            try:
                outcome[file] = export(module, images(name, 2), folder / file, exporter)
            except RuntimeError as error:
                outcome[file] = f"failed, {error}"
            size = (folder / file).stat().st_size / 1e6 if (folder / file).exists() else 0.0
            print(f"{file}: {size:.1f} MB {outcome[file]}", file=sys.stderr)
            index.write_text(json.dumps(outcome, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    """Write the architectures into the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path, help="where to write the models")
    parser.add_argument("--only", nargs="+", choices=sorted(ARCHITECTURES), default=sorted(ARCHITECTURES))
    args = parser.parse_args()
    write_models(args.folder, args.only)


if __name__ == "__main__":
    main()
