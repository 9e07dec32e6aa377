"""Layers of a pruned network fitted together, a few at a time, to what the original makes of the same inputs.

A layer alone can only repair what its own inputs still tell; together with the layers in front of it it can
ask for other inputs (block-wise reconstruction, as Li et al. 2021, arXiv:2102.05426, do for quantised
networks). The descent is a Gauss-Newton method in a small subspace: each round takes, for every layer, the
gradient of the window's error divided by the Gram matrix of the layer's inputs, besides the step before, and
solves for how far to go along each by least squares on the changes that they make. So there is no learning
rate, and a handful of rounds over the data suffice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod

import numpy as np
import onnx
from scipy.linalg import cho_factor, cho_solve, solve

from onnxprune.data.read import Calibration, spread
from onnxprune.errors import UnprovedError
from onnxprune.recovery.context import Original, RecoveryContext, with_values
from onnxprune.recovery.problem import (
    Batch,
    LayerGrams,
    LayerPart,
    Problem,
    Weights,
    ends_of,
    error_of,
    passes,
    pieced,
)
from onnxprune.recovery.regression import Linear, linears, stored
from onnxprune.recovery.walk import Walk
from onnxprune.recovery.windows import Window, windows
from onnxprune.rules.tape import Piece

ROUNDS = 8
PATIENCE = 2  # rounds without a gain on the batches held out
SETTLED = 0.995  # a round that leaves more of the error than this is the last
HALVINGS = 5
DAMPING = 0.1  # of a Gram matrix, relative to the mean energy of a feature
NOTHING = 1e-10  # an error of the ends, relative to their energy, that is none
NEARLY = 1e-4  # directions that are alike to this are one
PROBE = 1e-3  # of the weights: how far a direction is followed to see what it changes
ELEMENTS = 4 << 20  # of the outputs of a window in a round: as many batches as make these
SAMPLES = 32  # and at least the batches that hold these
ROWS = 65_536  # or, where samples have many places, at least these rows of every layer
PART, FEW = 8, 8  # of the batches of a round, steps are measured on every so many, and on so many samples
FEW_ROWS = 16_384  # or so many rows
WIDEST = 2560  # features; layers of more stay as they are


def fitted_jointly(context: RecoveryContext, pruned: onnx.ModelProto) -> onnx.ModelProto:
    """Fit windows of layers of a pruned model in graph order; returns a copy.

    Images are fitted to mirrored, too. A window of which no state is better on the batches held out stays as
    it is, and so do networks of other types than float32. Raises UsageError where a model does not run on
    the data.
    """
    batches = [*context.data.batches, *context.mirrored()]
    original = Original(Walk(context.original, batches), context.removal)
    walk = Walk(pruned, batches)
    covered = windows(walk, [layer for layer in linears(walk) if layer.features <= WIDEST])
    changed: Weights = {}
    for number, window in enumerate(covered):
        walk.until(window.start)
        original.follow(walk, window)
        for name, values in _fitted(walk, original, window, context.data).items():
            walk.store(name, values)
            changed[name] = values
        context.progress(number + 1, len(covered))
    return with_values(pruned, changed)


def _fitted(walk: Walk, original: Original, window: Window, data: Calibration) -> Weights:
    """Return the tensors that change in a window; none where onnxruntime has no kernels for a gradient."""
    try:
        problem = _problem(walk, original, window, data)
        return {} if problem is None else _best(problem, {n: stored(walk, n) for n in window.tensors})
    except UnprovedError:
        return {}


def _best(problem: Problem, first: Weights) -> Weights:
    """Return the weights on the way down that are best on the batches held out; none if the first are."""
    judge = problem.held or problem.parts[0].batches
    best, least, waited = first, problem.error(first, judge), 0
    for weights in _descent(problem, first):
        error = problem.error(weights, judge)
        waited = 0 if error < least else waited + 1
        if error < least:
            best, least = weights, error
        if waited == PATIENCE:
            break
    return {} if best is first else best


def _problem(walk: Walk, original: Original, window: Window, data: Calibration) -> Problem | None:
    """State what a window is to get right; None where that is unknown."""
    piece = pieced(walk, window)
    ends = ends_of(walk, window, piece)
    rows = min(prod(piece.shapes[layer.node.output[0]]) // layer.outputs for layer in window.layers)
    rounds, held = _chosen([piece.shapes[n] for n in ends], data, len(walk.values), rows)
    numbers = sorted({*held, *(i for part in rounds for i in part)})
    targets = original.ahead(ends, numbers)
    if not ends or targets is None or not _sound(window, piece, targets[0]):
        return None
    inputs = walk.inputs_of(piece.nodes)
    batches = {
        i: Batch({n: walk.values[i][n] for n in inputs}, t) for i, t in zip(numbers, targets, strict=True)
    }
    energy = {n: sum(_energy(b.targets[n]) for b in batches.values()) for n in ends}
    if not all(0 < e < np.inf for e in energy.values()):
        return None
    scales = {n: len(batches) / energy[n] for n in ends}
    parts = [_part([batches[i] for i in part], data.each, rows) for part in rounds]
    judge = [batches[i] for i in held]
    return Problem(window.layers, parts, judge, scales, passes(walk, window, piece, ends))


def _sound(window: Window, piece: Piece, targets: Mapping[str, np.ndarray]) -> bool:
    """Tell whether targets fit what is made, in the one type that gradients are worked out in."""
    fit = all(piece.shapes[n] == v.shape for n, v in targets.items())
    fed = [piece.stored[name] for name in window.tensors]
    return fit and all(v.dtype == np.float32 for v in (*fed, *targets.values()))


def _chosen(
    ends: Sequence[tuple[int, ...]], data: Calibration, count: int, rows: int
) -> tuple[list[list[int]], list[int]]:
    """Deal the batches to fit with to rounds, and choose evenly among those held out half as many as in one.

    count: of the batches with their other versions, which follow; rows: of a batch, of the layer that has
    the fewest.
    """
    size = max([prod(shape) for shape in ends], default=1)
    most = round_size(size, data.each, rows)
    fit, held = ([i for i in range(len(data.batches)) if data.held(i) is which] for which in (False, True))
    versions = [fit, list(range(len(data.batches), count))] if count > len(data.batches) else [fit]
    return dealt(versions, most)[:ROUNDS], spread(held, -(-most // 2))


def round_size(size: int, each: int, rows: int) -> int:
    """Return how many batches a round takes, at most.

    size, each, rows: of a batch, the elements of the largest end, the samples, and the rows of the layer that
    has the fewest.
    """
    enough = min(-(-SAMPLES // each), -(-ROWS // max(rows, 1)))
    return max(ELEMENTS // max(size, 1), enough, 1)


def dealt(versions: Sequence[Sequence[int]], most: int) -> list[list[int]]:
    """Deal batches to rounds, so many at most to each: all of them once, then all in their other version.

    versions: the numbers of the batches in each of their versions. A round holds every version.
    """
    count = len(versions[0])
    every = -(-count // most)
    return [
        [versions[(i // every + turn) % len(versions)][i] for i in range(first, count, every)]
        for turn in range(len(versions))
        for first in range(every)
    ]


def _part(batches: Sequence[Batch], each: int, rows: int) -> LayerPart:
    """Take a sample of the batches of a round; each: samples of a batch, rows: as for `_chosen`."""
    times = max(len(batches) * each // FEW, len(batches) * rows // FEW_ROWS)
    return LayerPart(batches, batches[:: max(min(times, PART), 1)])


def _descent(problem: Problem, weights: Weights) -> Iterator[Weights]:
    """Go downhill, where anything is wrong; yield the weights after each round.

    Each round learns from the next part: so all batches are used, and a round costs what one part costs.
    """
    solvers: list[list[tuple[np.ndarray, bool]]] = []
    last: Weights = {}
    for number in range(ROUNDS):
        part = problem.parts[number % len(problem.parts)]
        missed = problem.residuals(weights, part.sample)
        error = error_of(missed, part.sample)
        if not NOTHING < error < np.inf:
            return
        grams = LayerGrams(problem.layers) if not solvers else None
        weight_gradients = problem.weight_gradients(weights, part.batches, grams)
        solvers = solvers if grams is None else [_damped(gram) for gram in grams.sums]
        ways = [
            _way(layer, weights, _solved(solver, pull))
            for layer, solver, pull in zip(problem.layers, solvers, weight_gradients, strict=True)
        ]
        ways = [way for way in (*ways, last) if 0 < _length(way.values()) < np.inf]
        step = _combined(problem, (weights, missed), ways, part.sample) if ways else {}
        for halving in range(HALVINGS):
            share = np.float32(0.5**halving)
            there = _moved(weights, step, share)
            after = problem.error(there, part.sample)
            if after < error:
                break
        else:
            return
        yield there
        if after > SETTLED * error:
            return
        weights, last = there, {n: share * v for n, v in step.items()}


def _damped(gram: np.ndarray) -> list[tuple[np.ndarray, bool]]:
    """Factor damped Gram matrices [g, f, f]."""
    size = gram.shape[-1]
    ridge = DAMPING * max(float(np.trace(gram, axis1=1, axis2=2).mean()) / size, 1e-30)
    return [cho_factor(g + ridge * np.eye(size)) for g in gram]


def _solved(factors: Sequence[tuple[np.ndarray, bool]], crossed: np.ndarray) -> np.ndarray:
    return np.stack([cho_solve(f, c) for f, c in zip(factors, crossed, strict=True)])


def _way(layer: Linear, weights: Weights, change: np.ndarray) -> Weights:
    """Turn a change [g, f, m] of a layer, its last feature the bias, into a direction of its tensors."""
    nothing = np.zeros(weights[layer.weight].shape)
    way = {layer.weight: -layer.changed(nothing, change[:, : layer.features]).astype(np.float32)}
    if layer.bias:
        way[layer.bias] = -change[:, layer.features].reshape(weights[layer.bias].shape).astype(np.float32)
    return way


def _combined(
    problem: Problem, here: tuple[Weights, np.ndarray], ways: Sequence[Weights], sample: Sequence[Batch]
) -> Weights:
    """Sum directions, each as far as least squares on the changes that they make ask for; none that overflow.

    here: the weights and what they miss. The changes are measured on a sample: there are only a few lengths
    to learn from them.
    """
    weights, missed = here
    changes = np.empty((len(ways), len(missed)), np.float32)
    for change, way in zip(changes, ways, strict=True):
        far = np.float32(PROBE * max(_length(weights[n] for n in way), 1e-6) / _length(way.values()))
        np.divide(problem.residuals(_moved(weights, way, far), sample) - missed, far, out=change)
    normal = (changes @ changes.T).astype(np.float64)
    sizes = np.sqrt(np.maximum(np.diag(normal), 1e-30))
    normal = normal / np.outer(sizes, sizes) + NEARLY * np.eye(len(ways))
    if not np.isfinite(normal).all():
        return {}
    lengths = solve(normal, -(changes @ missed) / sizes, assume_a="pos") / sizes
    total: Weights = {}
    for length, way in zip(lengths, ways, strict=True):
        for name, values in way.items():
            total[name] = total.get(name, np.float32(0)) + np.float32(length) * values
    return total


def _moved(weights: Weights, way: Weights, far: np.float32) -> Weights:
    """Follow a direction for some length."""
    return {n: v + far * way[n] if n in way else v for n, v in weights.items()}


def _length(values: Iterable[np.ndarray]) -> float:
    return float(np.sqrt(sum(_energy(v) for v in values)))


def _energy(values: np.ndarray) -> float:
    return float(np.square(values, dtype=np.float64).sum())
