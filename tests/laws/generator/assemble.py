"""From a seed to a model: style, inputs, a random sequence of blocks, heads, outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from . import (
    activations,
    attentions,
    channelwise,
    fused,
    gates,
    lengths,
    merges,
    norms,
    ops,
    recurrents,
    spatials,
    tokens,
    younger,
)
from .convs import conv
from .core import OPSETS, Dim, Net, Shape, Style, T, root
from .linears import linear
from .merges import alike
from .quantised import quantised
from .spatials import flat, pooled
from .table import BLOCKS, Block
from .variations import PASSES, initializers_as_inputs

# importing these modules fills the table of blocks (so does convs)
BLOCK_MODULES = (
    activations,
    attentions,
    channelwise,
    fused,
    gates,
    lengths,
    merges,
    norms,
    recurrents,
    spatials,
    tokens,
    younger,
)
IR_VERSION = {9: 4, 11: 6, 13: 7, 17: 8, 18: 8, 21: 10, 26: 12}
KINDS = ("image", "line", "volume", "tokens", "vector")
KIND_SHARES = (0.56, 0.11, 0.07, 0.2, 0.06)
MODEL_FEATURES = (
    *(f"kind.{kind}" for kind in KINDS),
    *(f"opset.{opset}" for opset in OPSETS),
    "names.plain", "names.numeric", "names.torch",
    "float16", "dynamic_batch", "dynamic_spatial", "several_inputs", "several_outputs", "intermediate_output",
    "shared_bias", "shape.computed", "shape.arithmetic", "ir_version.3", "ir_version.4", "value_info",
    "output.direct", "output.pooled",
)  # fmt: skip
FEATURES: tuple[str, ...] = tuple(
    sorted(
        {
            *BLOCKS,
            *(n for b in BLOCKS.values() for n in b.notes),
            *MODEL_FEATURES,
            *PASSES,
            "initializers_as_inputs",
            "quantised",
            "quantised.integers",
        }
    )
)
KNOWN = frozenset(FEATURES)
DRAWS = {  # name: (first seed, salt, share of the models from there on that may have blocks of this draw)
    "modern": (0, 99, 0.25),
    "structures": (20000, 100, 0.8),
}
BATCHES = (2, 1, 3, 2)
OFFSETS = ((0, 1, 2, 7), (0, 3, 1, 6), (0, 2, 3, 1))


@dataclass(frozen=True)
class Case:
    """One generated model; `input_shapes` are concrete shapes it accepts, by input name.

    flags: the inputs that hold one bool, where the others hold floats.
    """

    seed: int
    model: onnx.ModelProto
    features: frozenset[str]
    input_shapes: tuple[dict[str, tuple[int, ...]], ...]
    flags: frozenset[str] = frozenset()

    def feeds(self, shapes: Mapping[str, tuple[int, ...]], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Standard normal inputs of these shapes, of the type that the model declares; flags by a coin."""
        dtype = np.float16 if "float16" in self.features else np.float32
        drawn = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
        return {
            name: np.asarray(a, dtype) if name not in self.flags else np.asarray(a > 0)
            for name, a in drawn.items()
        }


def generate(seed: int) -> Case:
    """The model of a seed, always the same."""
    rng = np.random.default_rng(seed)
    net = Net(seed, rng, draw_style(rng), KNOWN)
    if net.style.dtype == np.float32:
        net.draws = draws_of(seed)
    kind = KINDS[int(np.searchsorted(np.cumsum(KIND_SHARES), rng.random()))]
    note_style(net, kind)
    probes = add_inputs(net, kind)
    grow(net)
    outputs = add_heads(net)
    flags = frozenset(net.flags)
    shapes = tuple(probe | dict.fromkeys(net.flags, ()) for probe in probes)
    return Case(seed, build(net, outputs), frozenset(net.features), shapes, flags)


def draws_of(seed: int) -> frozenset[str]:
    """The kinds of blocks that the model of a seed may have besides those that all may have."""
    return frozenset(
        name
        for name, (first, salt, share) in DRAWS.items()
        if seed >= first and np.random.default_rng([seed, salt]).random() < share
    )


def draw_style(rng: np.random.Generator) -> Style:
    opset = OPSETS[int(rng.random() * len(OPSETS))]
    dynamic = rng.random()
    ir_version = IR_VERSION[opset]
    if opset == 9 and rng.random() < 0.45:
        ir_version = 3
    return Style(
        opset=opset,
        ir_version=ir_version,
        names=("plain", "numeric", "torch")[int(rng.random() * 3)],
        dtype=np.float16 if rng.random() < 0.06 else np.float32,
        dynamic_batch=bool(dynamic < 0.5),
        dynamic_spatial=bool(0.3 < dynamic < 0.6),
        shared_bias=bool(rng.random() < 0.3),
        computed_shapes=(0.0, 0.3, 1.0)[int(rng.random() * 3)],
    )


