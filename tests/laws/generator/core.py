"""The graph under construction: sizes, live tensors, names, parameters, and a rough record of magnitudes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from onnx import NodeProto, helper

# A size is an int where it is fixed and, where it is dynamic, a tuple with its value under every probe
# (a probe is one concrete assignment of the dynamic dimensions). Two sizes are the same when they agree under
# all of them.
Dim = int | tuple[int, ...]
Shape = tuple[Dim, ...]

QUANTILES = np.array([NormalDist().inv_cdf((i + 0.5) / 41) for i in range(41)])
NEWEST = 26  # the newest operator set that the onnxruntime we test with (1.31) accepts
OPSETS = (9, 11, 13, 17, 18, 21, NEWEST)


def each(function: Callable[..., int], *dims: Dim) -> Dim:
    """Apply a function of integers to sizes, under every probe where one of them is dynamic."""
    count = max((len(d) for d in dims if isinstance(d, tuple)), default=0)
    if not count:
        return function(*dims)
    return tuple(function(*(d[i] if isinstance(d, tuple) else d for d in dims)) for i in range(count))


def values(dim: Dim) -> tuple[int, ...]:
    return dim if isinstance(dim, tuple) else (dim,)


def smallest(dims: Iterable[Dim]) -> int:
    return min(min(values(d)) for d in dims)


def divisible(dim: Dim, by: int) -> bool:
    return all(v % by == 0 for v in values(dim))


def product(dims: Iterable[Dim]) -> Dim:
    total: Dim = 1
    for dim in dims:
        total = each(lambda a, b: a * b, total, dim)
    return total


def largest(dims: Iterable[Dim]) -> int:
    return max(values(product(dims)))


@dataclass(frozen=True)
class T:
    """A live tensor. `form` is map ([N, C, ...]), vec ([N, C]) or seq ([N, S, C]); mean and std are guesses.
    `even` warns that the mean over the grid may be a constant (behind InstanceNormalization),
    `constant_token` that the first token is one (a class token that has not yet met the others).
    """

    name: str
    shape: Shape
    form: str = "map"
    std: float = 1.0
    mean: float = 0.0
    even: bool = False
    constant_token: bool = False

    @property
    def c(self) -> int:
        size = self.shape[-1] if self.form == "seq" else self.shape[1]
        assert isinstance(size, int)
        return size

    @property
    def axis(self) -> int:
        return len(self.shape) - 1 if self.form == "seq" else 1

    @property
    def spatial(self) -> Shape:
        return self.shape[2:] if self.form == "map" else ()

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def static(self) -> bool:
        """Whether every size but the batch is fixed."""
        return all(isinstance(d, int) for d in self.shape[1:])

    def but(self, **changes: Any) -> T:
        return replace(self, **changes)


@dataclass(frozen=True)
class Style:
    """What holds for the whole model, drawn once."""

    opset: int
    ir_version: int
    names: str
    dtype: Any
    dynamic_batch: bool
    dynamic_spatial: bool
    shared_bias: bool
    computed_shapes: float


@dataclass
class Net:
    """Nodes, parameters and random choices of one model."""

    seed: int
    rng: np.random.Generator
    style: Style
    known: frozenset[str]
    nodes: list[NodeProto] = field(default_factory=list)
    params: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: list[T] = field(default_factory=list)
    live: list[T] = field(default_factory=list)
    features: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    shapes: dict[str, Shape] = field(default_factory=dict)
    makers: dict[str, NodeProto] = field(default_factory=dict)
    zeros: dict[int, str] = field(default_factory=dict)
    block: int = 0
    widest: int = 48
    plain_split: bool = False
    draws: frozenset[str] = frozenset()
    flags: list[str] = field(default_factory=list)
    count: int = 0

    @property
    def opset(self) -> int:
        return self.style.opset

    # -- random choices --------------------------------------------------------------------------------------
    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def pick(self, options: Sequence[Any]) -> Any:
        return options[int(self.rng.random() * len(options))]

    def between(self, low: int, high: int) -> int:
        return low + int(self.rng.random() * (high - low + 1))

    def width(self, multiple: int = 1) -> int:
        """A channel count: usually a multiple of four, sometimes anything."""
        most = self.widest
        if multiple > 1:
            return multiple * self.between(max(1, -(-4 // multiple)), max(1, min(most, 40) // multiple))
        return 4 * self.between(1, most // 4) if self.chance(0.7) else self.between(4, most)

    def note(self, *features: str) -> None:
        for feature in features:
            if feature not in self.known:
                raise KeyError(f"feature {feature!r} is not declared")
            self.features.add(feature)

    # -- names -----------------------------------------------------------------------------------------------
    def fresh(self, hint: str) -> str:
        self.count += 1
        if self.style.names == "numeric":
            return str(self.count)
        if self.style.names == "torch":
            return f"/blocks.{self.block}/{hint}_{self.count}/{hint}_output_0"
        return f"{hint}_{self.count}"

    def param_name(self, hint: str) -> str:
        self.count += 1
        if self.style.names == "numeric":
            return str(self.count)
        if self.style.names == "torch":
            return f"blocks.{self.block}.{self.count}.{hint}"
        return f"{hint}_{self.count}"

    # -- nodes and parameters --------------------------------------------------------------------------------
    def node(self, op: str, inputs: Sequence[str | T], **attributes: Any) -> str:
        return self.multi(op, inputs, 1, **attributes)[0]

    def multi(self, op: str, inputs: Sequence[str | T], count: int, **attributes: Any) -> list[str]:
        names = [i.name if isinstance(i, T) else i for i in inputs]
        outputs = [self.fresh(op) for _ in range(count)]
        self.used.update(names)
        label = f"{op}.{len(self.nodes)}" if self.style.names != "torch" else outputs[0].rsplit("/", 1)[0]
        node = helper.make_node(op, names, outputs, name=label, **attributes)
        self.nodes.append(node)
        self.makers.update(dict.fromkeys(outputs, node))
        return outputs

    def maker(self, x: T) -> str:
        """The operator that makes a tensor, looking through Identity and Dropout; "" for an input."""
        node = self.makers.get(x.name)
        while node is not None and node.op_type in ("Identity", "Dropout"):
            node = self.makers.get(node.input[0])
        return node.op_type if node is not None else ""

    def param(self, array: Any, hint: str = "weight") -> str:
        """A float parameter of the model's element type."""
        name = self.param_name(hint)
        self.params[name] = np.asarray(array, dtype=self.style.dtype)
        return name

    def ints(self, numbers: Sequence[int] | int, hint: str = "shape") -> str:
        name = self.param_name(hint)
        self.params[name] = np.asarray(numbers, dtype=np.int64)
        return name

    def exact(self, array: Any, hint: str = "constant") -> str:
        """A constant that keeps its own element type (scales, conditions)."""
        name = self.param_name(hint)
        self.params[name] = np.asarray(array)
        return name

    def bias(self, size: int, scale: float = 0.2) -> str:
        """A bias vector; with shared biases all zero vectors of one size are one initializer."""
        if self.style.shared_bias and self.chance(0.7):
            if size in self.zeros:
                self.note("shared_bias")
            else:
                self.zeros[size] = self.param(np.zeros(size), "bias")
            return self.zeros[size]
        return self.param(self.normal(size) * scale, "bias")

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape, dtype=np.float32)

    def uniform(self, low: float, high: float, *shape: int) -> np.ndarray:
        return low + (high - low) * self.rng.random(shape, dtype=np.float32)

    def weight(self, shape: Sequence[int], contracted: Sequence[int], source: T) -> np.ndarray:
        """Weights that give an output of standard deviation 1; where possible they sum to zero, so that
        means do not swamp what depends on the input."""
        w = self.normal(*shape)
        fan = math.prod(shape[i] for i in contracted)
        if fan <= 2:
            w = np.sign(w) * (0.6 + 0.4 * np.abs(w))
        centred = fan >= 6
        if centred:
            w -= w.mean(axis=tuple(contracted), keepdims=True)
        power = source.std**2 + (0.1 if centred else 1.0) * source.mean**2
        return w / math.sqrt(fan * max(power, 1e-4))

    # -- tensors ---------------------------------------------------------------------------------------------
    def out(self, name: str, like: T, **changes: Any) -> T:
        tensor = replace(like, name=name, **changes)
        self.shapes[name] = tensor.shape
        return tensor

    def apply(self, op: str, x: T, *more: str | T, **attributes: Any) -> T:
        """A node whose output has the shape and magnitude of its first input."""
        return self.out(self.node(op, [x, *more], **attributes), x)


def through(function: Callable[[np.ndarray], np.ndarray], x: T) -> dict[str, float]:
    """Mean and deviation behind an element-wise function, for normally distributed inputs."""
    y = function(x.mean + x.std * QUANTILES)
    return {"mean": float(y.mean()), "std": float(max(y.std(), 1e-3))}


def root(*parts: float) -> float:
    return math.sqrt(sum(p * p for p in parts))
