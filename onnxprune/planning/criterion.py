"""What a criterion is: a name, and a function from what it sees of a model to the importance of its units.

Arrays in, arrays out; criteria register themselves in `onnxprune.registries.CRITERIA`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from onnxprune.data.scripts import guarded
from onnxprune.errors import UsageError
from onnxprune.planning.obs import Reader
from onnxprune.registries import CRITERIA


@dataclass(frozen=True)
class Slices:
    """One tensor's slices: the unit of each, and how to load them as a matrix [slices, elements]."""

    key: object
    units: np.ndarray
    load: Callable[[], np.ndarray]
    weight: bool
    scale: bool
    produces: bool


@dataclass(frozen=True)
class ScoringInput:
    """What a criterion sees of a model.

    count: of units; groups: the units of each group; slices: of the stored tensors that hold units;
    readers: of the units, for criteria that need data, else none; seed: of random choices.
    """

    count: int
    groups: tuple[np.ndarray, ...]
    slices: tuple[Slices, ...]
    readers: tuple[Reader, ...]
    seed: int


Score: TypeAlias = Callable[[ScoringInput], np.ndarray]


@dataclass(frozen=True)
class Criterion:
    """What ranks units, by a name.

    score: importance [count], high means keep. needs_data: it reads `readers`, and what it returns are
    losses of error, which add up; else only their order within a group and their ratios count. sees:
    which tensors it looks at, and lacking: what a group has none of where it sees nothing of it.
    """

    name: str
    summary: str
    score: Score
    needs_data: bool = False
    sees: Callable[[Slices], bool] | None = None
    lacking: str = ""

    def __call__(self, given: ScoringInput) -> np.ndarray:
        """Score units [count].

        Raises UsageError where a criterion from outside fails, or gives something else than a number a unit.
        """
        if CRITERIA.is_ours(self):
            return self.score(given)
        what = f"criterion {self.name}"
        found = guarded(lambda: np.asarray(self.score(given), np.float64), what)
        if found.shape != (given.count,) or np.isnan(found).any():
            raise UsageError(
                f"{what} gives {'NaN' if found.shape == (given.count,) else list(found.shape)}, "
                f"expected numbers [{given.count}], one for each unit"
            )
        return np.asarray(found)

    def unseen(self, given: ScoringInput) -> np.ndarray:
        """Tell which units no tensor of the criterion's kind holds. [count]"""
        result = np.full(given.count, self.sees is not None)
        for member in given.slices:
            if self.sees is not None and self.sees(member):
                result[member.units] = False
        return result


def criterion(name: str, summary: str) -> Callable[[Score], Score]:
    """Register a function as a criterion that needs no data.

    Raises OnnxPruneError where the name is taken.
    """

    def add(score: Score) -> Score:
        CRITERIA.add(Criterion(name, summary, score))
        return score

    return add


def criterion_of(given: str | Criterion | Callable[[ScoringInput], Any]) -> Criterion:
    """Return a criterion by its name, or of a function from ScoringInput to importance [count].

    Raises UsageError for an unknown name.
    """
    if isinstance(given, Criterion):
        return given
    if isinstance(given, str):
        return CRITERIA.get(given)
    return Criterion(f"{getattr(given, '__name__', 'function')}()", "given in Python", given)
