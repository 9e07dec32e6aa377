"""Doubts about calibration data: too few samples, constant or repeated ones, and a scale of another training.

Inputs prepared in another way than for the training run without an error, and everything that is measured on
them is measured on something else. What a model has seen is told by the statistics that its
BatchNormalizations store; where these were folded, only the range of images is left to go by.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxprune.data.images import is_image
from onnxprune.data.norms import Norm, first_of, norms_of
from onnxprune.data.read import Calibration, Feeds, samples_in
from onnxprune.errors import UsageError
from onnxprune.model.graph import InputSpec, input_specs, opsets_of
from onnxprune.model.runtime import one_line, open_session, run, runtime_errors, with_outputs
from onnxprune.rules.registry import facets_of
from onnxprune.rules.signature import Arithmetic

FEW = 32  # samples; below, every one of them counts
MANY = 0.05  # share of constant or repeated samples
LOOKED_AT = 8  # batches that are run
OFF, MOVED = 3.0, 3.0  # times the stored deviation: how wide activations may spread, and how far they may lie
PIXELS = 255
NEAR = 1.3  # a factor that is as far from 255 at most is called so
BYTES, WIDE = (
    32,
    260,
)  # values of images that begin at 0: pixels as stored above the one; above the other nothing


def doubts(data: Calibration, model: onnx.ModelProto) -> tuple[str, ...]:
    """Say in a line each what looks wrong with calibration data, and what to do.

    Raises UsageError where the model does not run on it.
    """
    specs = input_specs(model)
    samples = [sample for batch in data.batches for sample in _cut(batch, specs)]
    found = [*_poor(samples, data.samples)]
    norms = first_of(model, norms_of(model))
    found += _off(data.batches, model, norms) if norms else _unscaled(data.batches, model)
    return tuple(found)


def _cut(batch: Feeds, specs: Mapping[str, InputSpec]) -> list[Feeds]:
    """Cut a batch into samples, where all inputs have them along their first axis."""
    count = samples_in(batch, specs)
    if any(not a.ndim or len(a) != count for a in batch.values()):
        return [batch]
    return [{name: array[i] for name, array in batch.items()} for i in range(count)]


def _poor(samples: Sequence[Feeds], count: int) -> Iterator[str]:
    """Say where there are few samples, constant or repeated ones."""
    if count < FEW:
        yield (
            f"there are {count} calibration samples only, which may be fitted by heart: give 100 or more of "
            "what the model will see"
        )
    flat = sum(map(_is_constant, samples))
    if flat > MANY * len(samples):
        yield (
            f"{flat} of {len(samples)} calibration samples are constant, one value everywhere: they tell "
            "nothing of the channels; leave them out"
        )
    repeated = len(samples) - len({_digest(sample) for sample in samples})
    if repeated > MANY * len(samples):
        yield (
            f"{repeated} of {len(samples)} calibration samples repeat earlier ones: what is held out was "
            "fitted to as well and looks better than it is; leave them out"
        )


def _is_constant(sample: Feeds) -> bool:
    wide = [array for array in sample.values() if array.size > 1]
    return bool(wide) and all(bool((array == array.flat[0]).all()) for array in wide)


def _digest(sample: Feeds) -> bytes:
    """Return a hash of the values of all inputs."""
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(sample):
        found.update(name.encode() + np.ascontiguousarray(sample[name]).tobytes())
    return found.digest()


# -- scale ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Seen:
    """What reaches a BatchNormalization, in deviations that it stores: medians over its channels.

    spread: the deviation; shift: the distance of the mean from the stored one.
    """

    norm: Norm
    spread: float
    shift: float

    @property
    def is_off(self) -> bool:
        """Tell whether that is far from what the training gave."""
        return not 1 / OFF <= self.spread <= OFF or self.shift > MOVED


def _off(batches: Sequence[Feeds], model: onnx.ModelProto, norms: Sequence[Norm]) -> Iterator[str]:
    """Compare what reaches the first BatchNormalizations with what they store; tell the worst."""
    odd = [seen for seen in _seen(batches[:LOOKED_AT], model, norms) if seen.is_off]
    if not odd:
        return
    worst = max(odd, key=lambda seen: max(seen.spread, 1 / max(seen.spread, 1e-9), seen.shift))
    where = f"{worst.norm.op} '{worst.norm.node or worst.norm.tensor}'"
    if 1 / OFF <= worst.spread <= OFF:
        told = f"activations lie {worst.shift:.3g} standard deviations off their mean of the training"
    else:
        told = f"activations spread {worst.spread:.3g} times as wide as in the training"
    yield (
        f"the calibration data is not scaled as in the training: in front of {where} {told}, and "
        f"{_ranges(batches)}: {_remedy(worst.spread)}"
    )


def _remedy(spread: float) -> str:
    if PIXELS / NEAR <= spread <= PIXELS * NEAR:
        return f"divide the inputs by {PIXELS}"
    if PIXELS / NEAR <= 1 / max(spread, 1e-9) <= PIXELS * NEAR:
        return f"multiply the inputs by {PIXELS}"
    return "scale and normalise the inputs as they were then"


def _seen(batches: Sequence[Feeds], model: onnx.ModelProto, norms: Sequence[Norm]) -> Iterator[Seen]:
    """Run the model over batches, and sum up what reaches the nodes, by channel.

    Raises UsageError where it does not run.
    """
    made = sorted({n.tensor for n in norms} - set(batches[0]))
    session = open_session(with_outputs(model, made), optimised=True) if made else None
    sums = {n.tensor: np.zeros((3, len(n.mean))) for n in norms}
    try:
        for batch in batches:
            values = {**batch, **(run(session, batch) if session is not None else {})}
            for tensor, total in sums.items():
                rows = np.moveaxis(np.asarray(values[tensor], np.float32), 1, 0).reshape(total.shape[1], -1)
                total[0] += rows.shape[1]
                total[1] += rows.sum(axis=1, dtype=np.float64)
                total[2] += np.square(rows).sum(axis=1, dtype=np.float64)
    except runtime_errors() as error:
        raise UsageError(f"the model does not run on the calibration data: {one_line(error)}") from error
    for norm in norms:
        count, first, second = sums[norm.tensor]
        mean = first / count
        spread = np.sqrt(np.maximum(second / count - mean**2, 0)) / norm.deviation
        shift = np.abs(mean - norm.mean) / norm.deviation
        yield Seen(norm, float(np.median(spread)), float(np.median(shift)))


def _ranges(batches: Sequence[Feeds]) -> str:
    """Say the range of each input of floats."""
    names = [name for name, array in batches[0].items() if array.dtype.kind == "f"] or list(batches[0])
    return ", ".join("'{}' runs from {:.3g} to {:.3g}".format(n, *_range(batches, n)) for n in names)


def _range(batches: Sequence[Feeds], name: str) -> tuple[float, float]:
    return min(float(b[name].min()) for b in batches), max(float(b[name].max()) for b in batches)


def _unscaled(batches: Sequence[Feeds], model: onnx.ModelProto) -> Iterator[str]:
    """Tell images whose values are those of stored pixels, or beyond all that is usual.

    Models that multiply or divide what they read scale it themselves.
    """
    own = set(_scaled_inside(model))
    for name in (n for n, a in batches[0].items() if is_image(a) and n not in own):
        low, high = _range(batches, name)
        whole = all(bool((b[name] == np.rint(b[name])).all()) for b in batches)
        told = f"image '{name}' runs from {low:.3g} to {high:.3g}"
        if max(-low, high) > WIDE:
            yield f"{told}, wider than stored pixels: check that it is scaled as in the training"
        elif low >= 0 and high > BYTES:
            values = "whole numbers as pixels are stored" if whole else "as stored pixels do"
            yield (
                f"{told}, {values}: if the model was trained on 0 to 1 divide by {PIXELS}, if on normalised "
                "images normalise; if on such values all is well"
            )


def _scaled_inside(model: onnx.ModelProto) -> Iterator[str]:
    opsets = opsets_of(model)
    for node in model.graph.node:
        if facets_of(node, opsets).arithmetic in (Arithmetic.PRODUCT, Arithmetic.QUOTIENT):
            yield from node.input