def note_style(net: Net, kind: str) -> None:
    style = net.style
    net.note(f"kind.{kind}", f"opset.{style.opset}", f"names.{style.names}")
    if style.dtype == np.float16:
        net.note("float16")
    if style.dynamic_batch:
        net.note("dynamic_batch")
    if style.ir_version in (3, 4):
        net.note(f"ir_version.{style.ir_version}")
    if kind == "volume":
        net.widest = 20


# -- inputs --------------------------------------------------------------------------------------------------
def add_inputs(net: Net, kind: str) -> tuple[dict[str, tuple[int, ...]], ...]:
    """One to three inputs on common dynamic sizes; returns the probes."""
    spatial = net.style.dynamic_spatial and kind != "vector"
    count = 4 if spatial else 2
    batch: Dim = BATCHES[:count] if net.style.dynamic_batch else net.pick([1, 1, 2, 3])
    rank = {"image": 2, "line": 1, "volume": 3, "tokens": 1, "vector": 0}[kind]
    low, high = {"image": (9, 16), "line": (14, 32), "volume": (4, 6), "tokens": (5, 16), "vector": (0, 0)}[
        kind
    ]
    grid: list[Dim] = []
    for i in range(rank):
        size = net.between(low, high)
        if not spatial and net.chance(0.75):
            size += size % 2
        grid.append(tuple(size + o for o in OFFSETS[i]) if spatial else size)
    if spatial:
        net.note("dynamic_spatial")
    form = {"tokens": "seq", "vector": "vec"}.get(kind, "map")
    input_of(net, batch, grid, form)
    if net.chance(0.22):
        net.note("several_inputs")
        input_of(net, batch, grid, form)
        if net.chance(0.4):
            input_of(net, batch, [], "vec")
    shapes = {t.name: t.shape for t in net.inputs}
    dynamic = net.style.dynamic_batch or spatial
    return tuple(
        {name: tuple(d[p] if isinstance(d, tuple) else d for d in shape) for name, shape in shapes.items()}
        for p in range(count if dynamic else 1)
    )


def input_of(net: Net, batch: Dim, grid: list[Dim], form: str) -> None:
    c = net.pick([1, 3, 3, 4, 8]) if form == "map" else net.width()
    shape: Shape = {"map": (batch, c, *grid), "seq": (batch, *grid, c), "vec": (batch, c)}[form]
    name = f"input_{len(net.inputs)}" if net.style.names != "numeric" else net.fresh("input")
    tensor = T(name, shape, form)
    net.shapes[name] = shape
    net.inputs.append(tensor)
    net.live.append(tensor)


# -- blocks --------------------------------------------------------------------------------------------------
def grow(net: Net) -> None:
    """Add 4 to 30 blocks behind random live tensors, the newest most often."""
    depth = 4 + int(26 * net.rng.random() ** 1.5)
    done = 0
    rows = [row for row in BLOCKS.values() if not row.draw]
    wanted = [net.pick(rows), net.pick(rows), rows[net.seed % len(rows)]]
    for name in sorted(net.draws):
        wanted = 3 * [row for row in BLOCKS.values() if row.draw == name] + wanted
    for _ in range(3 * depth):
        if done == depth:
            break
        net.block += 1
        x = net.live[-1] if net.chance(0.7) else net.pick(net.live[-8:] if net.chance(0.8) else net.live)
        row = draw_block(net, x)
        if wanted and net.chance(0.5):
            row, x = steer(net, wanted, row, x)
        result = row.build(net, x)
        if result is None:
            continue
        net.note(row.name)
        done += 1
        if row in wanted:
            wanted.remove(row)
        for tensor in result if isinstance(result, list) else [result]:
            net.live.append(tamed(net, tensor))


def steer(net: Net, wanted: list[Block], row: Block, x: T) -> tuple[Block, T]:
    """Prefer a block that this seed should have, on a tensor that it fits; on the way there, tokens."""
    target = net.pick(wanted)
    fitting = [t for t in net.live if target.fits(net, t)]
    if fitting:
        return target, fitting[-1] if net.chance(0.5) else net.pick(fitting)
    images = [t for t in net.live if t.form == "map"]
    if target.forms == ("seq",) and images:
        return BLOCKS["to_tokens"], net.pick(images)
    return row, x


