"""Train the small digits models, export them to ONNX and write models/README.md.

Usage: python scripts/train_models.py [--out models] [--only digits_resnet ...]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

SEED = 7
SIZE = 16  # the 8x8 digits are upsampled to 16x16
TOKENS = (SIZE // 4) ** 2 + 1  # 4x4 patches and the class token
HELD_OUT = 500
CALIBRATION = 256
BATCH = 64
OPSET = 17
LIMIT = 1_000_000
ROOT = Path(__file__).resolve().parent.parent
MACHINE_MARKS = ("site-packages", "pkg.torch", "stack_trace", str(ROOT), str(Path(torch.__file__).parent))


def conv_bn(cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a bias-free convolution followed by BatchNorm."""
    conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(cout))


class Residual(nn.Module):
    """A residual block: ReLU of the body plus a shortcut."""

    def __init__(self, body: nn.Module, cin: int, cout: int, stride: int = 1) -> None:
        """Keep the body and create a strided projection where shapes differ."""
        super().__init__()
        self.body = body
        self.skip = nn.Identity() if stride == 1 and cin == cout else conv_bn(cin, cout, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return functional.relu(self.body(x) + self.skip(x))


def basic(cin: int, cout: int, stride: int = 1) -> Residual:
    """Return a residual block of two 3x3 convolutions."""
    body = nn.Sequential(conv_bn(cin, cout, 3, stride), nn.ReLU(), conv_bn(cout, cout, 3))
    return Residual(body, cin, cout, stride)


def bottleneck(cin: int, hidden: int, cout: int, stride: int = 1) -> Residual:
    """Return a residual block of 1x1, 3x3 and 1x1 convolutions."""
    reduce, spatial = conv_bn(cin, hidden, 1), conv_bn(hidden, hidden, 3, stride)
    body = nn.Sequential(reduce, nn.ReLU(), spatial, nn.ReLU(), conv_bn(hidden, cout, 1))
    return Residual(body, cin, cout, stride)


def build_resnet() -> nn.Module:
    """Return a residual CNN: 3 stages of 2 blocks, widths 32, 64, 128, last bottlenecks, BatchNorm kept."""
    return nn.Sequential(
        conv_bn(1, 32, 3),
        nn.ReLU(),
        basic(32, 32),
        basic(32, 32),
        basic(32, 64, 2),
        basic(64, 64),
        bottleneck(64, 32, 128, 2),
        bottleneck(128, 32, 128),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


class SqueezeExcite(nn.Module):
    """Channel gate: global pool, two 1x1 convolutions, hard sigmoid, multiply."""

    def __init__(self, channels: int, hidden: int) -> None:
        """Create the gate."""
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels of x."""
        gate = self.expand(functional.relu(self.reduce(functional.adaptive_avg_pool2d(x, 1))))
        return x * functional.hardsigmoid(gate)


class InvertedResidual(nn.Module):
    """Expand, depthwise, optional squeeze-excite, linear projection."""

    def __init__(self, cin: int, cout: int, expand: int, stride: int = 1, *, gate: bool, hard: bool) -> None:
        """Create the block; `gate` adds squeeze-excite, `hard` uses HardSwish in place of ReLU6."""
        super().__init__()
        hidden, act = cin * expand, nn.Hardswish if hard else nn.ReLU6
        self.skip = stride == 1 and cin == cout
        layers = [conv_bn(cin, hidden, 1), act(), conv_bn(hidden, hidden, 3, stride, hidden), act()]
        if gate:
            layers.append(SqueezeExcite(hidden, hidden // 4))
        self.body = nn.Sequential(*layers, conv_bn(hidden, cout, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return x + self.body(x) if self.skip else self.body(x)


def build_mobilenet() -> nn.Module:
    """Return an inverted-residual CNN: depthwise, ReLU6, HardSwish, squeeze-excite, BatchNorm folded."""
    return nn.Sequential(
        conv_bn(1, 16, 3),
        nn.ReLU6(),
        InvertedResidual(16, 24, 3, gate=False, hard=False),
        InvertedResidual(24, 24, 3, gate=False, hard=False),
        InvertedResidual(24, 40, 3, 2, gate=True, hard=False),
        InvertedResidual(40, 40, 3, gate=True, hard=False),
        InvertedResidual(40, 64, 4, 2, gate=False, hard=True),
        InvertedResidual(64, 64, 4, gate=True, hard=True),
        conv_bn(64, 192, 1),
        nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(192, 10),
    )


class ShuffleUnit(nn.Module):
    """ShuffleNetV2 unit: channel split (or two strided branches), concat, channel shuffle."""

    def __init__(self, cin: int, cout: int, stride: int = 1) -> None:
        """Create the unit; a strided unit feeds both branches with the whole input."""
        super().__init__()
        self.stride, half = stride, cout // 2
        main = cin // 2 if stride == 1 else cin
        strided = nn.Sequential(conv_bn(cin, cin, 3, stride, cin), conv_bn(cin, half, 1), nn.ReLU())
        self.left = nn.Identity() if stride == 1 else strided
        spatial = conv_bn(half, half, 3, stride, half)
        self.right = nn.Sequential(
            conv_bn(main, half, 1), nn.ReLU(), spatial, conv_bn(half, half, 1), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the unit."""
        left, right = x.chunk(2, dim=1) if self.stride == 1 else (x, x)
        y = torch.cat((self.left(left), self.right(right)), dim=1)
        batch, channels, height, width = y.shape
        y = y.view(batch, 2, channels // 2, height, width).transpose(1, 2)
        return y.reshape(batch, channels, height, width)


class DenseBlock(nn.Module):
    """DenseNet block: every layer reads the concat of all earlier ones (pre-activation BatchNorm)."""

    def __init__(self, cin: int, growth: int, layers: int) -> None:
        """Create `layers` layers of `growth` channels each."""
        super().__init__()
        self.layers = nn.ModuleList()
        for width in range(cin, cin + layers * growth, growth):
            conv = nn.Conv2d(width, growth, 3, padding=1, bias=False)
            self.layers.append(nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), conv))

    def forward(self, x: Tensor) -> Tensor:
        """Return the input concatenated with all layers."""
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, dim=1)))
        return torch.cat(features, dim=1)


