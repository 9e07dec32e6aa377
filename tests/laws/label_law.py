"""The label law on one node: op(delete(x)) == delete(op(x)), or the replay refuses the removal.

What a node reduces over is not in its output: there `x` is masked first, with the neutral element. A
normalisation takes its statistics over what is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from onnxprune.analysis.analyse import analyse
from onnxprune.analysis.labels import Labelled
from onnxprune.analysis.replay import Kept, Removal, Replayed
from onnxprune.analysis.replay_state import selected
from onnxprune.analysis.units import Units
from onnxprune.rewrite.apply import apply as rewritten
from tests.laws.composing import owners
from tests.laws.operator_cases import CODES, RANGES, Fed, OperatorCase

NEUTRAL = {
    "ReduceMax": -math.inf, "ReduceMin": math.inf, "ReduceProd": 1.0, "ReduceLogSumExp": -math.inf,
}  # fmt: skip
NORMS = (
    "LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "InstanceNormalization",
    "GroupNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
    "EmbedLayerNormalization",
)  # fmt: skip
RECURRENT = ("GRU", "LSTM", "RNN")
SUMMING = {
    "SkipLayerNormalization": (2, 3), "SkipSimplifiedLayerNormalization": (2,),
    "EmbedLayerNormalization": (5, 6),
}  # fmt: skip
ATTENDING = ("Attention", "MultiHeadAttention", "GroupQueryAttention", "LinearAttention", "MoE")
# operators on codes: the input that holds the zero point of an operand, and the axis it follows
ZEROS = {
    "QLinearConv": {0: (2, 1)}, "ConvInteger": {0: (2, 1)}, "QLinearMatMul": {0: (2, -2), 3: (5, -1)},
    "MatMulInteger": {0: (2, -2), 1: (3, -1)}, "QGemm": {0: (2, 0)}, "MatMulIntegerToFloat": {0: (4, -2)},
}  # fmt: skip
RANGED = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul")  # every element counts for the range
FOLLOWED = ("Shape", "Size")
Arrays = dict[str, np.ndarray]


@dataclass
class Bench:
    """A model around one node: producers label its inputs, carriers and a sum consume its outputs."""

    case: OperatorCase
    model: onnx.ModelProto
    feeds: Arrays

    @cached_property
    def units(self) -> Units:
        return analyse(self.model, {n: a.shape for n, a in self.feeds.items()}).units

    @cached_property
    def values(self) -> Arrays:
        """What the original computes in front of the node and behind it."""
        return run(self.model, self.feeds, (*self.live, *self.outputs))

    @property
    def live(self) -> list[str]:
        """The inputs of the node that are computed or fed."""
        return [f"x{i}" for i, x in enumerate(self.case.inputs) if isinstance(x, Fed)]

    @property
    def outputs(self) -> list[str]:
        return [f"y{i}" for i in range(self.case.outputs)]

    @cached_property
    def node(self) -> onnx.NodeProto:
        return next(n for n in self.model.graph.node if n.name == "node")

    @cached_property
    def alone(self) -> ort.InferenceSession:
        """The node by itself, with its stored inputs."""
        return self.alone_with({})

    def alone_with(self, weights: Arrays) -> ort.InferenceSession:
        """The node by itself, with its stored inputs, some of them replaced by these."""
        inputs = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(self.values[n].dtype), None)
            for n in self.live
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in self.outputs]
        needed = [
            numpy_helper.from_array(weights[t.name], t.name) if t.name in weights else t
            for t in self.model.graph.initializer
            if t.name in self.node.input
        ]
        if self.case.op in ATTENDING:  # the weights inside are masked: they are inputs with a default
            inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in needed]
        graph = helper.make_graph([self.node], "alone", inputs, outputs, needed)
        model = helper.make_model(
            graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version
        )
        return session(model)


def bench(case: OperatorCase) -> Bench:
    """Build the model of a case."""
    rng = np.random.default_rng(7)
    maker = _Maker(case, rng)
    names = [maker.operand(i, x) for i, x in enumerate(case.inputs)]
    outputs = [f"y{i}" for i in range(case.outputs)]
    maker.nodes.append(
        helper.make_node(case.op, names, outputs, name="node", domain=case.domain, **case.attrs)
    )
    shapes = _shapes(maker.model(outputs), maker.feeds, outputs)
    results = [maker.consumer(name, shapes[name]) for name in outputs]
    return Bench(case, maker.model(results), maker.feeds)


class _Maker:
    def __init__(self, case: OperatorCase, rng: np.random.Generator) -> None:
        self.case, self.rng = case, rng
        self.nodes: list[onnx.NodeProto] = []
        self.arrays: Arrays = {}
        self.feeds: Arrays = {"one": np.ones(1, np.float32)}

    def operand(self, place: int, given: Fed | np.ndarray | None) -> str:
        if given is None:
            return ""
        if not isinstance(given, Fed):
            self.arrays[f"c{place}"] = given
            return f"c{place}"
        name, values = f"x{place}", self._values(given)
        if not given.labelled:
            self.feeds[name] = values.astype(given.dtype)
            return name
        self.arrays[f"p{place}"] = values
        last = name if given.dtype == "float32" else f"f{place}"
        self.nodes.append(helper.make_node("Mul", [f"p{place}", "one"], [last]))
        if given.dtype != "float32":
            to = helper.np_dtype_to_tensor_dtype(np.dtype(given.dtype))
            self.nodes.append(helper.make_node("Cast", [last], [name], to=to))
        return name

    def _values(self, given: Fed) -> np.ndarray:
        low, high = RANGES.get(self.case.op, (-1.5, 1.5))
        if given.dtype not in ("float32", "bool"):
            low, high = CODES.get(given.dtype, (0.0, 3.9))
        values = self.rng.uniform(low, high, given.shape).astype(np.float32)
        return np.trunc(values) if given.dtype == "bool" else values

    def consumer(self, name: str, array: np.ndarray) -> str:
        """Multiply an output by weights of its own shape, and sum it up."""
        if array.dtype != np.float32:
            self.nodes.append(helper.make_node("Cast", [name], [f"{name}_float"], to=TensorProto.FLOAT))
            name = f"{name}_float"
        if array.ndim == 0:
            return name
        self.arrays[f"{name}_w"] = self.rng.uniform(0.5, 1.5, array.shape).astype(np.float32)
        self.nodes.append(helper.make_node("Mul", [name, f"{name}_w"], [f"{name}_m"]))
        self.nodes.append(helper.make_node("ReduceSum", [f"{name}_m"], [f"{name}_s"], keepdims=0))
        return f"{name}_s"

    def model(self, outputs: list[str]) -> onnx.ModelProto:
        inputs = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in self.feeds.items()
        ]
        results = [onnx.ValueInfoProto(name=name) for name in outputs]
        weights = [numpy_helper.from_array(a, n) for n, a in self.arrays.items()]
        if not outputs[0].startswith("y") or "_" in outputs[0]:
            results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in outputs]
        graph = helper.make_graph(self.nodes, "case", inputs, results, weights)
        opsets = [helper.make_opsetid("", self.case.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, feeds: Arrays, names: tuple[str, ...]) -> Arrays:
    """Run a model with other outputs than its own."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in feeds)
    found = session(copy)
    made = [o.name for o in found.get_outputs()]
    return dict(zip(made, found.run(made, feeds), strict=True)) | {n: feeds[n] for n in names if n in feeds}