def draw_block(net: Net, x: T) -> Block:
    rows = [row for row in BLOCKS.values() if row.fits(net, x)]
    point = net.rng.random() * sum(row.weight for row in rows)
    for row in rows:
        point -= row.weight
        if point < 0:
            return row
    return rows[-1]


def tamed(net: Net, x: T, always: bool = False) -> T:
    """Scale a tensor back whose magnitude has left the comfortable range."""
    size = root(x.std, x.mean)
    if 0.2 < size < 5 or (not always and net.chance(0.2)):
        return x
    factor = net.param(1 / size, "rescale")
    return net.apply("Mul", x, factor).but(std=x.std / size, mean=x.mean / size)


# -- heads and outputs ---------------------------------------------------------------------------------------
def add_heads(net: Net) -> list[T]:
    """Give the tensors nobody reads a head each, at most four; the rest stay dead or are summed first."""
    leaves = [t for t in net.live if t.name not in net.used]
    outputs = [head(net, t) for t in leaves[-4:]]
    for t in leaves[:-4]:
        net.live.remove(t)
        if others := [o for o in alike(net, t, True) if o.name in net.used]:
            net.node("Add", [t, net.pick(others)])
    if net.chance(0.12):
        candidates = [t for t in net.live if t.name in net.used and t not in net.inputs]
        if candidates:
            net.note("intermediate_output")
            outputs.append(net.pick(candidates))
    if len(outputs) > 1:
        net.note("several_outputs")
    return outputs


def head(net: Net, x: T) -> T:
    if net.chance(0.12) and x not in net.inputs:
        net.note("output.direct")
        return tamed(net, x, always=True)
    out = net.between(2, 8)
    if x.form == "map" and net.chance(0.5):
        net.note("output.pooled")
        y = pooled(net, x, net.chance(0.5))
        x = flat(net, y) if y.form == "map" else y
    y = linear(net, x, out) if x.form != "map" else conv(net, x, out, net.pick([1, 3]))
    if net.chance(0.15) and y.form != "vec":
        y = net.apply("Sigmoid", y)
    elif net.chance(0.2) and y.form == "vec":
        y = net.apply("Softmax", cosine(net, y), axis=1)
    return y


def cosine(net: Net, y: T) -> T:
    """Logits of bounded size: divided by their norm, so that no Softmax saturates or is flat."""
    norm = ops.reduce(net, "ReduceL2", y, [1], keepdims=True)
    norm = net.apply("Add", norm, net.param(0.1, "epsilon"))
    unit = net.out(net.node("Div", [y, norm]), y)
    return net.apply("Mul", unit, net.param(2.0, "temperature"))


# -- the model -----------------------------------------------------------------------------------------------
def build(net: Net, outputs: list[T]) -> onnx.ModelProto:
    if quantised(net):
        net.note("quantised")
    for name, (share, change) in PASSES.items():
        if net.chance(share) and change(net):
            net.note(name)
    symbols = Symbols(net)
    kind = TensorProto.FLOAT16 if net.style.dtype == np.float16 else TensorProto.FLOAT
    infos = [helper.make_tensor_value_info(t.name, kind, symbols.of(t.shape)) for t in net.inputs]
    infos += [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in net.flags]
    results = [helper.make_tensor_value_info(t.name, kind, symbols.of(t.shape)) for t in outputs]
    between = []
    if net.chance(0.25):
        net.note("value_info")
        known = {i.name for i in (*infos, *results)}
        made = {name for node in net.nodes for name in node.output}
        between = [
            helper.make_tensor_value_info(name, kind, symbols.of(shape))
            for name, shape in net.shapes.items()
            if name not in known and name in made
        ]
    weights = [numpy_helper.from_array(array, name) for name, array in net.params.items()]
    infos += initializers_as_inputs(net)
    graph = helper.make_graph(net.nodes, "generated", infos, results, weights, value_info=between)
    versions = {"": net.opset} | {node.domain: 1 for node in net.nodes if node.domain}
    opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    model = helper.make_model(graph, opset_imports=opsets, producer_name="generator")
    model.ir_version = net.style.ir_version
    return model


class Symbols:
    """Names of dynamic sizes: equal sizes share one; the input's have speaking names."""

    def __init__(self, net: Net) -> None:
        self.names: dict[tuple[int, ...], str] = {}
        first = net.inputs[0].shape
        for dim, name in zip(first, ("batch", "depth", "height", "width", "length"), strict=False):
            if isinstance(dim, tuple):
                self.names.setdefault(dim, name)

    def of(self, shape: Shape) -> list[int | str]:
        return [
            d if isinstance(d, int) else self.names.setdefault(d, f"size_{len(self.names)}") for d in shape
        ]
