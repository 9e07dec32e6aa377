"""Windows of layers that are fitted together: runs of nodes between places where little passes by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.recovery.regression import Linear
from onnxprune.recovery.walk import Walk

LAYERS = 4  # of a window, at least


@dataclass(frozen=True)
class Window:
    """The nodes of a walk from a start to a stop, and the layers among them."""

    start: int
    stop: int
    layers: tuple[Linear, ...]

    @property
    def tensors(self) -> list[str]:
        """List the weights and biases of the layers."""
        return [name for layer in self.layers for name in (layer.weight, layer.bias) if name]


def windows(walk: Walk, layers: Sequence[Linear]) -> list[Window]:
    """Cover the layers by windows, each beginning about half a window after the last.

    A window begins and ends in front of a layer where no more tensors pass by than at the layers around
    it: such as the ends of residual blocks.
    """
    passing = _passing(walk)
    counts = [int(passing[layer.place]) for layer in layers]
    cuts = [
        i
        for i, count in enumerate(counts)
        if count <= min(counts[max(i - 1, 0)], counts[min(i + 1, len(counts) - 1)])
    ]
    cuts = sorted({0, *cuts, len(layers)}) if layers else []
    result: list[Window] = []
    begin = 0
    while begin < len(layers):
        end = next((c for c in cuts if c >= begin + LAYERS), len(layers))
        stop = layers[end].place if end < len(layers) else len(walk.nodes)
        result.append(Window(layers[begin].place, stop, tuple(layers[begin:end])))
        if end == len(layers):
            break
        begin = next(c for c in cuts if c >= begin + LAYERS // 2)
    return result


def _passing(walk: Walk) -> np.ndarray:
    """Count by place the tensors made in front of it and read there or behind [nodes + 1]."""
    steps = np.zeros(len(walk.nodes) + 2, np.int64)
    for name, last in walk.last.items():
        if name not in walk.weights:
            steps[walk.made.get(name, -1) + 1] += 1
            steps[last + 1] -= 1
    return np.asarray(np.cumsum(steps)[:-1])
