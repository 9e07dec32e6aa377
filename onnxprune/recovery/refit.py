"""Ridge regression of every contraction from the pruned network's activations to the original's outputs.

In graph order, so that each layer repairs what the ones before it left over (the layer-wise
reconstruction of He et al. 2017, arXiv:1707.06168). A change is kept only where it helps on the batches
held out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxprune.analysis.shadow import Replayed, selected
from onnxprune.analysis.trace import Trace
from onnxprune.calibration.readers import Calibration
from onnxprune.folding import with_values
from onnxprune.progress import Steps, unseen
from onnxprune.recovery.linear import Linear, linears, stored
from onnxprune.recovery.walk import Walk
from onnxprune.recovery.wide import wide_fitted

ROWS = 65_536  # of all batches together
DAMPING = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
WIDE_DAMPING = (1e-3, 1e-2)
SPECTRAL = 1600  # features up to which all dampings are tried by one eigendecomposition
WIDEST = 8192  # features above which a layer is fitted block by block
Centre = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Moments:
    """Second moments: of features [g, f, f], with residuals [g, f, m], and of residuals."""

    features: np.ndarray
    crossed: np.ndarray
    residual: float

    def error(self, change: np.ndarray) -> float:
        """Return the mean squared residual after a change [g, f, m] of the weights."""
        explained = 2 * float(np.einsum("gfm,gfm->", change, self.crossed))
        bent = float(np.einsum("gfm,gfm->", change, np.matmul(self.features, change)))
        return self.residual - explained + bent


@dataclass
class _Sums:
    count: int = 0
    x: np.ndarray | float = 0.0
    r: np.ndarray | float = 0.0
    xx: np.ndarray | float = 0.0
    xr: np.ndarray | float = 0.0
    rr: float = 0.0

    def add(self, features: np.ndarray, residual: np.ndarray) -> None:
        x, r = features.astype(np.float32), residual.astype(np.float32)
        turned = x.transpose(0, 2, 1)
        self.count += x.shape[1]
        self.x = self.x + x.sum(axis=1, dtype=np.float64)
        self.r = self.r + r.sum(axis=1, dtype=np.float64)
        self.xx = self.xx + np.matmul(turned, x).astype(np.float64)
        self.xr = self.xr + np.matmul(turned, r).astype(np.float64)
        self.rr += float(np.square(r, dtype=np.float64).sum())

    def centre(self) -> Centre:
        """Return the means of features [g, f] and residuals [g, m]."""
        return np.asarray(self.x) / self.count, np.asarray(self.r) / self.count

    def moments(self, centre: Centre | None) -> Moments:
        """Return second moments around a centre, or around zero."""
        n = self.count
        if centre is None:
            return Moments(np.asarray(self.xx) / n, np.asarray(self.xr) / n, self.rr / n)
        a, b = centre
        x, r = self.centre()
        xx = np.asarray(self.xx) / n - _outer(x, a) - _outer(a, x) + _outer(a, a)
        xr = np.asarray(self.xr) / n - _outer(x, b) - _outer(a, r) + _outer(a, b)
        rr = self.rr / n - 2 * float((r * b).sum()) + float((b * b).sum())
        return Moments(xx, xr, rr)


def _outer(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return left[:, :, None] * right[:, None, :]


def refitted(
    models: tuple[onnx.ModelProto, onnx.ModelProto],
    traced: Trace,
    replayed: Replayed,
    data: Calibration,
    dampings: Sequence[float] = DAMPING,
    progress: Steps = unseen,
    limit: int = 2 << 30,
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Refit the contractions of a pruned model; returns a copy and the names of the tensors that changed.

    models: the original and the pruned one. dampings: of the ridge, relative to the mean energy of a
    feature; with none of them only biases change. limit: bytes for the fit of a wide layer. Raises
    UsageError where one does not run on the data.
    """
    first, second = (Walk(model, data.batches) for model in models)
    layers = linears(second)
    changed: list[str] = []
    for number, layer in enumerate(layers):
        if layer.node.output[0] in first.made:
            second.until(layer.place)
            following = layers[number + 1].place if number + 1 < len(layers) else len(second.nodes)
            name, others = _goal(second, layer, following)
            first.until(first.made[name] + 1)
            targets = _targets(first, name, traced, replayed)
            wanted = None if targets is None else _less(second, targets, others)
            if wanted is not None and layer.features <= WIDEST:
                changed += _fitted(second, layer, wanted, data, dampings)
            elif wanted is not None:
                changed += wide_fitted(second, layer, wanted, data, bool(dampings), limit)
        progress(number + 1, len(layers))
    values = {name: stored(second, name) for name in changed}
    return with_values(models[1], values), tuple(changed)


