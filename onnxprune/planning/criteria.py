"""Criteria without data: norms of the slices of units, and chance. Arrays in, arrays out.

A unit's importance is the mean, over the weight tensors that hold it, of its slice's norm divided
by the mean norm along that tensor's axis: the group reduction "mean" with normaliser "mean" of
Fang et al., DepGraph (CVPR 2023, arXiv:2301.12900). So groups compare in global rankings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TypeAlias

import numpy as np

from onnxprune.planning.criterion import Criterion, ScoringInput, Slices, criterion
from onnxprune.registries import CRITERIA

BROKEN = -1.0

Norm: TypeAlias = Callable[[np.ndarray], np.ndarray]  # [slices, elements] -> [slices]


@dataclass(frozen=True)
class SliceNorm:
    """Importance by a norm of slices of the tensors that it sees; `otherwise` for units of other tensors.

    Units that no tensor holds score zero, those with NaN or Inf in a slice less than that.
    """

    norm: Norm
    sees: Callable[[Slices], bool]
    otherwise: Norm

    def __call__(self, given: ScoringInput) -> np.ndarray:
        """Score units [count]."""
        chosen = [m for m in given.slices if self.sees(m)]
        total, seen = _summed(self.norm, given.count, chosen)
        taken = {id(m) for m in chosen}
        left = [m for m in given.slices if id(m) not in taken and (seen[m.units] == 0).any()]
        more, times = _summed(self.otherwise, given.count, [m for m in left if m.weight] or left)
        missing = seen == 0
        total[missing], seen[missing] = more[missing], times[missing]
        scores = np.divide(total, seen, out=np.zeros(given.count), where=seen > 0)
        scores[_broken(given.count, given.slices)] = BROKEN
        return scores


def norm(name: str, summary: str) -> Callable[[Norm], Norm]:
    """Register a norm of weight slices [slices, elements] -> [slices] as a criterion.

    Raises OnnxPruneError where the name is taken.
    """

    def add(measure: Norm) -> Norm:
        CRITERIA.add(Criterion(name, summary, SliceNorm(measure, attrgetter("weight"), measure)))
        return measure

    return add


@norm("l1", "sum of the absolute weights")
def l1(matrix: np.ndarray) -> np.ndarray:
    """Return the L1 norm of each slice (Li et al. 2017, arXiv:1608.08710)."""
    return np.abs(matrix).sum(axis=1, dtype=np.float64)


@norm("l2", "Euclidean norm of the weights")
def l2(matrix: np.ndarray) -> np.ndarray:
    """Return the L2 norm of each slice."""
    return np.sqrt(np.einsum("ij,ij->i", matrix, matrix, optimize=False).astype(np.float64))


@norm("linf", "largest absolute weight")
def linf(matrix: np.ndarray) -> np.ndarray:
    """Return the largest absolute value of each slice."""
    return np.abs(matrix).max(axis=1).astype(np.float64)


def distance(matrix: np.ndarray) -> np.ndarray:
    """Return the sum of the distances of each slice from the others (He et al. 2019, arXiv:1811.00250)."""
    from scipy.spatial.distance import cdist

    wide = np.nan_to_num(matrix.astype(np.float64))
    return cdist(wide, wide).sum(axis=1)


def _scales(member: Slices) -> bool:
    return member.scale


def _filters(member: Slices) -> bool:
    return member.produces and member.weight


# |gamma|: Liu et al. 2017, arXiv:1708.06519.
CRITERIA.add(
    Criterion(
        "bn-scale", "scales of normalisations", SliceNorm(l2, _scales, l2),
        sees=_scales, lacking="normalisation scale",
    )
)  # fmt: skip
CRITERIA.add(
    Criterion(
        "fpgm", "distance from the group's other filters", SliceNorm(distance, _filters, l2),
        sees=_filters, lacking="weight that makes their channels",
    )
)  # fmt: skip


@criterion("random", "chance, by --seed")
def random(given: ScoringInput) -> np.ndarray:
    """Return a seeded order [count]."""
    order = np.random.default_rng(given.seed).permutation(given.count)
    return order / max(given.count, 1) + 0.5


def _summed(norm: Norm, count: int, members: Sequence[Slices]) -> tuple[np.ndarray, np.ndarray]:
    total, seen = np.zeros(count), np.zeros(count)
    for member in members:
        matrix = member.load()
        matrix = matrix if matrix.dtype in (np.float32, np.float64) else matrix.astype(np.float32)
        scores = np.nan_to_num(norm(matrix), nan=0.0, posinf=0.0)
        mean = scores.mean()
        flat = member.units.ravel()
        total += np.bincount(flat, weights=scores / mean if mean > 0 else scores, minlength=count)
        seen += np.bincount(flat, minlength=count)
    return total, seen


def _broken(count: int, members: Iterable[Slices]) -> np.ndarray:
    """Find the units with NaN or Inf in any of their slices: the first to go."""
    finite: dict[object, bool] = {}
    result = np.zeros(count, dtype=bool)
    for member in members:
        if finite.get(member.key):
            continue
        values = member.load()
        with np.errstate(over="ignore", invalid="ignore"):
            # The sum is one fast pass; only when it is not finite each element must be looked at.
            finite[member.key] = bool(np.isfinite(values.sum()) or np.isfinite(values).all())
        if not finite[member.key]:
            result[member.units.ravel()[~np.isfinite(values).all(axis=1)]] = True
    return result
