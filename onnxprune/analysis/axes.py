"""Arithmetic between axes and the subscripts they are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.rules.signature import Axes, Axis, Shape, Signature

Coords = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Block:
    """Labels over subscripts: `labels` has one dimension for each subscript."""

    subscripts: Axis
    labels: np.ndarray

    def arranged(self, subscripts: Sequence[str]) -> np.ndarray:
        """Return the labels with their dimensions in this order of subscripts."""
        if tuple(subscripts) == self.subscripts:
            return self.labels
        return self.labels.transpose([self.subscripts.index(subscript) for subscript in subscripts])


def subscript_sizes(
    signature: Signature, inputs: Sequence[Shape | None], outputs: Sequence[Shape | None]
) -> dict[str, int]:
    """Read the sizes of all subscripts off the shapes.

    Raises ValueError when a subscript has two sizes.
    """
    sizes = dict(signature.sizes)
    for side, shapes in ((signature.inputs, inputs), (signature.outputs, outputs)):
        for axes, shape in zip(side, shapes, strict=False):
            if axes is None or shape is None:
                continue
            for axis, size in zip(axes, shape, strict=True):
                if len(axis) == 1 and sizes.setdefault(axis[0], size) != size:
                    raise ValueError(f"an axis of size {size} meets one of size {sizes[axis[0]]}")
    return sizes


def joined(axes: Axes, places: Sequence[int]) -> Axis:
    """Return the subscripts of these axes, in order."""
    return tuple(subscript for place in places for subscript in axes[place])


def split_axes(labels: np.ndarray, subscripts: Axis, sizes: Mapping[str, int]) -> np.ndarray:
    """View labels over axes [A…] as labels over the subscripts of these axes."""
    return labels.reshape([sizes[subscript] for subscript in subscripts])


def constant_subscripts(labels: np.ndarray, subscripts: Axis) -> list[str]:
    """Find the subscripts along which all slices carry the same labels."""
    if labels.ndim < 2:
        return []
    return [
        subscript for dim, subscript in enumerate(subscripts) if (labels == labels.take([0], axis=dim)).all()
    ]


def without(labels: np.ndarray, subscripts: Axis, gone: Sequence[str]) -> Block:
    """Take the first slice along the subscripts that go."""
    index = tuple(0 if subscript in gone else slice(None) for subscript in subscripts)
    return Block(tuple(subscript for subscript in subscripts if subscript not in gone), labels[index])


def merged(block: Block, axes: Axes, sizes: Mapping[str, int]) -> tuple[tuple[int, ...], np.ndarray]:
    """Carry labels over subscripts onto the axes that hold them.

    Returns the axes and labels with one dimension for each; other subscripts of these axes repeat.
    """
    places = tuple(
        i for i, axis in enumerate(axes) if any(subscript in axis for subscript in block.subscripts)
    )
    if tuple(axes[i] for i in places) == tuple((subscript,) for subscript in block.subscripts):
        return places, block.labels
    subscripts = joined(axes, places)
    present = [subscript for subscript in subscripts if subscript in block.subscripts]
    spread = block.arranged(present)[
        tuple(slice(None) if subscript in present else None for subscript in subscripts)
    ]
    full = np.broadcast_to(spread, [sizes[subscript] for subscript in subscripts])
    return places, full.reshape([axis_size(axes[i], sizes) for i in places])


def axis_size(axis: Axis, sizes: Mapping[str, int]) -> int:
    """Return the size of an axis made of these subscripts."""
    size = 1
    for subscript in axis:
        size *= sizes[subscript]
    return size


def rectangle(alive: np.ndarray) -> np.ndarray | None:
    """Find what is left of a grid after a removal, if it is a grid again.

    alive: booleans, one dimension for each subscript. Axes are peeled one after the other, each with
    uniform counts, the innermost first. Returns flat places [sizes…] in the original grid, or None.
    """
    if alive.ndim == 1:
        return np.flatnonzero(alive)
    places = np.arange(alive.size).reshape(alive.shape)
    for dim in range(alive.ndim - 1, -1, -1):
        found = _peeled(np.moveaxis(alive, dim, -1), np.moveaxis(places, dim, -1))
        if found is not None:
            return np.moveaxis(found, -1, dim)
    return None


def _peeled(alive: np.ndarray, places: np.ndarray) -> np.ndarray | None:
    counts = alive.sum(axis=-1)
    rows = counts > 0
    width = int(counts.max(initial=0))
    if not (counts[rows] == width).all():
        return None
    outer = rectangle(rows)
    if outer is None:
        return None
    lines = outer.ravel()
    flat_alive, flat_places = (
        alive.reshape(-1, alive.shape[-1])[lines],
        places.reshape(-1, alive.shape[-1])[lines],
    )
    return flat_places[flat_alive].reshape(*outer.shape, width)


def coords_of(places: np.ndarray, subscripts: Axis, sizes: Mapping[str, int]) -> Coords:
    """Turn flat places in a grid of subscripts into one coordinate array for each subscript."""
    if len(subscripts) == 1:
        return {subscripts[0]: places}
    return dict(
        zip(subscripts, np.unravel_index(places, [sizes[subscript] for subscript in subscripts]), strict=True)
    )


def ramp(size: int, subscripts: Sequence[str], subscript: str) -> np.ndarray:
    """Count along one subscript, with a dimension for each subscript."""
    dim = list(subscripts).index(subscript)
    return np.arange(size).reshape([-1 if i == dim else 1 for i in range(len(subscripts))])


def same_coords(left: Coords | None, right: Coords | None) -> bool:
    """Tell whether two selections are the same places in the same order."""
    if left is right:
        return True
    if left is None or right is None:
        return False
    return all(left[x] is right[x] or np.array_equal(left[x], right[x]) for x in left)
