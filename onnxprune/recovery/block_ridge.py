"""Ridge regression of a layer whose Gram matrix is too large, block by block of its features.

Block Gauss-Seidel: the features of one kernel offset (or a part of them) are fitted to what the others leave
over, in turn. So only the Gram matrices of blocks are needed, and patches are never laid out side by side: of
a 3x3 Conv over 2048 channels nine matrices of 2048 x 2048 instead of one of 18432 x 18432. The damping
falls from one round to the next, and the rounds end where the error on the batches held out rises: that
is the path of the ridge, followed as far as it helps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from onnxprune.data.read import Calibration
from onnxprune.recovery.regression import Linear, sliding, stored
from onnxprune.recovery.walk import Walk

BLOCK = 2048  # features that are fitted together
ROWS = 16_384  # of all batches together, at most
DAMPING = (1.0, 0.1, 0.01, 0.001)  # relative to the mean energy of a feature, one round after the other


@dataclass(frozen=True)
class FeatureBlock:
    """A block of features: an offset of the kernel, and input channels from one to another."""

    offset: tuple[int, ...]
    start: int
    stop: int


@dataclass
class _Side:
    """Rows of the batches to fit with, or of those held out: their places and what is left to explain.

    places: by batch, the indices of the rows in the layer's output; residual: [rows, outputs].
    """

    inputs: list[np.ndarray]
    places: list[tuple[np.ndarray, ...]]
    residual: np.ndarray

    def features(self, layer: Linear, part: FeatureBlock) -> np.ndarray:
        """Cut one block of features out of the activations [rows, width]."""
        cut = [_columns(layer, x, p, part) for x, p in zip(self.inputs, self.places, strict=True)]
        return np.concatenate(cut).astype(np.float32)


def block_ridge(
    walk: Walk,
    layer: Linear,
    results: Iterable[tuple[np.ndarray, np.ndarray]],
    data: Calibration,
    fits: bool,
    limit: int,
) -> list[str]:
    """Refit a wide layer; return the names of the tensors that changed.

    results: by batch what it makes and what it is to make, of equal shapes. fits: whether
    weights change, or only the bias. limit: bytes for rows and what is solved. A layer that does not get
    better on the batches held out stays as it is; so does a grouped Conv.
    """
    if layer.groups > 1:
        return []
    sides = _sides(walk, layer, results, data, limit)
    fit, held = sides
    judge = held if len(held.residual) else fit
    before = _energy(judge.residual)
    mean = fit.residual.mean(axis=0, dtype=np.float64) if layer.bias else np.zeros(fit.residual.shape[1])
    for side in sides:
        side.residual -= mean.astype(np.float32)
    change, centre = _path(layer, sides) if fits else (None, None)
    if not _energy(judge.residual) < before:
        return []
    changed = []
    if change is not None and centre is not None:
        mean = mean - centre @ change
        walk.store(layer.weight, _changed(layer, stored(walk, layer.weight), change))
        changed.append(layer.weight)
    if layer.bias:
        bias = stored(walk, layer.bias)
        walk.store(layer.bias, (bias + mean.reshape(bias.shape)).astype(bias.dtype))
        changed.append(layer.bias)
    return changed


def _energy(residual: np.ndarray) -> float:
    return float(np.einsum("ij,ij->", residual, residual, dtype=np.float64))


def _path(layer: Linear, sides: tuple[_Side, _Side]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Go through the dampings while the error on the batches held out falls.

    Returns the change [features, outputs], ordered by blocks, and the means of the features; None where no
    round helps. The residuals of both sides are brought up to date.
    """
    fit, held = sides
    judge = held if len(held.residual) else fit
    parts = list(_parts(layer))
    ends = np.cumsum([0, *(p.stop - p.start for p in parts)])
    change = np.zeros((int(ends[-1]), fit.residual.shape[1]), np.float32)
    means = np.zeros(len(change))
    best, least, kept = None, _energy(judge.residual), judge.residual.copy()
    for damping in DAMPING:
        for part, lo, hi in zip(parts, ends[:-1], ends[1:], strict=True):
            x = fit.features(layer, part)
            if layer.bias:
                means[lo:hi] = x.mean(axis=0, dtype=np.float64)
            x -= means[lo:hi].astype(np.float32)
            step = _step(x, fit.residual, change[lo:hi], damping)
            change[lo:hi] += step
            fit.residual -= x @ step
            if judge is held:
                held.residual -= (held.features(layer, part) - means[lo:hi].astype(np.float32)) @ step
        error = _energy(judge.residual)
        if not error < least:
            judge.residual = kept
            break
        best, least, kept = change.copy(), error, judge.residual.copy()
    return best, means if best is not None else None


