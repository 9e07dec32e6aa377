"""Arithmetic between axes and the letters they are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.rules.signature import Axes, Axis, Shape, Signature

Coords = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Block:
    """Labels over letters: `labels` has one dimension for each letter."""

    letters: Axis
    labels: np.ndarray

    def arranged(self, letters: Sequence[str]) -> np.ndarray:
        """Return the labels with their dimensions in this order of letters."""
        if tuple(letters) == self.letters:
            return self.labels
        return self.labels.transpose([self.letters.index(letter) for letter in letters])


def letter_sizes(
    signature: Signature, inputs: Sequence[Shape | None], outputs: Sequence[Shape | None]
) -> dict[str, int]:
    """Read the sizes of all letters off the shapes.

    Raises ValueError when a letter has two sizes.
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
    """Return the letters of these axes, in order."""
    return tuple(letter for place in places for letter in axes[place])


def split_axes(labels: np.ndarray, letters: Axis, sizes: Mapping[str, int]) -> np.ndarray:
    """View labels over axes [A…] as labels over the letters of these axes."""
    return labels.reshape([sizes[letter] for letter in letters])


def constant_letters(labels: np.ndarray, letters: Axis) -> list[str]:
    """Find the letters along which all slices carry the same labels."""
    if labels.ndim < 2:
        return []
    return [letter for dim, letter in enumerate(letters) if (labels == labels.take([0], axis=dim)).all()]


def without(labels: np.ndarray, letters: Axis, gone: Sequence[str]) -> Block:
    """Take the first slice along the letters that go."""
    index = tuple(0 if letter in gone else slice(None) for letter in letters)
    return Block(tuple(letter for letter in letters if letter not in gone), labels[index])


def merged(block: Block, axes: Axes, sizes: Mapping[str, int]) -> tuple[tuple[int, ...], np.ndarray]:
    """Carry labels over letters onto the axes that hold them.

    Returns the axes and labels with one dimension for each; other letters of these axes repeat.
    """
    places = tuple(i for i, axis in enumerate(axes) if any(letter in axis for letter in block.letters))
    if tuple(axes[i] for i in places) == tuple((letter,) for letter in block.letters):
        return places, block.labels
    letters = joined(axes, places)
    present = [letter for letter in letters if letter in block.letters]
    spread = block.arranged(present)[tuple(slice(None) if letter in present else None for letter in letters)]
    full = np.broadcast_to(spread, [sizes[letter] for letter in letters])
    return places, full.reshape([axis_size(axes[i], sizes) for i in places])


def axis_size(axis: Axis, sizes: Mapping[str, int]) -> int:
    """Return the size of an axis made of these letters."""
    size = 1
    for letter in axis:
        size *= sizes[letter]
    return size


def rectangle(alive: np.ndarray) -> np.ndarray | None:
    """Find what is left of a grid after a removal, if it is a grid again.

    alive: booleans, one dimension for each letter. Axes are peeled one after the other, each with
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


def coords_of(places: np.ndarray, letters: Axis, sizes: Mapping[str, int]) -> Coords:
    """Turn flat places in a grid of letters into one coordinate array for each letter."""
    if len(letters) == 1:
        return {letters[0]: places}
    return dict(zip(letters, np.unravel_index(places, [sizes[letter] for letter in letters]), strict=True))


def ramp(size: int, letters: Sequence[str], letter: str) -> np.ndarray:
    """Count along one letter, with a dimension for each letter."""
    dim = list(letters).index(letter)
    return np.arange(size).reshape([-1 if i == dim else 1 for i in range(len(letters))])


def same_coords(left: Coords | None, right: Coords | None) -> bool:
    """Tell whether two selections are the same places in the same order."""
    if left is right:
        return True
    if left is None or right is None:
        return False
    return all(left[x] is right[x] or np.array_equal(left[x], right[x]) for x in left)
