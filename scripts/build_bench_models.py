"""Build the benchmark models (ResNet-50, MobileNetV2, deep chain) with fixed random weights.

Usage: python scripts/build_bench_models.py FOLDER [--only resnet50 mobilenetv2 deep_chain]
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

try:
    import torch
    from torch import Tensor, nn
except ImportError:  # deep_chain is built without torch
    torch = nn = None

Module = nn.Module if nn is not None else object
OPSET = 17
SEED = 20240
IMAGE = 224


class Bottleneck(Module):
    """ResNet v1.5 bottleneck: 1x1 reduce, 3x3 (strided), 1x1 expand, projection shortcut."""

    def __init__(self, cin: int, width: int, stride: int) -> None:
        """Create the block; its output has four times `width` channels."""
        super().__init__()
        cout = width * 4
        self.conv1 = nn.Conv2d(cin, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, cout, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(cout)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or cin != cout:
            self.downsample = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the residual block."""
        skip = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + skip)


class ResNet50(Module):
    """ResNet-50 (stages of 3, 4, 6, 3 bottlenecks)."""

    def __init__(self, classes: int = 1000) -> None:
        """Create the stem, the four stages and the classifier."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        cin, stages = 64, []
        for index, (width, depth) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True)):
            blocks = []
            for i in range(depth):
                blocks.append(Bottleneck(cin, width, 2 if i == 0 and index > 0 else 1))
                cin = width * 4
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(cin, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class logits."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def conv_bn_relu6(cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return convolution, BatchNorm and ReLU6."""
    conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(cout), nn.ReLU6(inplace=True))


class InvertedResidual(Module):
    """MobileNetV2 inverted residual: expand, depthwise, linear projection."""

    def __init__(self, cin: int, cout: int, stride: int, expand: int) -> None:
        """Create the block; it has a shortcut when shapes agree."""
        super().__init__()
        hidden = cin * expand
        self.use_skip = stride == 1 and cin == cout
        layers = [conv_bn_relu6(cin, hidden, 1)] if expand != 1 else []
        layers.append(conv_bn_relu6(hidden, hidden, 3, stride, hidden))
        layers += [nn.Conv2d(hidden, cout, 1, bias=False), nn.BatchNorm2d(cout)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return x + self.conv(x) if self.use_skip else self.conv(x)


# expansion, output channels, repeats, stride of the first (table 2 of the MobileNetV2 paper)
MOBILENETV2_TABLE = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2(Module):
    """MobileNetV2 with width multiplier 1.0."""

    def __init__(self, classes: int = 1000) -> None:
        """Create the features and the classifier."""
        super().__init__()
        layers, cin = [conv_bn_relu6(3, 32, 3, 2)], 32
        for expand, cout, repeats, stride in MOBILENETV2_TABLE:
            for i in range(repeats):
                layers.append(InvertedResidual(cin, cout, stride if i == 0 else 1, expand))
                cin = cout
        layers.append(conv_bn_relu6(cin, 1280, 1))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the class logits."""
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


def random_images(count: int, seed: int) -> Tensor:
    """Return smooth random images plus pixel noise, about unit variance."""
    gen = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 8, 8, generator=gen)
    smooth = nn.functional.interpolate(coarse, size=(IMAGE, IMAGE), mode="bilinear", align_corners=False)
    return smooth + 0.3 * torch.randn(count, 3, IMAGE, IMAGE, generator=gen)


def _init_weights(model: nn.Module) -> None:
    """He-initialise convolutions and give every BatchNorm a mildly varied scale and shift."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.2)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 1.0 / math.sqrt(module.in_features))
            nn.init.zeros_(module.bias)


def _measure_batchnorm(model: nn.Module, seed: int) -> None:
    """Set BatchNorm running statistics to those of a random batch, so activations keep their scale."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    model.train()
    with torch.no_grad():
        model(random_images(8, seed))
    for norm in norms:
        norm.momentum = 0.1
    model.eval()


def _spread_logits(model: nn.Module, classifier: nn.Linear, seed: int) -> None:
    """Centre and scale the classifier over random images, so that the arg-max depends on the image."""
    with torch.no_grad():
        logits = model(random_images(16, seed))
        spread = logits.std(0).mean()
        classifier.weight /= spread
        classifier.bias.copy_(-logits.mean(0) / spread)


def _seeded(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a model with seeded weights and measured BatchNorm statistics, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = factory()
        _init_weights(model)
        _measure_batchnorm(model, seed + 1)
        classifier = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        _spread_logits(model, classifier, seed + 2)
    return model


def build_resnet50() -> nn.Module:
    """Return ResNet-50 in eval mode with fixed random weights."""
    return _seeded(ResNet50, SEED)


def build_mobilenetv2() -> nn.Module:
    """Return MobileNetV2 in eval mode with fixed random weights."""
    return _seeded(MobileNetV2, SEED + 100)


def export_torch(model: nn.Module, path: Path) -> None:
    """Export with the TorchScript exporter, BatchNorm folded, dynamic batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(1, 3, IMAGE, IMAGE),),
            str(path),
            input_names=["input"],
            output_names=["logits"],
            dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,
        )