def build_shuffle() -> nn.Module:
    """Return a CNN of ShuffleNetV2 units (split, concat, channel shuffle) and a dense concat block."""
    return nn.Sequential(
        conv_bn(1, 32, 3),
        nn.ReLU(),
        ShuffleUnit(32, 64, 2),
        ShuffleUnit(64, 64),
        ShuffleUnit(64, 64),
        ShuffleUnit(64, 128, 2),
        ShuffleUnit(128, 128),
        DenseBlock(128, 24, 3),
        conv_bn(200, 96, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, 10),
    )


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer with separate query, key and value projections."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        """Create the attention and the GELU MLP."""
        super().__init__()
        self.heads, self.head_dim = heads, dim // heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.drop = nn.Dropout(0.1)

    def split(self, x: Tensor) -> Tensor:
        """Reshape [batch, tokens, dim] into [batch, heads, tokens, head_dim]."""
        return x.reshape(-1, TOKENS, self.heads, self.head_dim).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Apply attention and MLP, each with a residual."""
        y = self.norm1(x)
        query, key, value = (self.split(proj(y)) for proj in (self.query, self.key, self.value))
        weights = torch.softmax(query @ key.transpose(-2, -1) * self.head_dim**-0.5, dim=-1)
        y = (weights @ value).transpose(1, 2).reshape(-1, TOKENS, self.heads * self.head_dim)
        x = x + self.drop(self.out(y))
        return x + self.drop(self.down(functional.gelu(self.up(self.norm2(x)))))


