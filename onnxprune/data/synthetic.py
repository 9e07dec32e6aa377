"""Calibration inputs where there are none: random ones, and of these such as the model tells it has seen.

No gradients: many candidates are drawn and some chosen. Where the model holds BatchNormalizations, their
stored means and variances are those of the training data, and candidates are chosen so that together they
give the same (Haroush et al. 2020, arXiv:1912.01274, by selection). Else, of a classifier, those it is
surest of, as many of each class (the one-hot and the balance loss of Chen et al. 2019, arXiv:1904.01186).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import onnx

from onnxprune.data.images import is_image, is_last, random_images
from onnxprune.data.norms import Norm, norms_of
from onnxprune.data.read import Calibration, read_calibration
from onnxprune.errors import UsageError
from onnxprune.model.feeds import feeds_for
from onnxprune.model.graph import opsets_of
from onnxprune.model.runtime import one_line, open_session, run, runtime_errors, with_outputs
from onnxprune.rules.registry import facets_of

Feeds: TypeAlias = dict[str, np.ndarray]
CANDIDATES, CHOSEN = 4096, 8  # drawn, and of how many one is chosen
FEWEST = 5  # candidates, of which then none is left out: four to fit with, one to judge with
ELEMENTS = 1 << 26  # of all candidates together, as far as these are not too few
SCALES = ((1.0, 0.0), (0.25, 0.5), (64.0, 128.0))  # deviation and mean: normalised, 0 to 1, 0 to 255
PART = 1 << 24  # elements of candidates that are run together
TRIED = 64  # candidates of each scale


def synthesised(model: onnx.ModelProto, base: Feeds, fixed: frozenset[str], seed: int) -> Calibration:
    """Make calibration data for a model.

    base: inputs that run it; the candidates have their shapes. fixed: inputs that stay as they are there.
    Raises UsageError where the model does not run on them.
    """
    size = sum(array.size for array in base.values())
    count = int(np.clip(ELEMENTS // max(size, 1), FEWEST, CANDIDATES))
    norms = list(norms_of(model))
    maker = _Maker(model, base, fixed, seed)
    scale = SCALES[0]
    if norms and maker.images:
        gaps = [_gap(_statistics(model, norms, maker.candidates(min(TRIED, count), s))) for s in SCALES]
        scale = SCALES[int(np.argmin(gaps))]
    pool = maker.candidates(count, scale)
    chosen, how = _chosen(model, norms, pool, max(count // CHOSEN, FEWEST))
    # Neighbours in the order of choice are alike; every fifth batch is held out.
    order = np.random.default_rng(seed).permutation(chosen)
    found = read_calibration([{n: a.copy() for n, a in pool[i].items()} for i in order], model)
    return replace(found, synthesised=how)


def _chosen(
    model: onnx.ModelProto, norms: Sequence[Norm], pool: Sequence[Feeds], count: int
) -> tuple[np.ndarray, str]:
    """Choose candidates; say how."""
    if norms:
        features = _statistics(model, norms, pool)
        if features is not None:
            return herded(features, count), f"matched to {len(norms)} BatchNormalizations"
    scores = _classes(model, pool)
    if scores is not None:
        return balanced(scores, count), f"balanced over {scores.shape[1]} classes"
    return np.arange(count), "not matched to anything"


def herded(features: np.ndarray, count: int) -> np.ndarray:
    """Choose rows [n, f] whose mean is as near to zero as a greedy choice gets (Welling 2009)."""
    left = np.ones(len(features), dtype=bool)
    total = np.zeros(features.shape[1])
    lengths = np.square(features).sum(axis=1)
    chosen = []
    for _ in range(min(count, len(features))):
        far = lengths + 2 * features @ total
        far[~left] = np.inf
        best = int(far.argmin())
        chosen.append(best)
        left[best] = False
        total += features[best]
    return np.asarray(chosen)


def balanced(scores: np.ndarray, count: int) -> np.ndarray:
    """Choose rows [n, classes] in turn from every class, the surest first.

    scores: probabilities, or logits.
    """
    if scores.min() < 0 or not np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores = scores / scores.sum(axis=1, keepdims=True)
    label, sure = scores.argmax(axis=1), scores.max(axis=1)
    order = np.lexsort((-sure, label))
    turn = np.concatenate([np.arange(n) for n in np.bincount(label) if n])
    return np.asarray(order[np.argsort(turn, kind="stable")][:count])


class _Maker:
    """Draws candidates: images where an input looks like one, ids of the whole table, else what runs."""

    def __init__(self, model: onnx.ModelProto, base: Feeds, fixed: frozenset[str], seed: int) -> None:
        self.model, self.base, self.seed = model, base, seed
        self.fixed = {name: base[name] for name in fixed}
        self.images = {n: is_last(a) for n, a in base.items() if n not in fixed and is_image(a)}
        stored = {t.name: int(t.dims[0]) for t in model.graph.initializer if len(t.dims) > 1}
        self.tables = {
            ids: stored[table]
            for ids, table in _lookups(model)
            if table in stored and ids in base and base[ids].dtype.kind in "iu" and ids not in fixed
        }

    def candidates(self, count: int, scale: tuple[float, float]) -> list[Feeds]:
        """Draw feeds; the images of the given deviation and mean."""
        rng = np.random.default_rng(self.seed)
        drawn = {name: self._drawn(name, count, scale, rng) for name in self.images}
        shapes = {name: array.shape for name, array in self.base.items()}
        result = []
        for number in range(count):
            feeds = {name: values[number] for name, values in drawn.items()}
            if len(drawn) + len(self.fixed) < len(self.base):
                seed = self.seed + number + 1
                feeds = feeds_for(self.model, shapes, self.fixed, seed, like=self.base) | feeds
            feeds |= self.fixed
            for name, rows in self.tables.items():
                like = self.base[name]
                feeds[name] = rng.integers(0, rows, like.shape).astype(like.dtype)
            result.append(feeds)
        return result

    def _drawn(
        self, name: str, count: int, scale: tuple[float, float], rng: np.random.Generator
    ) -> np.ndarray:
        like, last = self.base[name], self.images[name]
        batch, *shape = like.shape if not last else (like.shape[0], like.shape[3], *like.shape[1:3])
        values = random_images(count * batch, (shape[0], shape[1], shape[2]), rng)
        values *= scale[0]
        values += scale[1]
        turned = values.transpose(0, 2, 3, 1) if last else values
        return turned.reshape(count, *like.shape).astype(like.dtype, copy=False)


def _lookups(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """List the tensors that number rows of others, with these."""
    opsets = opsets_of(model)
    for node in model.graph.node:
        first = not any(a.i for a in node.attribute if a.name == "axis")
        for ids, table in facets_of(node, opsets).tables.items() if first else ():
            if max(ids, table) < len(node.input):
                yield node.input[ids], node.input[table]


def _statistics(model: onnx.ModelProto, norms: Sequence[Norm], pool: Sequence[Feeds]) -> np.ndarray | None:
    """Return how far each candidate's first and second moments are from the stored ones [n, features].

    None where activations do not have the samples along their first axis.
    """
    found = []
    for rows, values in _ran(model, sorted({n.tensor for n in norms}), pool):
        parts = []
        for norm in norms:
            seen = values[norm.tensor]
            if seen.ndim < 2 or len(seen) != rows:
                return None
            shape = (1, -1, *[1] * (seen.ndim - 2))
            z = (seen.astype(np.float64) - norm.mean.reshape(shape)) / norm.deviation.reshape(shape)
            axes = tuple(range(2, seen.ndim))
            width = np.sqrt(2.0 * len(norm.mean))
            parts += [z.mean(axis=axes) / width, (np.square(z).mean(axis=axes) - 1) / width]
        found.append(np.concatenate(parts, axis=1))
    every = np.concatenate(found)
    return every.reshape(len(pool), -1, every.shape[1]).mean(axis=1)


def _gap(features: np.ndarray | None) -> float:
    """Return how far the best of the candidates stay from the stored statistics; 0 where it is unknown."""
    if features is None:
        return 0.0
    return float(np.linalg.norm(features[herded(features, len(features) // CHOSEN)].mean(axis=0)))


def _classes(model: onnx.ModelProto, pool: Sequence[Feeds]) -> np.ndarray | None:
    """Return what a classifier makes of each candidate [n, classes]; None where the model is none."""
    output = model.graph.output[0].name
    found = []
    for rows, values in _ran(model, [output], pool):
        made = values[output]
        single = (
            made.dtype.kind == "f" and made.ndim > 1 and made.shape[0] == rows == made.size // made.shape[1]
        )
        if not single or made.shape[1] < 2 or not np.isfinite(made).all():
            return None
        found.append(made.reshape(rows, -1).astype(np.float64))
    every = np.concatenate(found)
    return every if len(every) == len(pool) else None


def _ran(
    model: onnx.ModelProto, tensors: Sequence[str], pool: Sequence[Feeds]
) -> Iterator[tuple[int, Mapping[str, np.ndarray]]]:
    """Run a model over candidates, batch by batch; yield the rows of a batch and these tensors."""
    session = open_session(with_outputs(model, tensors), optimised=True)
    try:
        for part in _parts(pool):
            for batch in read_calibration(part, model, len(part)).batches:
                yield len(next(iter(batch.values()))), run(session, batch)
    except runtime_errors() as error:
        raise UsageError(f"the model does not run on synthesised inputs: {one_line(error)}") from error


def _parts(pool: Sequence[Feeds]) -> Iterator[Sequence[Feeds]]:
    """Cut candidates into parts whose batches are copies of bearable size."""
    each = max(PART // max(sum(array.size for array in pool[0].values()), 1), 1)
    yield from (pool[start : start + each] for start in range(0, len(pool), each))