def _step(x: np.ndarray, residual: np.ndarray, change: np.ndarray, damping: float) -> np.ndarray:
    """Solve one block of the ridge [width, outputs], given what the other blocks explain."""
    gram = x.T @ x
    ridge = damping * max(float(np.trace(gram)) / len(gram), 1e-12)
    gram.flat[:: len(gram) + 1] += ridge
    return np.asarray(cho_solve(cho_factor(gram, overwrite_a=True), x.T @ residual - ridge * change))


def _parts(layer: Linear) -> Iterator[FeatureBlock]:
    conv = layer.node.op_type == "Conv"
    channels = layer.shape[1] if conv else layer.features
    for offset in np.ndindex(*(layer.shape[2:] if conv else ())):
        for start in range(0, channels, BLOCK):
            yield FeatureBlock(offset, start, min(start + BLOCK, channels))


def _sides(
    walk: Walk,
    layer: Linear,
    results: Iterable[tuple[np.ndarray, np.ndarray]],
    data: Calibration,
    limit: int,
) -> tuple[_Side, _Side]:
    """Draw rows of every batch; as many as fit into half of the limit, each held three times."""
    width = layer.outputs
    budget = limit // (2 * 3 * 4 * (min(BLOCK, layer.features) + width))
    most = max(min(ROWS, budget) // len(walk.values), 1)
    rng = np.random.default_rng(0)
    sides = (_Side([], [], np.zeros(0)), _Side([], [], np.zeros(0)))
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for number, (made, target) in enumerate(results):
        last = 1 if layer.node.op_type == "Conv" else made.ndim - 1
        front = (made.shape[0], *made.shape[2:]) if last == 1 and made.ndim != 2 else made.shape[:last]
        every = prod(front)
        chosen = np.arange(every) if every <= most else np.sort(rng.choice(every, most, replace=False))
        places = np.unravel_index(chosen, front)
        which = int(data.held(number))
        sides[which].inputs.append(walk.values[number][layer.node.input[0]])
        sides[which].places.append(places)
        found[which].append(np.moveaxis(target - made, last, -1)[places].astype(np.float32))
    for side, residuals in zip(sides, found, strict=True):
        side.residual = np.concatenate(residuals) if residuals else np.zeros((0, width), np.float32)
    return sides


def _columns(
    layer: Linear, values: np.ndarray, places: tuple[np.ndarray, ...], part: FeatureBlock
) -> np.ndarray:
    """Read one block of features of a batch [rows, width]; zero where a kernel reaches into the padding."""
    if layer.node.op_type != "Conv":
        return np.asarray(values[places][:, part.start : part.stop])
    rank = len(layer.shape) - 2
    strides, dilations, pads = sliding(layer.attrs, rank)
    at = [places[1 + i] * strides[i] + part.offset[i] * dilations[i] - pads[i] for i in range(rank)]
    inside = np.all([(a >= 0) & (a < n) for a, n in zip(at, values.shape[2:], strict=True)], axis=0)
    clipped = [np.clip(a, 0, n - 1) for a, n in zip(at, values.shape[2:], strict=True)]
    channels = np.moveaxis(values[:, part.start : part.stop], 1, -1)
    return np.asarray(channels[(places[0], *clipped)] * inside[:, None])


def _changed(layer: Linear, weight: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Add a change [features, outputs], ordered by blocks, to a stored weight."""
    if layer.node.op_type != "Conv":
        return np.asarray(weight + (change.T if layer.attrs.get("transB", 0) else change), dtype=weight.dtype)
    taps = change.reshape(*layer.shape[2:], layer.shape[1], layer.shape[0])
    return np.asarray(weight + np.moveaxis(taps, (-1, -2), (0, 1)), dtype=weight.dtype)
