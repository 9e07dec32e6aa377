"""Importance of units from calibration data: what the consumers of each group lose without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxprune.analysis.units import Group, Units
from onnxprune.data.consumers import ActivationView, Consumer
from onnxprune.data.moments import Gram
from onnxprune.planning.obs import Reader, damped_inverse, diagonal_losses, obs_losses


def data_importance(
    criterion: str,
    units: Units,
    readers: Sequence[Consumer],
    grams: Mapping[ActivationView, Gram],
    norms: np.ndarray,
) -> np.ndarray:
    """Score units by what their consumers lose, relative to the energy of their outputs.

    norms: importance by unit without data, for groups that no stored weight reads (the head
    dimensions of queries and keys); there each unit counts by its share of the group.
    """
    prepared = [part for consumer in readers for part in _parts(consumer, grams[consumer.view])]
    scores = np.zeros(units.count)
    for group in units.groups:
        own = [reader for reader in prepared if np.isin(reader.units, group.units).any()]
        scores[group.units] = _group_losses(criterion, group, own, norms)
    return scores


def _parts(consumer: Consumer, gram: Gram) -> list[Reader]:
    # The bias of the consumer takes up the mean of what goes, where it has one.
    moments = gram.covariance if consumer.has_bias else gram.energy
    weight = consumer.weight()
    products = np.matmul(weight, weight.transpose(0, 2, 1)).astype(np.float64)
    energy = float(np.einsum("gij,gij->", products, moments))
    return [
        Reader(moment, product, damped_inverse(moment), units, energy)
        for moment, product, units in zip(moments, products, consumer.units, strict=True)
    ]


def _group_losses(criterion: str, group: Group, readers: list[Reader], norms: np.ndarray) -> np.ndarray:
    if not readers:
        own = np.maximum(norms[group.units], 0.0) ** 2
        return own / max(float(own.sum()), 1e-30)
    if criterion == "obs":
        return obs_losses(readers, group.units)
    return diagonal_losses(readers, group.units, criterion == "wanda")
