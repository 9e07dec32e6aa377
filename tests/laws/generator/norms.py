"""Normalisations, as operators and written out."""

from __future__ import annotations

import numpy as np

from . import ops
from .core import Net, T, root, smallest
from .table import block


def affine(net: Net, size: int) -> list[str]:
    if net.chance(0.15):
        return [net.param(np.ones(size), "gamma"), net.param(np.zeros(size), "beta")]
    return [net.param(net.uniform(0.6, 1.4, size), "gamma"), net.bias(size)]


def batch_norm(net: Net, x: T) -> T:
    """BatchNormalization with statistics near what arrives."""
    mean = net.param(x.mean + 0.2 * x.std * net.normal(x.c), "running_mean")
    var = net.param(x.std**2 * net.uniform(0.6, 1.6, x.c) + 1e-4, "running_var")
    kwargs = {"epsilon": 1e-5, "momentum": 0.9} if net.chance(0.5) else {}
    if net.opset >= 14 and net.chance(0.3):
        kwargs["training_mode"] = 0
    return net.apply("BatchNormalization", x, *affine(net, x.c), mean, var, **kwargs).but(std=1.0, mean=0.0)


@block("map vec", weight=3)
def batch_normalization(net: Net, x: T) -> T | None:
    return batch_norm(net, x)


@block("map", weight=2)
def instance_normalization(net: Net, x: T) -> T | None:
    if smallest(x.spatial) < 3 or x.c < 4:
        return None
    return net.apply("InstanceNormalization", x, *affine(net, x.c), epsilon=1e-3).but(
        std=1.0, mean=0.0, even=True
    )


def groups_of(net: Net, x: T) -> int | None:
    groups = [g for g in (1, 2, 3, 4, 8) if x.c % g == 0 and x.c // g >= 2]
    return net.pick(groups) if groups and x.c >= 4 and smallest(x.spatial) >= 3 else None


@block("map", weight=6, since=21)
def group_norm(net: Net, x: T) -> T | None:
    """The operator (its form of operator set 18 is deprecated: the checker refuses it)."""
    groups = groups_of(net, x)
    if groups is None:
        return None
    y = net.apply("GroupNormalization", x, *affine(net, x.c), num_groups=groups, epsilon=1e-3)
    return y.but(std=1.0, mean=0.0)


@block("map", weight=2.5)
def group_norm_exported(net: Net, x: T) -> T | None:
    """Reshape, InstanceNormalization, Reshape, Mul, Add: torch's export."""
    groups = groups_of(net, x)
    if groups is None:
        return None
    spec: list = [ops.ax(0), groups, -1] if net.chance(0.7) else [0, groups, -1]
    if spec[0] == 0:
        name = net.node("Reshape", [x, net.ints([0, groups, -1])])
    else:
        name = ops.reshape(net, x, spec).name
    ones, zeros = net.param(np.ones(groups), "ones"), net.param(np.zeros(groups), "zeros")
    name = net.node("InstanceNormalization", [name, ones, zeros], epsilon=1e-3)
    if x.static and isinstance(x.shape[0], int) and net.chance(0.4):
        shape = net.ints([int(d) for d in x.shape])
    else:
        shape = net.node("Shape", [x])
    name = net.node("Reshape", [name, shape])
    tail = (1,) * len(x.spatial)
    name = net.node("Mul", [name, net.param(net.uniform(0.6, 1.4, x.c, *tail), "gamma")])
    name = net.node("Add", [name, net.param(net.normal(x.c, *tail) * 0.2, "beta")])
    return net.out(name, x, std=1.0, mean=0.0)


def layer_norm_last(net: Net, x: T) -> T:
    """LayerNormalization over the last axis, the operator or its parts."""
    gamma, beta = affine(net, x.shape[-1])
    if net.opset >= 17 and net.chance(0.6):
        net.note("layer_norm.operator")
        return net.apply("LayerNormalization", x, gamma, beta, axis=-1, epsilon=1e-3).but(std=1.0, mean=0.0)
    if net.maker(x) == "Cast":
        # onnxruntime 1.31 takes a Cast in front into its fused operator and gets the types wrong
        x = net.apply("LeakyRelu", x, alpha=0.5)
    net.note("layer_norm.written")
    mean = ops.reduce(net, "ReduceMean", x, [x.rank - 1], keepdims=True)
    centred = net.apply("Sub", x, mean)
    if net.chance(0.7):
        square = net.apply("Pow", centred, net.param(2.0, "two"))
    else:
        square = net.apply("Mul", centred, centred)
    var = ops.reduce(net, "ReduceMean", square, [x.rank - 1], keepdims=True)
    deviation = net.node("Sqrt", [net.node("Add", [var, net.param(1e-3, "epsilon")])])
    name = net.node("Div", [centred, deviation])
    name = net.node("Add", [net.node("Mul", [name, gamma]), beta])
    return net.out(name, x, std=1.0, mean=0.0)


@block("seq", weight=3, notes=("layer_norm.operator", "layer_norm.written"))
def layer_norm(net: Net, x: T) -> T | None:
    return layer_norm_last(net, x) if x.c >= 4 else None


@block("map", weight=2.5)
def layer_norm_channels(net: Net, x: T) -> T | None:
    """LayerNormalization over the channels of an image, between two Transposes (ConvNeXt)."""
    if x.c < 4:
        return None
    r = x.rank
    y = ops.transpose(net, x, [0, *range(2, r), 1])
    y = layer_norm_last(net, y)
    return ops.transpose(net, y, [0, r - 1, *range(1, r - 1)])


@block("seq", weight=2)
def rms_norm(net: Net, x: T) -> T | None:
    """x / sqrt(mean(x^2)), written out (Llama)."""
    if x.c < 4:
        return None
    square = net.apply("Mul", x, x) if net.chance(0.5) else net.apply("Pow", x, net.param(2.0, "two"))
    mean = ops.reduce(net, "ReduceMean", square, [x.rank - 1], keepdims=True)
    scale = net.node("Sqrt", [net.node("Add", [mean, net.param(1e-3, "epsilon")])])
    if net.chance(0.5):
        name = net.node("Mul", [x, net.node("Reciprocal", [scale])])
    else:
        name = net.node("Div", [x, scale])
    name = net.node("Mul", [name, net.param(net.uniform(0.6, 1.4, x.c), "gamma")])
    size = root(x.std, x.mean)
    return net.out(name, x, std=x.std / size, mean=x.mean / size)


@block("map", weight=2, ranks=(2,))
def local_response(net: Net, x: T) -> T | None:
    return net.apply("LRN", x, size=net.pick([3, 5]), alpha=0.1, beta=0.75, bias=1.0)


@block("map seq vec", weight=1.5)
def l2_normalise(net: Net, x: T) -> T | None:
    """Divide by the Euclidean norm over the channels."""
    if x.c < 4:
        return None
    norm = ops.reduce(net, "ReduceL2", x, [x.axis], keepdims=True)
    norm = net.node("Add", [norm, net.param(1e-2, "epsilon")])
    scaled = net.apply("Div", x, norm)
    size = root(x.std, x.mean) * x.c**0.5
    scaled = scaled.but(std=x.std / size, mean=x.mean / size)
    factor = float(x.c) ** 0.5
    return net.apply("Mul", scaled, net.param(factor, "scale")).but(
        std=scaled.std * factor, mean=scaled.mean * factor
    )
