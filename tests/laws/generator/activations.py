"""Activations, as operators and as exporters spell them out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import ops
from .core import Net, T, through
from .table import block

Function = Callable[[np.ndarray], np.ndarray]


def sigmoid(v: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-v))


def gelu(v: np.ndarray) -> np.ndarray:
    return v * sigmoid(1.702 * v)


# operator, attributes, first operator set, what it computes
PLAIN: dict[str, tuple[str, dict, int, Function]] = {
    "relu": ("Relu", {}, 9, lambda v: np.maximum(v, 0)),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.1}, 9, lambda v: np.where(v > 0, v, 0.1 * v)),
    "sigmoid": ("Sigmoid", {}, 9, sigmoid),
    "tanh": ("Tanh", {}, 9, np.tanh),
    "elu": ("Elu", {"alpha": 0.8}, 9, lambda v: np.where(v > 0, v, 0.8 * np.expm1(np.minimum(v, 0)))),
    "selu": ("Selu", {}, 9, lambda v: 1.05 * np.where(v > 0, v, 1.67 * np.expm1(np.minimum(v, 0)))),
    "softplus": ("Softplus", {}, 9, lambda v: np.log1p(np.exp(np.minimum(v, 30)))),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}, 9, lambda v: np.clip(v / 6 + 0.5, 0, 1)),
    "hard_swish": ("HardSwish", {}, 14, lambda v: v * np.clip(v / 6 + 0.5, 0, 1)),
    "abs": ("Abs", {}, 9, np.abs),
    "gelu": ("Gelu", {}, 20, gelu),
}
WRITTEN = ("clip", "swish", "gelu_erf", "gelu_tanh", "hard_swish_written", "mish_written", "prelu")
SATURATING = ("sigmoid", "tanh", "hard_sigmoid", "clip")
ALL = (*PLAIN, *WRITTEN)
NOTES = tuple(f"act.{name}" for name in ALL)


def act(net: Net, x: T) -> T:
    """A random activation, Relu most often; with few channels none that can die."""
    if x.c < 5:
        return act_named(net, x, net.pick(["leaky_relu", "elu", "softplus", "selu", "prelu"]))
    if net.chance(0.3):
        return act_named(net, x, "relu")
    allowed = [n for n in ALL if n not in PLAIN or PLAIN[n][2] <= net.opset]
    if abs(x.mean) > 1.5:
        allowed = [n for n in allowed if n not in SATURATING]
    return act_named(net, x, net.pick(allowed))


def act_named(net: Net, x: T, name: str) -> T:
    net.note(f"act.{name}")
    if name in PLAIN:
        op, attributes, _, function = PLAIN[name]
        return net.apply(op, x, **attributes).but(**through(function, x), even=False)
    return globals()[f"write_{name}"](net, x).but(even=False)


def write_clip(net: Net, x: T) -> T:
    low, high = net.pick([(0.0, 6.0), (-1.0, None), (None, 2.0), (-1.5, 1.5)])
    function = lambda v: np.clip(v, low if low is not None else -np.inf, high if high is not None else np.inf)  # noqa: E731
    return ops.clip(net, x, low, high).but(**through(function, x))


def write_swish(net: Net, x: T) -> T:
    gate = net.node("Sigmoid", [x])
    order = [x, gate] if net.chance(0.5) else [gate, x]
    return net.out(net.node("Mul", order), x, **through(lambda v: v * sigmoid(v), x))


def write_gelu_erf(net: Net, x: T) -> T:
    inner = net.node("Erf", [net.node("Div", [x, net.param(2**0.5, "root")])])
    inner = net.node("Add", [inner, net.param(1.0, "one")])
    if net.chance(0.5):
        name = net.node("Mul", [net.node("Mul", [x, inner]), net.param(0.5, "half")])
    else:
        name = net.node("Mul", [net.node("Mul", [x, net.param(0.5, "half")]), inner])
    return net.out(name, x, **through(gelu, x))


def write_gelu_tanh(net: Net, x: T) -> T:
    cube = net.node("Pow", [x, net.param(3.0, "three")])
    inner = net.node("Add", [x, net.node("Mul", [cube, net.param(0.044715, "k")])])
    inner = net.node("Tanh", [net.node("Mul", [inner, net.param(0.7978846, "k")])])
    inner = net.node("Mul", [net.node("Add", [inner, net.param(1.0, "one")]), net.param(0.5, "half")])
    return net.out(net.node("Mul", [x, inner]), x, **through(gelu, x))


def write_hard_swish_written(net: Net, x: T) -> T:
    shifted = net.apply("Add", x, net.param(3.0, "three"))
    gate = ops.clip(net, shifted, 0.0, 6.0)
    name = net.node("Div", [net.node("Mul", [x, gate]), net.param(6.0, "six")])
    return net.out(name, x, **through(PLAIN["hard_swish"][3], x))


def write_mish_written(net: Net, x: T) -> T:
    name = net.node("Mul", [x, net.node("Tanh", [net.node("Softplus", [x])])])
    return net.out(name, x, **through(lambda v: v * np.tanh(np.log1p(np.exp(np.minimum(v, 30)))), x))


def write_prelu(net: Net, x: T) -> T:
    size = 1 if net.chance(0.15) else x.c
    shape = (size,) if x.form != "map" or size == 1 else (size, *(1 for _ in x.spatial))
    slope = net.param(net.uniform(0.05, 0.4, *shape), "slope")
    return net.apply("PRelu", x, slope).but(**through(lambda v: np.where(v > 0, v, 0.2 * v), x))


@block("map vec seq", weight=5, notes=NOTES)
def activation(net: Net, x: T) -> T | None:
    return act(net, x)
