"""Contractions with a stored weight as linear regressions: rows of features and outputs, and back to weights.

Input 0 is the data, input 1 the weight, input 2 the bias, if any. A rule's `regression` makes one of the two
forms here of a weight's shape and the node's attributes: windows that slide (Conv), or rows times a matrix.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, TypeAlias

import numpy as np

Shape: TypeAlias = tuple[int, ...]
Places: TypeAlias = "tuple[np.ndarray, ...]"
STRETCH = 2048  # places of a grid that are taken at a time


@dataclass(frozen=True)
class FeatureBlock:
    """A block of features: an offset of the kernel, and input channels from one to another."""

    offset: tuple[int, ...]
    start: int
    stop: int


class Regression(ABC):
    """A contraction as a regression; features and outputs are counted for one group.

    axis: of the outputs in the result.
    """

    axis: int

    @property
    @abstractmethod
    def groups(self) -> int:
        """Return the number of groups."""

    @property
    @abstractmethod
    def features(self) -> int:
        """Return the number of inputs that one output of a group sums over."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Return the number of outputs of all groups."""

    @abstractmethod
    def rows(
        self, data: np.ndarray, results: Sequence[np.ndarray], most: int, rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Draw rows: features [groups, rows, features] and, of each result, [groups, rows, outputs]."""

    @abstractmethod
    def pulled(self, data: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Return the gradient of the weight [groups, features, outputs] by that of the result, over all rows.

        data, gradient: of the shapes of the input and of the result.
        """

    @abstractmethod
    def changed(self, weight: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Add a change [groups, features, outputs] to a weight."""

    @abstractmethod
    def blocks(self, most: int) -> Iterator[FeatureBlock]:
        """Divide the features into blocks of one offset and at most so many channels."""

    @abstractmethod
    def columns(self, data: np.ndarray, places: Places, block: FeatureBlock) -> np.ndarray:
        """Read a block of features [rows, width]; places: of the rows in the result, without its axis."""

    @abstractmethod
    def changed_by_blocks(self, weight: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Add a change [features, outputs], ordered by blocks, to a weight of one group."""


@dataclass(frozen=True)
class Dense(Regression):
    """Rows times a matrix [features, outputs], or [outputs, features] where transposed (Gemm, MatMul)."""

    shape: Shape
    transposed: bool = False
    axis = -1
    groups = 1

    @property
    def features(self) -> int:
        """Return the number of rows of the matrix."""
        return self.shape[1] if self.transposed else self.shape[0]

    @property
    def outputs(self) -> int:
        """Return the number of columns of the matrix."""
        return self.shape[0] if self.transposed else self.shape[1]

    def rows(
        self, data: np.ndarray, results: Sequence[np.ndarray], most: int, rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Draw rows of what is multiplied."""
        flat = [values.reshape(-1, values.shape[-1]) for values in (data, *results)]
        if len(flat[0]) > most:
            chosen = np.sort(rng.choice(len(flat[0]), most, replace=False))
            flat = [values[chosen] for values in flat]
        return [values[None] for values in flat]

    def pulled(self, data: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Multiply inputs and gradients."""
        flat = [values.reshape(-1, values.shape[-1]) for values in (data, gradient)]
        return np.asarray(flat[0].T @ flat[1])[None]

    def changed(self, weight: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Add a change."""
        return weight + (change[0].T if self.transposed else change[0])

    def blocks(self, most: int) -> Iterator[FeatureBlock]:
        """Divide the rows of the matrix."""
        for start in range(0, self.features, most):
            yield FeatureBlock((), start, min(start + most, self.features))

    def columns(self, data: np.ndarray, places: Places, block: FeatureBlock) -> np.ndarray:
        """Read columns of what is multiplied."""
        return np.asarray(data[places][:, block.start : block.stop])

    def changed_by_blocks(self, weight: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Add a change: blocks are in the order of the features."""
        return np.asarray(self.changed(weight, change[None]), dtype=weight.dtype)


@dataclass(frozen=True)
class Windowed(Regression):
    """A kernel [C_out, C_in/g, k…] that slides over the data [n, C_in, …] (Conv)."""

    shape: Shape
    attrs: Mapping[str, Any]
    axis = 1

    @property
    def groups(self) -> int:
        """Return the number of groups."""
        return int(self.attrs.get("group", 1))

    @property
    def features(self) -> int:
        """Return the taps of one output channel."""
        return prod(self.shape[1:])

    @property
    def outputs(self) -> int:
        """Return the output channels of all groups."""
        return self.shape[0]

    @cached_property
    def kernel(self) -> Shape:
        """Return the sizes of the window."""
        return self.shape[2:]

    @cached_property
    def sliding(self) -> tuple[list[int], list[int], list[int]]:
        """Return the strides, dilations and pads."""
        return sliding(self.attrs, len(self.kernel))

    def _padded(self, data: np.ndarray) -> np.ndarray:
        rank, pads = len(self.kernel), self.sliding[2]
        return np.pad(data, [(0, 0), (0, 0), *((pads[i], pads[rank + i]) for i in range(rank))])

    def _front(self, padded: Sequence[int]) -> list[int]:
        """Return the sizes of the result."""
        strides, dilations, _ = self.sliding
        sizes = zip(padded, self.kernel, strides, dilations, strict=True)
        return [(n - (k - 1) * d - 1) // s + 1 for n, k, s, d in sizes]

    def rows(
        self, data: np.ndarray, results: Sequence[np.ndarray], most: int, rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Cut out the patches behind outputs drawn at random (im2col)."""
        rank, groups = len(self.kernel), self.groups
        strides, dilations, _ = self.sliding
        padded = self._padded(data)
        front = (len(data), *self._front(padded.shape[2:]))
        every = prod(front)
        chosen = np.arange(every) if every <= most else np.sort(rng.choice(every, most, replace=False))
        sample, *places = np.unravel_index(chosen, front)
        offsets = np.indices(self.kernel).reshape(rank, -1)
        index = [places[i][:, None] * strides[i] + offsets[i][None, :] * dilations[i] for i in range(rank)]
        patches = np.moveaxis(padded, 1, -1)[(sample[:, None], *index)]  # [rows, taps, C_in]
        grid = patches.reshape(len(chosen), offsets.shape[1], groups, patches.shape[-1] // groups)
        found = [grid.transpose(2, 0, 3, 1).reshape(groups, len(chosen), -1)]
        for result in results:
            drawn = np.moveaxis(result, 1, -1)[(sample, *places)].reshape(len(chosen), groups, -1)
            found.append(drawn.transpose(1, 0, 2))
        return found

    def pulled(self, data: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Correlate inputs and gradients, both laid out on the padded grid: there a tap is a shift.

        Stretches of the grid that stay in the processor's cache, all taps of one in one product.
        """
        groups, rank = self.groups, len(self.kernel)
        strides, dilations, pads = self.sliding
        around = [n + pads[i] + pads[rank + i] for i, n in enumerate(data.shape[2:])]
        inside = [slice(pads[i], pads[i] + n) for i, n in enumerate(data.shape[2:])]
        reached = [slice(0, (n - 1) * s + 1, s) for n, s in zip(gradient.shape[2:], strides, strict=True)]
        inputs = _laid_out(data, around, inside, groups)
        coming = _laid_out(gradient, around, reached, groups)
        per_axis = [prod(around[i + 1 :]) for i in range(rank)]
        shifts = [
            sum(t * d * p for t, d, p in zip(taps, dilations, per_axis, strict=True))
            for taps in np.ndindex(*self.kernel)
        ]
        length = inputs.shape[2] - shifts[-1]  # a gradient behind reaches nothing
        found = np.zeros((groups, len(shifts) * inputs.shape[1], coming.shape[1]), data.dtype)
        stretch = np.empty((groups, len(shifts), inputs.shape[1], min(STRETCH, length)), data.dtype)
        for start in range(0, length, STRETCH):
            stop = min(start + STRETCH, length)
            for tap, shift in enumerate(shifts):
                stretch[:, tap, :, : stop - start] = inputs[:, :, start + shift : stop + shift]
            features = stretch.reshape(groups, -1, stretch.shape[3])[:, :, : stop - start]
            found += np.matmul(features, coming[:, :, start:stop].transpose(0, 2, 1))
        taps_last = found.reshape(groups, len(shifts), inputs.shape[1], -1).swapaxes(1, 2)
        return taps_last.reshape(groups, -1, coming.shape[1])

    def changed(self, weight: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Add a change."""
        return weight + change.transpose(0, 2, 1).reshape(weight.shape)

    def blocks(self, most: int) -> Iterator[FeatureBlock]:
        """Divide the channels at every offset of the window."""
        channels = self.shape[1]
        for offset in np.ndindex(*self.kernel):
            for start in range(0, channels, most):
                yield FeatureBlock(offset, start, min(start + most, channels))

    def columns(self, data: np.ndarray, places: Places, block: FeatureBlock) -> np.ndarray:
        """Read one tap of every window; zero where it reaches into the padding."""
        rank = len(self.kernel)
        strides, dilations, pads = self.sliding
        at = [places[1 + i] * strides[i] + block.offset[i] * dilations[i] - pads[i] for i in range(rank)]
        inside = np.all([(a >= 0) & (a < n) for a, n in zip(at, data.shape[2:], strict=True)], axis=0)
        clipped = [np.clip(a, 0, n - 1) for a, n in zip(at, data.shape[2:], strict=True)]
        channels = np.moveaxis(data[:, block.start : block.stop], 1, -1)
        return np.asarray(channels[(places[0], *clipped)] * inside[:, None])

    def changed_by_blocks(self, weight: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Add a change: offsets come first, then channels."""
        taps = change.reshape(*self.kernel, self.shape[1], self.shape[0])
        return np.asarray(weight + np.moveaxis(taps, (-1, -2), (0, 1)), dtype=weight.dtype)


MakeRegression: TypeAlias = Callable[[Shape, Mapping[str, Any]], "Regression | None"]


def convolution(shape: Shape, attrs: Mapping[str, Any]) -> Regression | None:
    """Make the regression of a Conv; None where its pads depend on the data."""
    return Windowed(shape, attrs) if _auto_pad(attrs) in ("NOTSET", "VALID") else None


def matrix(shape: Shape, attrs: Mapping[str, Any]) -> Regression | None:
    """Make the regression of a product with a matrix; None where the result is scaled, or the data turned."""
    plain = attrs.get("alpha", 1.0) == attrs.get("beta", 1.0) == 1.0 and not attrs.get("transA", 0)
    return Dense(shape, bool(attrs.get("transB", 0))) if plain and len(shape) == 2 else None


def _laid_out(values: np.ndarray, around: Sequence[int], places: Sequence[slice], groups: int) -> np.ndarray:
    """Lay values [n, channels, …] out on a grid of zeros, channels first [g, channels / g, n * places]."""
    grid = np.zeros((values.shape[1], len(values), *around), values.dtype)
    grid[(slice(None), slice(None), *places)] = values.swapaxes(0, 1)
    return grid.reshape(groups, len(grid) // groups, -1)


def _auto_pad(attrs: Mapping[str, Any]) -> str:
    found = attrs.get("auto_pad", b"NOTSET")
    return found.decode() if isinstance(found, bytes) else str(found)


def sliding(attrs: Mapping[str, Any], rank: int) -> tuple[list[int], list[int], list[int]]:
    """Return the strides, dilations and pads of a window over so many axes."""
    ones = [1] * rank
    return attrs.get("strides") or ones, attrs.get("dilations") or ones, attrs.get("pads") or [0] * (2 * rank)