class PatchTransformer(nn.Module):
    """Vision transformer on 4x4 patches with a class token."""

    def __init__(self, dim: int, heads: int, hidden: int, layers: int) -> None:
        """Create the patch embedding, the encoder and the classifier."""
        super().__init__()
        self.patch = nn.Conv2d(1, dim, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.position = nn.Parameter(torch.randn(1, TOKENS, dim) * 0.02)
        self.layers = nn.Sequential(*(EncoderLayer(dim, heads, hidden) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class logits, read from the class token."""
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), dim=1) + self.position
        return self.head(self.norm(self.layers(x))[:, 0])


def build_transformer() -> nn.Module:
    """Return a vision transformer: 3 layers, 4 heads, width 64, GELU MLP of 192, class token."""
    return PatchTransformer(64, 4, 192, 3)


@dataclass(frozen=True)
class Spec:
    """How one model is built, trained and exported."""

    build: Callable[[], nn.Module]
    epochs: int
    rate: float
    exporter: str = "TorchScript"
    keep_batchnorm: bool = False


SPECS = {
    "digits_resnet": Spec(build_resnet, 30, 3e-3, keep_batchnorm=True),
    "digits_mobilenet": Spec(build_mobilenet, 60, 3e-3),
    "digits_shuffle": Spec(build_shuffle, 40, 3e-3, exporter="dynamo"),
    "digits_transformer": Spec(build_transformer, 120, 1e-3),
}


@dataclass(frozen=True)
class Digits:
    """The fixed split: training images with labels, calibration images, held-out images with labels."""

    train: np.ndarray
    train_labels: np.ndarray
    calib: np.ndarray
    held: np.ndarray
    held_labels: np.ndarray


def load_split() -> Digits:
    """Load the digits, upsample them to 16x16, scale to 0..1 and split them deterministically."""
    digits = load_digits()
    small = torch.from_numpy(digits.images.astype(np.float32) / 16.0)[:, None]
    images = functional.interpolate(small, size=(SIZE, SIZE), mode="bilinear", align_corners=False).numpy()
    labels = digits.target.astype(np.int64)
    train, held = train_test_split(range(len(labels)), test_size=HELD_OUT, random_state=SEED, stratify=labels)
    calib = np.random.default_rng(SEED).permutation(train)[:CALIBRATION]
    return Digits(images[train], labels[train], images[calib], images[held], labels[held])


def batches(data: Digits, gen: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled training batches, each shifted by up to two pixels with a little noise."""
    images, labels = torch.from_numpy(data.train), torch.from_numpy(data.train_labels)
    for index in torch.randperm(len(images), generator=gen).split(BATCH):
        dy, dx = torch.randint(-2, 3, (2,), generator=gen).tolist()
        batch = functional.pad(images[index], (2 + dx, 2 - dx, 2 + dy, 2 - dy))[:, :, 2:-2, 2:-2]
        yield batch + 0.02 * torch.randn(batch.shape, generator=gen), labels[index]


def train(spec: Spec, data: Digits) -> nn.Module:
    """Train with AdamW on a one-cycle schedule for a fixed number of epochs; the last weights are kept."""
    torch.manual_seed(SEED)
    model, gen = spec.build(), torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.rate, weight_decay=0.02)
    steps = spec.epochs * -(-len(data.train) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, spec.rate, total_steps=steps, pct_start=0.2)
    for _ in range(spec.epochs):
        for images, labels in batches(data, gen):
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels, label_smoothing=0.05).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def export(model: nn.Module, spec: Spec, path: Path) -> None:
    """Export with the exporter of the spec, one file, dynamic batch, and strip trace metadata."""
    sample = torch.zeros(2, 1, SIZE, SIZE)
    common = {"input_names": ["input"], "output_names": ["logits"], "external_data": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if spec.exporter == "dynamo":
            shapes = ({0: torch.export.Dim("batch")},)
            torch.onnx.export(model, (sample,), str(path), dynamo=True, dynamic_shapes=shapes, **common)
        else:
            mode = torch.onnx.TrainingMode.PRESERVE if spec.keep_batchnorm else torch.onnx.TrainingMode.EVAL
            axes = {"input": {0: "batch"}, "logits": {0: "batch"}}
            keep = {"training": mode, "do_constant_folding": not spec.keep_batchnorm, "opset_version": OPSET}
            torch.onnx.export(model, (sample,), str(path), dynamo=False, dynamic_axes=axes, **keep, **common)
    proto = onnx.load(str(path))
    strip_metadata(proto)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, str(path))
    found = [mark for mark in MACHINE_MARKS if mark.encode() in path.read_bytes()]
    if found or path.stat().st_size > LIMIT:
        raise SystemExit(f"{path.name}: {path.stat().st_size} bytes, machine marks {found}")


def strip_metadata(proto: onnx.ModelProto) -> None:
    """Remove doc strings and metadata, where exporters keep stack traces with machine paths."""
    graph = proto.graph
    values = [*graph.initializer, *graph.input, *graph.output, *graph.value_info]
    for item in [proto, graph, *graph.node, *values]:
        item.ClearField("doc_string")
        item.ClearField("metadata_props")


def measure(path: Path, data: Digits) -> float:
    """Return the held-out accuracy of an ONNX file under onnxruntime."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"input": data.held})
    return float((logits.argmax(1) == data.held_labels).mean())


def table_row(name: str, path: Path, accuracy: float) -> str:
    """Return the README row of one model."""
    proto, spec = onnx.load(str(path)), SPECS[name]
    about = (spec.build.__doc__ or "").split(" ", 2)[-1].rstrip(".")
    counts = Counter(node.op_type for node in proto.graph.node if node.op_type != "Constant")
    ops = ", ".join(f"{op} {count}" for op, count in sorted(counts.items()))
    floats = [tensor for tensor in proto.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    parameters = sum(int(np.prod(tensor.dims)) for tensor in floats)
    return (
        f"| `{name}.onnx` | {about} | {ops} | {spec.exporter}, opset {proto.opset_import[0].version} "
        f"| {parameters:,} | {path.stat().st_size / 1000:.0f} kB | {accuracy:.1%} |"
    )


def write_table(readme: Path, rows: dict[str, str]) -> None:
    """Replace the rows of the retrained models in the README table."""
    lines = readme.read_text(encoding="utf-8").splitlines() if readme.exists() else list(rows)
    lines = [rows.get(line.partition(".onnx`")[0].removeprefix("| `"), line) for line in lines]
    readme.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Train and export the requested models, write the data files and the README rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "models")
    parser.add_argument("--only", nargs="+", choices=SPECS, default=list(SPECS), help="train only these")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    args.out.mkdir(parents=True, exist_ok=True)
    data, rows = load_split(), {}
    np.savez_compressed(args.out / "digits_calib.npz", input=data.calib)
    np.savez_compressed(args.out / "digits_eval.npz", input=data.held, labels=data.held_labels)
    for name in args.only:
        start, path = time.perf_counter(), args.out / f"{name}.onnx"
        export(train(SPECS[name], data), SPECS[name], path)
        rows[name] = table_row(name, path, measure(path, data))
        print(f"{rows[name]} {time.perf_counter() - start:.0f} s", flush=True)
    write_table(args.out / "README.md", rows)


if __name__ == "__main__":
    main()
