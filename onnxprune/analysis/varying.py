"""Which dims of a tensor follow the sizes of the model's inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxprune.errors import ModelError
from onnxprune.model.graph import input_specs
from onnxprune.model.shapes import ShapeReader
from onnxprune.model.sizes import far_sizes
from onnxprune.rules.signature import Shape

Shapes = Mapping[str, "Shape | None"]


@dataclass(frozen=True, eq=False)
class Varying:
    """Dims at two sizes of the inputs; those that differ vary, and so do those that are not known at both.

    near: shapes that are known; find: makes those at sizes far from them, when they are asked for.
    """

    near: Shapes
    find: Callable[[], Shapes]

    @cached_property
    def far(self) -> Shapes:
        """Return the shapes at the other sizes."""
        return self.find()

    def of(self, name: str, rank: int) -> np.ndarray:
        """Return for every dim of a tensor whether it varies."""
        near, far = self.near.get(name), self.far.get(name)
        if near is None or far is None or len(near) != rank or len(far) != rank:
            return np.ones(rank, dtype=bool)
        return np.asarray(near, np.int64) != np.asarray(far, np.int64)


class Fixed(Varying):
    """The inputs have one size each, so that nothing varies."""

    def of(self, _name: str, rank: int) -> np.ndarray:
        """Return that no dim varies."""
        return np.zeros(rank, dtype=bool)


FIXED = Fixed({}, dict)


def varying_of(
    reader: ShapeReader, near: Mapping[str, tuple[int, ...] | None], sizes: Mapping[str, tuple[int, ...]]
) -> Varying:
    """Say which dims follow the inputs' sizes: read off the shapes inferred at others, when asked for."""
    far = far_sizes(input_specs(reader.model.model), dict(sizes))
    if far == dict(sizes):
        return FIXED

    def find() -> dict[str, tuple[int, ...] | None]:
        try:
            return {name: value.shape for name, value in reader.infer(far).items()}
        except ModelError:  # nothing is known of other sizes: every dim may vary
            return {}

    return Varying(near, find)
