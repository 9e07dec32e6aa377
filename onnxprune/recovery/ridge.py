"""Ridge regression of a layer's weights from its inputs, towards what its readers hear of its outputs.

Where readers hear everything it is one linear solution; where they do not (a Relu), targets that cannot be
heard follow what is made, and a few rounds of the same solution go towards them: a majorise-minimise
descent, since each round lowers a bound that touches the loss (Lange 2016, MM Optimization Algorithms).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from onnxprune.recovery.active_range import ActiveRange

DAMPING = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
WIDE_DAMPING = (1e-3, 1e-2)
SPECTRAL = 1600  # features up to which all dampings are tried by one eigendecomposition
ROUNDS = 8
SETTLED = 0.999  # a round that leaves more of the error than this is the last
Solve = Callable[[np.ndarray], np.ndarray]


@dataclass
class RegressionRows:
    """Rows of a layer by batch: features [g, rows, f], what its outputs are and are to be [g, rows, m]."""

    features: list[np.ndarray] = field(default_factory=list)
    made: list[np.ndarray] = field(default_factory=list)
    target: list[np.ndarray] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Return the number of rows."""
        return sum(x.shape[1] for x in self.features)

    def add(self, features: np.ndarray, made: np.ndarray, target: np.ndarray) -> None:
        """Add the rows of a batch."""
        self.features.append(features.astype(np.float32))
        self.made.append(made.astype(np.float32))
        self.target.append(target.astype(np.float32))

    def mean(self) -> np.ndarray:
        """Return the means of the features [g, 1, f]."""
        total = sum(x.sum(axis=1, keepdims=True, dtype=np.float64) for x in self.features)
        return np.asarray(total / self.count, np.float32)

    def centre(self, mean: np.ndarray) -> None:
        """Subtract means from the features, in place."""
        for x in self.features:
            x -= mean

    def after(self, change: Change) -> list[np.ndarray]:
        """Return the outputs by batch [g, rows, m] that changed weights make."""
        return [
            made + np.matmul(x, change.weight) + change.shift
            for x, made in zip(self.features, self.made, strict=True)
        ]

    def error(self, made: Sequence[np.ndarray], active_range: ActiveRange) -> float:
        """Return the mean squared error of outputs, as far as readers hear it."""
        pairs = zip(self.target, made, strict=True)
        total = sum(
            float(np.square(active_range.of(t) - active_range.of(m)).sum(dtype=np.float64)) for t, m in pairs
        )
        return total / max(self.count, 1)


@dataclass(frozen=True)
class Change:
    """What is added to weights [g, f, m], for features around their mean, and to outputs [g, 1, m]."""

    weight: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True)
class Ridge:
    """Rows to fit to and to judge by, and what readers hear of them; biased: outputs may be shifted."""

    fit: RegressionRows
    judge: RegressionRows
    active_range: ActiveRange
    biased: bool

    def best(self, dampings: Sequence[float]) -> Change | None:
        """Return the change of least error on the rows to judge by; None where it is best to change nothing.

        dampings: relative to the mean energy of a feature; with none of them outputs are only shifted.
        """
        first = [(self._round(self.fit.made, solve), solve) for solve in self._solutions(dampings)]
        changes = [(self._error(change), number) for number, (change, _) in enumerate(first)]
        error, number = min(changes)
        best, solve = first[number]
        for _ in range(0 if self.active_range.everything else ROUNDS - 1):
            change = self._round(self.fit.after(best), solve)
            before, after = error, self._error(change)
            if after < before:
                best, error = change, after
            if not after < SETTLED * before:
                break
        return best if error < self.judge.error(self.judge.made, self.active_range) else None

    def _error(self, change: Change) -> float:
        return self.judge.error(self.judge.after(change), self.active_range)

    def _round(self, made: Sequence[np.ndarray], solve: Solve) -> Change:
        """Fit the weights as they were to what would sound like the targets, given what is made now."""
        batches = list(zip(self.fit.features, self.fit.made, made, self.fit.target, strict=True))
        residuals = [self.active_range.goal(target, now) - first for _, first, now, target in batches]
        shift = np.zeros((residuals[0].shape[0], 1, residuals[0].shape[2]))
        if self.biased:
            shift = (
                shift
                + sum(r.sum(axis=1, keepdims=True, dtype=np.float64) for r in residuals) / self.fit.count
            )
        crossed = np.zeros((*self.fit.features[0].shape[::2], shift.shape[2]))
        for x, residual in zip(self.fit.features, residuals, strict=True):
            crossed += np.matmul(x.transpose(0, 2, 1), residual - shift.astype(np.float32))
        return Change(solve(crossed).astype(np.float32), shift.astype(np.float32))

    def _solutions(self, dampings: Sequence[float]) -> Iterator[Solve]:
        """Return for each damping how crossed moments [g, f, m] become weights."""
        if not dampings:
            yield np.zeros_like
            return
        gram = sum(np.matmul(x.transpose(0, 2, 1), x).astype(np.float64) for x in self.fit.features)
        gram = np.asarray(gram)
        size = gram.shape[-1]
        mean = max(float(np.trace(gram, axis1=1, axis2=2).mean()) / size, 1e-30)
        if size <= SPECTRAL:
            spectrum, basis = np.linalg.eigh(gram)
            for damping in dampings:
                yield _Spectral(np.maximum(spectrum, 0) + damping * mean, basis).solve
            return
        for damping in WIDE_DAMPING:
            yield _Factored([cho_factor(g + damping * mean * np.eye(size)) for g in gram]).solve


@dataclass(frozen=True)
class _Spectral:
    """A damped Gram matrix by its eigenvalues [g, f] and eigenvectors [g, f, f]."""

    spectrum: np.ndarray
    basis: np.ndarray

    def solve(self, crossed: np.ndarray) -> np.ndarray:
        turned = np.matmul(self.basis.transpose(0, 2, 1), crossed)
        return np.asarray(np.matmul(self.basis, turned / self.spectrum[:, :, None]))


@dataclass(frozen=True)
class _Factored:
    """Damped Gram matrices by their Cholesky factors."""

    factors: list[tuple[np.ndarray, bool]]

    def solve(self, crossed: np.ndarray) -> np.ndarray:
        return np.stack([cho_solve(f, c) for f, c in zip(self.factors, crossed, strict=True)])
