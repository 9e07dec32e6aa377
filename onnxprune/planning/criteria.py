"""Importance of units: high means keep. Arrays in, arrays out.

A unit's importance is the mean, over the weight tensors that hold it, of its slice's norm divided
by the mean norm along that tensor's axis: the group reduction "mean" with normaliser "mean" of
Fang et al., DepGraph (CVPR 2023, arXiv:2301.12900). So groups compare in global rankings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.choices import CRITERIA
from onnxprune.errors import UsageError

BROKEN = -1.0


@dataclass(frozen=True)
class Slices:
    """One tensor's slices: the unit of each, and how to load them as a matrix [slices, elements]."""

    key: object
    units: np.ndarray
    load: Callable[[], np.ndarray]
    weight: bool
    scale: bool
    produces: bool


def importance(criterion: str, count: int, slices: Iterable[Slices], seed: int = 0) -> np.ndarray:
    """Score `count` units by a criterion; units that no tensor holds score zero,
    those with NaN or Inf in a slice less than that.

    l1, l2, linf: norms of weight slices (Li et al. 2017, arXiv:1608.08710). bn-scale: |gamma| (Liu et
    al. 2017, arXiv:1708.06519). fpgm: distance to the other filters (He et al. 2019,
    arXiv:1811.00250). random: a seeded order. Raises UsageError for an unknown criterion.
    """
    if criterion not in CRITERIA:
        raise UsageError(f"unknown criterion '{criterion}', expected one of {', '.join(CRITERIA)}")
    if criterion == "random":
        return np.random.default_rng(seed).permutation(count) / max(count, 1) + 0.5
    members = list(slices)
    chosen = [m for m in members if _counts(criterion, m)]
    total, seen = _summed(criterion, count, chosen)
    taken = {id(m) for m in chosen}
    left = [m for m in members if id(m) not in taken and (seen[m.units] == 0).any()]
    more, times = _summed(
        "l2" if criterion in ("bn-scale", "fpgm") else criterion, count, [m for m in left if m.weight] or left
    )
    missing = seen == 0
    total[missing], seen[missing] = more[missing], times[missing]
    scores = np.divide(total, seen, out=np.zeros(count), where=seen > 0)
    scores[_broken(count, members)] = BROKEN
    return scores


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


def unseen(criterion: str, count: int, slices: Iterable[Slices]) -> np.ndarray:
    """Tell which units no tensor of the criterion's kind holds: `importance` ranks these by l2. [count]"""
    result = np.ones(count, dtype=bool)
    for member in slices:
        if criterion == "random" or _counts(criterion, member):
            result[member.units] = False
    return result


def _counts(criterion: str, member: Slices) -> bool:
    if criterion == "bn-scale":
        return member.scale
    if criterion == "fpgm":
        return member.produces and member.weight
    return member.weight


def _summed(criterion: str, count: int, members: Sequence[Slices]) -> tuple[np.ndarray, np.ndarray]:
    total, seen = np.zeros(count), np.zeros(count)
    for member in members:
        scores = np.nan_to_num(_norms(criterion, member.load()), nan=0.0, posinf=0.0)
        mean = scores.mean()
        flat = member.units.ravel()
        total += np.bincount(flat, weights=scores / mean if mean > 0 else scores, minlength=count)
        seen += np.bincount(flat, minlength=count)
    return total, seen


def _norms(criterion: str, matrix: np.ndarray) -> np.ndarray:
    matrix = matrix if matrix.dtype in (np.float32, np.float64) else matrix.astype(np.float32)
    if criterion in ("l2", "bn-scale"):
        return np.sqrt(np.einsum("ij,ij->i", matrix, matrix, optimize=False).astype(np.float64))
    if criterion == "l1":
        return np.abs(matrix).sum(axis=1, dtype=np.float64)
    if criterion == "linf":
        return np.abs(matrix).max(axis=1).astype(np.float64)
    from scipy.spatial.distance import cdist

    wide = np.nan_to_num(matrix.astype(np.float64))
    return cdist(wide, wide).sum(axis=1)