def _shapes(model: onnx.ModelProto, feeds: Arrays, outputs: list[str]) -> Arrays:
    return run(model, feeds, tuple(outputs))


# -- removals ------------------------------------------------------------------------------------------------
def removals(units: Units, extra: int = 12) -> Iterator[np.ndarray]:
    """Every unit alone, rows and columns of grids, even sets, and random ones; closed over parents."""
    rng = np.random.default_rng(3)
    seen: set[bytes] = set()
    for picked in (*_alone(units), *_lines(units), *_evenly(units, rng), *_random(units, rng, extra)):
        removed = np.zeros(units.count, dtype=bool)
        removed[picked] = True
        removed = units.rows.close(removed)
        if removed.tobytes() not in seen and removed.any():
            seen.add(removed.tobytes())
            yield removed


def _alone(units: Units) -> Iterator[np.ndarray]:
    for unit in range(units.count):
        yield np.asarray([unit])


def _lines(units: Units) -> Iterator[np.ndarray]:
    for labels in units.traced.book.grids:
        grid = units.of[labels]
        for axis in range(grid.ndim):
            yield grid.take([0], axis=axis).ravel()
            yield grid.take([-1], axis=axis).ravel()


def _evenly(units: Units, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """As many from every row of a grid, each row its own."""
    for labels in units.traced.book.grids:
        grid = units.of[labels].reshape(-1, labels.shape[-1])
        yield rng.permuted(grid, axis=1)[:, : max(grid.shape[1] // 2, 1)].ravel()


def _random(units: Units, rng: np.random.Generator, extra: int) -> Iterator[np.ndarray]:
    axes = [units.of[labels].ravel() for labels in units.traced.book.produced]
    for number in range(extra if axes else 0):
        chosen = axes if number % 3 == 0 else [axes[int(rng.integers(len(axes)))]]
        share = rng.uniform(0.2, 0.7)
        yield np.concatenate([a[rng.random(len(a)) < share] for a in chosen])


# -- the law -------------------------------------------------------------------------------------------------
def broken(table: Bench, removed: np.ndarray) -> str | None:
    """Return what is wrong with a removal, "refused" where the replay refuses it, None where it holds."""
    units = table.units
    if len(units.emptied(removed)):
        return "refused"
    removal = Removal.of(units, removed)
    alive, replayed = removal.alive, removal.replayed
    if replayed.conflicts:
        return "refused"
    pruned = rewritten(table.model, removal)
    try:
        found = run(pruned, table.feeds, (*table.live, *table.outputs))
    except Exception as error:  # noqa: BLE001
        return f"does not run: {' '.join(str(error).split())[:200]}"
    for name in table.live:
        if not same(found[name], kept_of(name, table.values[name], units, replayed)):
            return f"the operand '{name}' is not what is kept of the original's"
    if table.case.op in FOLLOWED:
        ends = tuple(o.name for o in table.model.graph.output)
        before, after = (run(m, table.feeds, ends) for m in (table.model, pruned))
        right = all(same(after[name], before[name]) for name in ends)
        return None if right else "a value read off a shape changes"
    wanted = expected(table, alive)
    for name in table.outputs:
        chosen = kept_of(name, wanted[name], units, replayed) * _counted(table, units, replayed, name)
        if not same(found[name], chosen):
            return f"'{name}' {found[name].shape} is not what is kept of the original's, {chosen.shape}"
    return None


def same(found: np.ndarray, wanted: np.ndarray) -> bool:
    if found.shape != wanted.shape:
        return False
    if found.dtype.kind != "f":
        return np.array_equal(found, wanted)
    return bool(np.allclose(found, wanted, rtol=1e-4, atol=1e-5, equal_nan=True))


def kept_of(name: str, values: np.ndarray, units: Units, replayed: Replayed) -> np.ndarray:
    kept = replayed.tensors.get(name)
    return values if kept is None else selected(values, units.traced.tensors[name], kept)


def expected(table: Bench, alive: np.ndarray) -> Arrays:
    """What the original node makes of operands without their consumed, removed elements."""
    values = {name: table.values[name] for name in table.live}
    tensors = table.units.traced.tensors
    if table.case.op in NORMS:
        whole = table.case.op in SUMMING
        data = summed(table) if whole else values["x0"]
        made = normalised(table.case, data, mask(tensors["y0" if whole else "x0"], alive))
        if whole:
            given = dict(zip(table.outputs, table.alone.run(table.outputs, values), strict=True))
            return given | dict(
                zip(table.outputs[: 1 if "Embed" in table.case.op else 3], made, strict=False)
            )
        return dict(zip(table.outputs, made, strict=False))
    labels = [f.labels for name in table.outputs for f in tensors[name].factors]
    behind = {int(u) for array in labels for u in table.units.of[array].flat}
    if table.case.op in ATTENDING:
        behind = set()
        values |= _masked_weights(table, alive)
    for name in table.live:
        gone = np.ones(values[name].shape, dtype=bool)
        for factor in tensors[name].factors:
            inside = np.isin(table.units.of[factor.labels], list(behind))
            inside = inside & (table.case.op not in RANGED)
            gone = gone & mask(Labelled(values[name].shape, (factor,)), alive, inside)
        if not gone.all():
            filler = filler_of(table.case, int(name[1:]), values[name])
            values[name] = np.where(gone, values[name], filler)
    alone = table.alone
    if table.case.op in RECURRENT:
        stored = [numpy_helper.to_array(t) for t in table.model.graph.initializer if t.name == "c2"]
        if stored:
            alone = table.alone_with({"c2": unread(table, stored[0], alive)})
        else:
            values["x2"] = unread(table, values["x2"], alive)
    return dict(zip(table.outputs, alone.run(table.outputs, values), strict=True))


def unread(table: Bench, weight: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """The R [dirs, gates x hidden, hidden] of a recurrent node that reads no removed hidden unit."""
    name = table.outputs[0]
    labelled = table.units.traced.tensors[name]
    for factor in labelled.factors:
        if len(labelled.shape) - 1 in factor.axes:
            kept = alive[factor.labels].reshape(-1, 1, labelled.shape[-1])
            weight = np.where(kept, weight, np.float32(0))
    return weight


def _masked_weights(table: Bench, alive: np.ndarray) -> Arrays:
    """The stored weights of an attention node, which sums over what is removed inside itself."""
    removed = np.ones(table.units.count, dtype=bool)
    removed[table.units.of[alive]] = False
    result: Arrays = {}
    for (output, place), own in owners(table.units):
        name = f"c{place}"
        if output == "y0" and name in table.node.input and table.case.inputs[place].dtype == np.float32:
            result[name] = np.where(removed[own], np.float32(0), result.get(name, table.case.inputs[place]))
    return result


def summed(table: Bench) -> np.ndarray:
    """What a fused normalisation adds up before it normalises."""
    case = table.case
    given = [table.values[f"x{i}"] if isinstance(x, Fed) else x for i, x in enumerate(case.inputs)]
    given += [None] * (9 - len(given))
    if case.op == "EmbedLayerNormalization":
        ids, kinds, words, places, kind_table, _, _, _, order = given
        rows = np.arange(ids.shape[1]) if order is None else order
        return words[ids] + places[rows] + (0 if kinds is None else kind_table[kinds])
    bias = given[4 if case.op == "SkipLayerNormalization" else 3]
    return given[0] + given[1] + (0 if bias is None else bias)


def filler_of(case: OperatorCase, place: int, values: np.ndarray) -> np.ndarray:
    """What a removed element of an operand reads: the neutral element, of codes the zero point."""
    where, axis = ZEROS.get(case.op, {}).get(place, (len(case.inputs), 0))
    zero = case.inputs[where] if where < len(case.inputs) else None
    if not isinstance(zero, np.ndarray):
        return np.asarray(NEUTRAL.get(case.op, 0.0)).astype(values.dtype)
    return zero.reshape([-1 if i == axis % values.ndim else 1 for i in range(values.ndim)])


def mask(labelled: Labelled, alive: np.ndarray, also: np.ndarray | None = None) -> np.ndarray:
    """Where a tensor keeps its elements; `also` keeps more of the labels of its only factor."""
    result = np.ones(labelled.shape, dtype=bool)
    for factor in labelled.factors:
        kept = alive[factor.labels] if also is None else alive[factor.labels] | also
        order = np.argsort(factor.axes)
        shape = [labelled.shape[i] if i in factor.axes else 1 for i in range(len(labelled.shape))]
        result = result & kept.transpose(order).reshape(shape)
    return result


def _counted(table: Bench, units: Units, replayed: Replayed, name: str) -> float:
    """The factor between a mean over all elements and one over those that are kept."""
    if table.case.op != "ReduceMean":
        return 1.0
    before, after = [table.values[n].shape for n in ("x0", name)], []
    for tensor, shape in zip(("x0", name), before, strict=True):
        kept: Kept | None = replayed.tensors.get(tensor)
        after.append(shape if kept is None else kept.shape)
    reduced = [math.prod(x) / max(math.prod(y), 1) for x, y in (before, after)]
    return reduced[0] / reduced[1]


def normalised(case: OperatorCase, x: np.ndarray, shown: np.ndarray) -> list[np.ndarray]:
    """A normalisation with statistics over the elements that are shown: output, mean, 1 / deviation."""
    chosen = SUMMING.get(case.op, range(1, len(case.inputs)))
    given = [case.inputs[i] for i in chosen if i < len(case.inputs)]
    params = [np.asarray(p, np.float64) for p in given if isinstance(p, np.ndarray)]
    data, mask_, shape = x.astype(np.float64), shown, x.shape
    axes = tuple(range(2, x.ndim))
    if case.op == "GroupNormalization":
        groups = int(case.attrs["num_groups"])
        data, mask_ = (a.reshape(shape[0], groups, -1) for a in (data, np.broadcast_to(shown, shape)))
        axes = (2,)
        if case.opset < 21:
            params = [np.repeat(p, shape[1] // groups) for p in params]
    elif case.op != "InstanceNormalization":
        axes = tuple(range(int(case.attrs.get("axis", -1)) % x.ndim, x.ndim))
    count = np.maximum(mask_.sum(axis=axes, keepdims=True), 1)
    mean = (data * mask_).sum(axis=axes, keepdims=True) / count
    if case.op not in (
        "RMSNormalization",
        "SimplifiedLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    ):
        data = data - mean
    variance = (data**2 * mask_).sum(axis=axes, keepdims=True) / count
    inverse = 1 / np.sqrt(variance + case.attrs.get("epsilon", 1e-12 if case.op in SUMMING else 1e-5))
    result = (data * inverse).reshape(shape)
    per_channel = case.op in ("InstanceNormalization", "GroupNormalization")
    for number, param in enumerate(params):
        wide = param.reshape([-1] + [1] * (x.ndim - 2)) if per_channel else param
        result = result * wide if number == 0 else result + wide
    return [a.astype(np.float32) for a in (result, mean, inverse)]