class ChainBuilder:
    """Collects the nodes and weights of the deep chain."""

    def __init__(self, seed: int) -> None:
        """Start an empty graph with a seeded generator."""
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, op: str, inputs: Sequence[str], **attrs: object) -> str:
        """Append a node and return its output name."""
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [f"{name}_out"], name=name, **attrs))
        return f"{name}_out"

    def weight(self, name: str, shape: Sequence[int], scale: float) -> str:
        """Append a normally distributed float32 initializer and return its name."""
        array = (self.rng.standard_normal(tuple(shape)) * scale).astype(np.float32)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def conv(self, x: str, cin: int, cout: int, kernel: int, *, stride: int = 1, gain: float = 1.0) -> str:
        """Append a convolution with He-scaled weights times `gain`."""
        stem = f"conv_{len(self.nodes)}"
        w = self.weight(
            f"{stem}.weight", (cout, cin, kernel, kernel), gain * math.sqrt(2 / (cin * kernel**2))
        )
        b = self.weight(f"{stem}.bias", (cout,), 0.01)
        pads = [kernel // 2] * 4
        return self.add("Conv", [x, w, b], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)

    def block(self, x: str, cin: int, cout: int, *, hidden: int, stride: int, gain: float) -> str:
        """Append conv, relu, conv, add, relu, with a projection when the width changes."""
        skip = (
            x
            if cin == cout and stride == 1
            else self.conv(x, cin, cout, 1, stride=stride, gain=math.sqrt(0.5))
        )
        y = self.add("Relu", [self.conv(x, cin, hidden, 3, stride=stride)])
        return self.add("Relu", [self.add("Add", [self.conv(y, hidden, cout, 3, gain=gain), skip])])


def build_deep_chain(seed: int = SEED) -> onnx.ModelProto:
    """Return a residual CNN of exactly 3,600 nodes: six stages, 718 blocks, input [batch,3,32,32]."""
    g = ChainBuilder(seed)
    widths, strides, depths = (8, 10, 12, 14, 16, 20), (1, 1, 2, 1, 2, 1), (119, 119, 120, 120, 120, 120)
    gain = 1.0 / math.sqrt(sum(depths))
    x, cin = g.add("Relu", [g.conv("input", 3, 8, 3)]), 8
    for width, stride, depth in zip(widths, strides, depths, strict=True):
        for i in range(depth):
            x = g.block(x, cin, width, hidden=width + 4 * (i % 2), stride=stride if i == 0 else 1, gain=gain)
            cin = width
    x = g.add("Flatten", [g.add("GlobalAveragePool", [x])], axis=1)
    w, b = g.weight("fc.weight", (10, cin), 1 / math.sqrt(cin)), g.weight("fc.bias", (10,), 0.01)
    x = g.add("Gemm", [x, w, b], transB=1)
    g.nodes[-1].output[0] = "logits"
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 32, 32])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])
    graph = helper.make_graph(g.nodes, "deep_chain", [image], [logits], initializer=g.weights)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="onnxprune"
    )
    model.ir_version = 8
    return model


def write_model(name: str, folder: Path) -> Path:
    """Build one model and write it into the folder."""
    path = folder / f"{name}.onnx"
    if name == "deep_chain":
        onnx.save(build_deep_chain(), str(path))
    elif torch is None:
        raise SystemExit(f'{name} needs torch: pip install "onnxprune[models]"')
    else:
        export_torch(build_resnet50() if name == "resnet50" else build_mobilenetv2(), path)
    return path


def main() -> None:
    """Write the requested models into the folder named on the command line."""
    names = ("resnet50", "mobilenetv2", "deep_chain")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write the models")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="build only these")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        path = write_model(name, args.folder)
        graph = onnx.load(str(path)).graph
        size = path.stat().st_size / 1e6
        print(f"{path.name}: {len(graph.node)} nodes, {len(graph.initializer)} initializers, {size:.1f} MB")


if __name__ == "__main__":
    main()
