"""Ridge regression of every contraction from the pruned network's activations to the original's outputs.

In graph order, so that each layer repairs what the ones before it left over (the layer-wise
reconstruction of He et al. 2017, arXiv:1707.06168). A change is kept only where it helps on the batches
held out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import onnx

from onnxprune.recovery.active_range import ActiveRange, active_range, widest
from onnxprune.recovery.block_ridge import block_ridge
from onnxprune.recovery.context import Original, RecoveryContext, with_values
from onnxprune.recovery.regression import Linear, linears, stored, tied_linears
from onnxprune.recovery.ridge import DAMPING, Change, RegressionRows, Ridge
from onnxprune.recovery.walk import Walk
from onnxprune.rules.signature import Arithmetic

ROWS = 65_536  # of all batches together, at most
WIDEST = 8192  # features above which a layer is fitted block by block


@dataclass(frozen=True)
class Aim:
    """What a layer is to get right: a tensor, and what is added to its own output on the way there."""

    name: str
    others: Sequence[str]


@dataclass(frozen=True)
class Result:
    """What a layer makes of a batch, what its aim is to be, and of that what is left to the layer."""

    made: np.ndarray
    whole: np.ndarray
    own: np.ndarray


def refitted(
    context: RecoveryContext, pruned: onnx.ModelProto, dampings: Sequence[float] = DAMPING
) -> onnx.ModelProto:
    """Refit the contractions of a pruned model; returns a copy.

    dampings: of the ridge, relative to the mean energy of a feature; with none of them only biases change.
    Raises UsageError where a model does not run on the data.
    """
    batches = context.data.batches
    original = Original(Walk(context.original, batches), context.removal)
    first, second = original.walk, Walk(pruned, batches)
    layers = _layers(second)
    changed: list[str] = []
    for number, (layer, *others) in enumerate(layers):
        if others:
            second.until(layer.place)
            first.until(first.made.get(layer.node.output[0], -1))
            changed += _refitted_together(second, original, (layer, *others), (context, dampings))
        elif layer.node.output[0] in first.made:
            second.until(layer.place)
            following = layers[number + 1][0].place if number + 1 < len(layers) else len(second.nodes)
            aim = _aim(second, layer, following)
            first.until(first.made[aim.name] + 1)
            if original.has(aim.name):
                results = _results(second, original, layer, aim)
                changed += _refitted(second, layer, (aim, results), (context, dampings))
        context.progress(number + 1, len(layers))
    return with_values(pruned, {name: stored(second, name) for name in changed})


def _layers(walk: Walk) -> list[tuple[Linear, ...]]:
    """List what is refitted at once, by the first place: a layer, or all that read one weight."""
    alone = [(layer,) for layer in linears(walk)]
    return sorted([*alone, *tied_linears(walk)], key=lambda layers: layers[0].place)


def _aim(walk: Walk, layer: Linear, following: int) -> Aim:
    """Return what a layer is to get right.

    At the end of a residual branch it is the sum: so each branch also repairs what the stream lost before
    (He et al. 2017). following: the place of the next layer; a sum behind it is not waited for.
    """
    own = name = layer.node.output[0]
    others: list[str] = []
    while True:
        places = walk.readers.get(name, [])
        reader = walk.nodes[places[0]] if len(places) == 1 and places[0] < following else None
        adds = reader is not None and walk.facets(reader).arithmetic is Arithmetic.SUM
        if reader is None or not adds or reader.input[0] == reader.input[1]:
            return Aim(own, ())
        others.append(next(n for n in reader.input if n != name))
        name = reader.output[0]
        if others[-1] in walk.values[0]:
            return Aim(name, others)
        if others[-1] not in walk.weights:
            return Aim(own, ())


def _results(walk: Walk, original: Original, layer: Linear, aim: Aim) -> Iterator[Result]:
    """Run a layer batch by batch; all batches together would not fit into memory."""
    output = layer.node.output[0]
    for values, outputs, whole in zip(
        walk.values, walk.preview([output]), original.now(aim.name), strict=True
    ):
        own = whole
        for name in aim.others:
            own = own - (values[name] if name in values else stored(walk, name))
        yield Result(outputs[output], whole, own)


def _refitted(
    walk: Walk,
    layer: Linear,
    goal: tuple[Aim, Iterator[Result]],
    how: tuple[RecoveryContext, Sequence[float]],
) -> list[str]:
    """Refit one layer; return the names of the tensors that changed; none where shapes differ."""
    (aim, coming), (context, dampings) = goal, how
    first = next(coming)
    if first.made.shape != first.own.shape:
        return []
    results = chain((first,), coming)
    if layer.features > WIDEST:
        pairs = ((result.made, result.own) for result in results)
        return block_ridge(walk, layer, pairs, context.data, bool(dampings), context.limit)
    rows = _rows(walk, layer, results, context)
    bounds = active_range(walk, aim.name, layer.groups, layer.outputs)
    return _solved(walk, layer, (rows, bounds), dampings)


def _refitted_together(
    walk: Walk, original: Original, layers: Sequence[Linear], how: tuple[RecoveryContext, Sequence[float]]
) -> list[str]:
    """Refit a weight to all layers that read it: their rows are those of one regression.

    Layers behind the first are run ahead with the weights as they are. Returns the names of the tensors that
    changed; none where the layers are too wide, or the original has no such tensors.
    """
    context, dampings = how
    first, names = layers[0], [layer.node.output[0] for layer in layers]
    targets = original.onward(names)
    if targets is None or first.features > WIDEST:
        return []
    inputs = {layer.node.input[0] for layer in layers}
    later = [name for name in inputs if walk.made.get(name, -1) >= walk.at]
    fit, held, rng = RegressionRows(), RegressionRows(), np.random.default_rng(0)
    most = _most(walk, first, context, len(layers))
    results = zip(walk.values, walk.onward(layers[-1].place + 1, [*names, *later]), targets, strict=True)
    for number, (values, made, wanted) in enumerate(results):
        rows = held if context.data.held(number) else fit
        for layer, name in zip(layers, names, strict=True):
            if made[name].shape != wanted[name].shape:
                return []
            read = layer.node.input[0]
            data = made[read] if read in later else values[read]
            rows.add(*layer.rows(data, (made[name], wanted[name]), most, rng))
    bounds = widest([active_range(walk, name, first.groups, first.outputs) for name in names])
    return _solved(walk, first, ((fit, held if held.count else fit), bounds), dampings)


def _solved(
    walk: Walk,
    layer: Linear,
    given: tuple[tuple[RegressionRows, RegressionRows], ActiveRange],
    dampings: Sequence[float],
) -> list[str]:
    """Fit a layer to rows, given what readers hear, and store what is better on those to judge by."""
    (fit, judge), bounds = given
    if _alike(fit) or fit.count < layer.features:
        # Fewer rows than features, such as one a sample behind a pool, fit anything: by chance also what is
        # held out, which is as little.
        return []
    mean = fit.mean() if layer.bias else np.zeros(1, np.float32)
    for rows in (fit, judge) if judge is not fit else (fit,):
        rows.centre(mean)
    change = Ridge(fit, judge, bounds, bool(layer.bias)).best(dampings)
    return [] if change is None else _store(walk, layer, change, mean)


def _rows(
    walk: Walk, layer: Linear, results: Iterable[Result], context: RecoveryContext
) -> tuple[RegressionRows, RegressionRows]:
    """Draw rows of every batch to fit with and to judge by, as many as fit into a quarter of the limit."""
    fit, held, rng = RegressionRows(), RegressionRows(), np.random.default_rng(0)
    most = _most(walk, layer, context, 1)
    for number, result in enumerate(results):
        values = walk.values[number][layer.node.input[0]]
        drawn = (result.whole - result.own + result.made, result.whole)
        (held if context.data.held(number) else fit).add(*layer.rows(values, drawn, most, rng))
    return fit, held if held.count else fit


def _most(walk: Walk, layer: Linear, context: RecoveryContext, layers: int) -> int:
    """Return how many rows of a batch to draw for each of so many layers."""
    floats = layer.groups * layer.features + 4 * layer.outputs
    return max(min(ROWS, context.limit // (4 * 4 * floats)) // (len(walk.values) * layers), 64)


def _alike(rows: RegressionRows) -> bool:
    """Tell whether nothing is left to repair."""
    pairs = list(zip(rows.target, rows.made, strict=True))
    energy = sum(float(np.square(t, dtype=np.float64).sum()) for t, _ in pairs)
    return sum(float(np.square(t - m, dtype=np.float64).sum()) for t, m in pairs) <= 1e-10 * energy


def _store(walk: Walk, layer: Linear, change: Change, mean: np.ndarray) -> list[str]:
    """Add a change, for features around a mean [g, 1, f], to the stored tensors."""
    weight = stored(walk, layer.weight)
    walk.store(layer.weight, layer.changed(weight, change.weight).astype(weight.dtype))
    if not layer.bias:
        return [layer.weight]
    bias = stored(walk, layer.bias)
    shift = change.shift - np.matmul(mean, change.weight)
    walk.store(layer.bias, (bias + shift.reshape(bias.shape)).astype(bias.dtype))
    return [layer.weight, layer.bias]
