"""Windows of large images: a layer is fitted to some ten thousand of its places, not to every pixel.

A convolution does the same at every place, so a part of an image tells of its weights what the whole does,
and costs as much less. It is cut out of the inputs, in front of everything that a repair computes: both
networks see the same part, so what the original makes of it is a target like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod, sqrt

import numpy as np
import onnx

from onnxprune.analysis.labels import Labelled
from onnxprune.data.images import is_image, is_last
from onnxprune.data.read import Calibration, Feeds
from onnxprune.errors import ModelError, UsageError
from onnxprune.model.graph import ValueInfo
from onnxprune.model.shapes import ShapeReader
from onnxprune.recovery.regression import Linear, linears
from onnxprune.recovery.walk import Walk

PLACES = 1 << 18  # pixels of an image that are always looked at: 512 x 512
ROWS, PER_FEATURE = 20_000, 32  # of a layer over all batches to fit with, and as many for each feature
STEP = 64  # sides are multiples of it: networks halve them, and double them again
WORTH = 0.75  # a window of more of the image than this is the whole image

Sides = tuple[int, int]
Shapes = Mapping[str, ValueInfo]


@dataclass(frozen=True)
class _Images:
    """The images among the inputs, all of one height and width."""

    names: frozenset[str]
    sides: Sides

    @classmethod
    def of(cls, batches: Sequence[Feeds]) -> _Images | None:
        """Find the images; None without any, and where their sizes differ."""
        names = frozenset(name for name, values in batches[0].items() if is_image(values))
        found = {_sides(batch[name]) for batch in batches for name in names}
        return cls(names, found.pop()) if len(found) == 1 else None

    def window(self, share: float) -> Sides:
        """Return the sides of a window of at least such a share of the area."""
        height, width = (min(ceil(n * sqrt(share) / STEP) * STEP, n) for n in self.sides)
        return height, width

    def cut(self, batch: Feeds, sides: Sides, rng: np.random.Generator) -> Feeds:
        """Cut one window out of all images of a batch, at a place drawn at random."""
        tops = [int(rng.integers(n - side + 1)) for n, side in zip(self.sides, sides, strict=True)]
        rows, columns = (slice(top, top + side) for top, side in zip(tops, sides, strict=True))
        result = dict(batch)
        for name in self.names:
            last = is_last(batch[name])
            index = np.s_[:, rows, columns] if last else np.s_[:, :, rows, columns]
            result[name] = np.ascontiguousarray(batch[name][index])
        return result


def windowed(model: onnx.ModelProto, labelled: Mapping[str, Labelled], data: Calibration) -> Calibration:
    """Return calibration data with one window of every large image in place of the image.

    Windows are as large as the layer with the fewest places needs them, and no smaller than `PLACES`. The
    data itself where images are small, where a window would be most of the image, and where the model needs
    its own size: it does not run at another one, or an axis with labels follows the size.

    labelled: labels of the model's tensors. The result depends on sizes alone.
    """
    images = _Images.of(data.batches)
    if images is None or prod(images.sides) <= PLACES:
        return data
    largest = max(data.batches, key=lambda batch: sum(values.nbytes for values in batch.values()))
    rng = np.random.default_rng(0)
    try:
        sides = _fitting(model, labelled, (images, largest), len(data.fit))
        if sides is None:
            return data
        walk = Walk(model, [images.cut(largest, sides, rng)])
        walk.until(len(walk.nodes))
    except (ModelError, UsageError):
        return data
    rng = np.random.default_rng(0)
    return replace(data, batches=tuple(images.cut(batch, sides, rng) for batch in data.batches))


def _fitting(
    model: onnx.ModelProto, labelled: Mapping[str, Labelled], seen: tuple[_Images, Feeds], batches: int
) -> Sides | None:
    """Choose the sides of a window; None where the whole image is as good, or the model has its own size.

    seen: the images, and the largest batch of them; batches: to fit with. Raises ModelError where shapes
    contradict each other.
    """
    (images, batch), reader, area = seen, ShapeReader(model), prod(seen[0].sides)
    whole = _shapes(reader, images, batch, images.sides)
    least = _shapes(reader, images, batch, images.window(PLACES / area))
    needed = _share(linears(Walk(model, [])), whole, least, batches)
    sides = images.window(min(max(PLACES / area, needed), 1.0))
    follows = _follows(whole, _shapes(reader, images, batch, sides), labelled)
    return sides if follows and prod(sides) <= WORTH * area else None


def _sides(values: np.ndarray) -> Sides:
    height, width = values.shape[1:3] if is_last(values) else values.shape[2:4]
    return height, width


def _shapes(reader: ShapeReader, images: _Images, batch: Feeds, sides: Sides) -> Shapes:
    """Infer all shapes for a window of a batch."""
    sizes = {name: tuple(values.shape) for name, values in batch.items()}
    for name in images.names:
        count, *rest = sizes[name]
        last = is_last(batch[name])
        sizes[name] = (count, *sides, rest[-1]) if last else (count, rest[0], *sides)
    return reader.infer(sizes)


def _share(layers: Sequence[Linear], whole: Shapes, small: Shapes, batches: int) -> float:
    """Return the share of the places that the layers need whose places follow the size of the image."""
    needed = 0.0
    for layer in layers:
        before, after = (shapes[layer.node.output[0]].shape for shapes in (whole, small))
        if before is not None and before != after:
            rows = batches * prod(before) // layer.outputs
            needed = max(needed, max(ROWS, PER_FEATURE * layer.features) / max(rows, 1))
    return needed


def _follows(whole: Shapes, cut: Shapes, labelled: Mapping[str, Labelled]) -> bool:
    """Tell whether all shapes are known for a window, and of labelled axes have the same sizes."""
    for name, value in whole.items():
        before, after = value.shape, cut[name].shape if name in cut else None
        if before is None or after is None or len(before) != len(after):
            return False
        factors = labelled[name].factors if name in labelled else ()
        if any(before[axis] != after[axis] for factor in factors for axis in factor.axes):
            return False
    return True
