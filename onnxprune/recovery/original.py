"""The unpruned network while it runs beside the pruned one, and what is kept of its values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.analysis.replay import Removal
from onnxprune.analysis.replay_state import selected
from onnxprune.recovery.walk import Walk
from onnxprune.recovery.windows import Window


@dataclass(frozen=True)
class Original:
    """A walk of the unpruned network, and what the pruned one keeps."""

    walk: Walk
    removal: Removal

    def has(self, name: str) -> bool:
        """Tell whether a tensor is there at the moment."""
        return name in self.walk.values[0]

    def now(self, name: str) -> Iterator[np.ndarray]:
        """Yield by batch what a tensor is to be."""
        for batch in self.walk.values:
            yield self._kept(name, batch[name])

    def follow(self, walk: Walk, window: Window) -> None:
        """Run as far as nothing that a window of the pruned network makes is lost."""
        names = [name for node in walk.nodes[window.start : window.stop] for name in node.output]
        self.walk.until(min([self.walk.made[n] for n in names if n in self.walk.made], default=0))

    def ahead(self, names: Sequence[str], numbers: Sequence[int]) -> list[dict[str, np.ndarray]] | None:
        """Return what tensors are to be in some batches, now or later; None where one is not there."""
        walk = self.walk
        later = [n for n in names if walk.made.get(n, -1) >= walk.at]
        if any(n not in later and not self.has(n) for n in names):
            return None
        place = max([walk.made[n] + 1 for n in later], default=walk.at)
        found = walk.ahead(place, later, numbers) if later else [{} for _ in numbers]
        return [
            {n: self._kept(n, values[n] if n in values else walk.values[i][n]) for n in names}
            for i, values in zip(numbers, found, strict=True)
        ]

    def _kept(self, name: str, values: np.ndarray) -> np.ndarray:
        labelled = self.removal.traced.tensors.get(name)
        kept = self.removal.replayed.tensors.get(name)
        return values if labelled is None or kept is None else selected(values, labelled, kept)
