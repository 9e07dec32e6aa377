"""Criteria from calibration data: what the consumers of each group lose without its units."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from onnxprune.planning.criteria import SliceNorm, l2
from onnxprune.planning.criterion import Criterion, ScoringInput
from onnxprune.planning.obs import Reader, diagonal_losses, obs_losses
from onnxprune.registries import CRITERIA

if TYPE_CHECKING:
    from onnxprune.data.consumers import ActivationView, Consumer
    from onnxprune.data.moments import Gram

Losses: TypeAlias = Callable[[Sequence[Reader], np.ndarray], np.ndarray]  # units of a group [U] -> [U]


@dataclass(frozen=True)
class GroupLosses:
    """Importance by what the consumers of a group lose, relative to the energy of their outputs.

    In a group that no stored weight reads (the head dimensions of queries and keys) each unit counts by its
    share of the squared weight norms.
    """

    losses: Losses

    def __call__(self, given: ScoringInput) -> np.ndarray:
        """Score units [count]."""
        norms = SliceNorm(l2, lambda member: member.weight, l2)(given)
        scores = np.zeros(given.count)
        for units in given.groups:
            own = [reader for reader in given.readers if np.isin(reader.units, units).any()]
            scores[units] = self.losses(own, units) if own else _shares(norms[units])
        return scores


def _shares(norms: np.ndarray) -> np.ndarray:
    own = np.maximum(norms, 0.0) ** 2
    return own / max(float(own.sum()), 1e-30)


def data_criterion(name: str, summary: str) -> Callable[[Losses], Losses]:
    """Register a function (readers of a group, its units [U]) -> losses [U] as a criterion.

    Raises OnnxPruneError where the name is taken.
    """

    def add(losses: Losses) -> Losses:
        CRITERIA.add(Criterion(name, summary, GroupLosses(losses), needs_data=True))
        return losses

    return add


@data_criterion("activation", "energy of the activations")
def activation(readers: Sequence[Reader], units: np.ndarray) -> np.ndarray:
    """Return the energy of each unit's activations [U] (Hu et al. 2016, arXiv:1607.03250)."""
    return diagonal_losses(readers, units, weighted=False)


@data_criterion("wanda", "energy of the activations times that of the weights that read them")
def wanda(readers: Sequence[Reader], units: np.ndarray) -> np.ndarray:
    """Return the energy of activations times weights of each unit [U] (Sun et al. 2023, arXiv:2306.11695)."""
    return diagonal_losses(readers, units, weighted=True)


data_criterion("obs", "what their consumers lose when the rest is refitted")(obs_losses)


def readers_of(consumers: Sequence[Consumer], grams: Mapping[ActivationView, Gram]) -> Iterator[Reader]:
    """Yield what criteria see of consumers: one reader for each group of a grouped weight."""
    for consumer in consumers:
        gram = consumer.gram(grams)
        # The bias of the consumer takes up the mean of what goes, where it has one.
        moments = gram.covariance if consumer.has_bias else gram.energy
        weight = consumer.weight()
        products = np.matmul(weight, weight.transpose(0, 2, 1)).astype(np.float64)
        energy = float(np.einsum("gij,gij->", products, moments))
        for moment, product, units in zip(moments, products, consumer.units, strict=True):
            yield Reader(moment, product, units, energy)