def _goal(walk: Walk, layer: Linear, following: int) -> tuple[str, list[str]]:
    """Return the tensor that a layer is to get right, and what is added to its output on the way there.

    At the end of a residual branch it is the sum: so each branch also repairs what the stream lost before
    (He et al. 2017). following: the place of the next layer; a sum behind it is not waited for.
    """
    own = name = layer.node.output[0]
    others: list[str] = []
    while True:
        places = walk.readers.get(name, [])
        reader = walk.nodes[places[0]] if len(places) == 1 and places[0] < following else None
        if reader is None or reader.op_type != "Add" or reader.input[0] == reader.input[1]:
            return own, []
        others.append(next(n for n in reader.input if n != name))
        name = reader.output[0]
        if others[-1] in walk.values[0]:
            return name, others
        if others[-1] not in walk.weights:
            return own, []


def _less(walk: Walk, targets: Sequence[np.ndarray], others: Sequence[str]) -> list[np.ndarray]:
    """Subtract what is added to the output of a layer anyway."""
    found = list(targets)
    for name in others:
        for i, values in enumerate(walk.values):
            found[i] = found[i] - (values[name] if name in values else stored(walk, name))
    return found


def _targets(first: Walk, name: str, traced: Trace, replayed: Replayed) -> list[np.ndarray] | None:
    """Return the original's outputs of a layer, cut to what the pruned one makes."""
    if name not in first.values[0]:
        return None
    labelled, kept = traced.tensors.get(name), replayed.tensors.get(name)
    values = [batch[name] for batch in first.values]
    return values if labelled is None or kept is None else [selected(v, labelled, kept) for v in values]


def _fitted(
    walk: Walk,
    layer: Linear,
    targets: Sequence[np.ndarray],
    data: Calibration,
    dampings: Sequence[float],
) -> list[str]:
    fit, held = _Sums(), _Sums()
    energy, rng = 0.0, np.random.default_rng(0)
    most = max(ROWS // len(targets), 64)
    source, name = layer.node.input[0], layer.node.output[0]
    outputs = walk.preview([name])
    for number, (values, made, target) in enumerate(zip(walk.values, outputs, targets, strict=True)):
        if target.shape != made[name].shape:
            return []
        features, residual = layer.rows(values[source], target - made[name], most, rng)
        (held if data.held(number) else fit).add(features, residual)
        energy += float(np.square(target, dtype=np.float64).sum())
    judge = held if held.count else fit
    if fit.rr <= 1e-10 * energy:
        return []
    centre = fit.centre() if layer.bias else None
    change = _best(fit.moments(centre), judge.moments(centre), dampings)
    if not judge.moments(centre).error(change) < judge.moments(None).residual:
        return []
    return _store(walk, layer, change, centre)


def _store(walk: Walk, layer: Linear, change: np.ndarray, centre: Centre | None) -> list[str]:
    weight = stored(walk, layer.weight)
    walk.store(layer.weight, layer.changed(weight, change).astype(weight.dtype))
    if centre is None:
        return [layer.weight]
    bias = stored(walk, layer.bias)
    shift = centre[1] - np.einsum("gf,gfm->gm", centre[0], change)
    walk.store(layer.bias, (bias + shift.reshape(bias.shape)).astype(bias.dtype))
    return [layer.weight, layer.bias]


def _best(fit: Moments, judge: Moments, dampings: Sequence[float]) -> np.ndarray:
    """Return the change of least error on the batches held out, over all dampings and none at all."""
    best, least = np.zeros_like(fit.crossed), judge.residual
    for change in _changes(fit, dampings):
        error = judge.error(change)
        if error < least:
            best, least = change, error
    return best


def _changes(fit: Moments, dampings: Sequence[float]) -> Iterator[np.ndarray]:
    if not dampings:
        return
    size = fit.features.shape[-1]
    mean = max(float(np.trace(fit.features, axis1=1, axis2=2).mean()) / size, 1e-30)
    if size <= SPECTRAL:
        spectrum, basis = np.linalg.eigh(fit.features)
        turned = np.matmul(basis.transpose(0, 2, 1), fit.crossed)
        for damping in dampings:
            yield np.matmul(basis, turned / (np.maximum(spectrum, 0) + damping * mean)[:, :, None])
        return
    for damping in WIDE_DAMPING:
        yield np.linalg.solve(fit.features + damping * mean * np.eye(size), fit.crossed)
