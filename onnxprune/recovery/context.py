"""What a recovery method works with: the original, its values, and how much of them fits in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from onnxprune.analysis.replay import Removal
from onnxprune.analysis.replay_state import selected
from onnxprune.data.images import mirrored
from onnxprune.data.moments import Evidence
from onnxprune.data.read import Calibration, Feeds
from onnxprune.model.graph import held_tensor
from onnxprune.model.tensors import raw_bytes
from onnxprune.progress import Steps, unseen
from onnxprune.recovery.regression import linears
from onnxprune.recovery.walk import Walk
from onnxprune.recovery.windows import Window

LIMIT = 2 << 30


@dataclass(frozen=True)
class RecoveryContext:
    """A removal, and what there is to repair it with.

    original: the unpruned model. data: inputs to fit to and to judge by, as many as there is room for where
    the method keeps activations of them. evidence: consumers and moments, of all inputs. room: what one
    batch takes between layers, None for methods that keep nothing. limit: bytes that may be used.
    """

    original: onnx.ModelProto
    removal: Removal
    data: Calibration
    evidence: Evidence
    room: ActivationBudget | None = None
    limit: int = LIMIT
    progress: Steps = unseen

    def mirrored(self) -> Sequence[Feeds]:
        """Mirror the images among the inputs to fit with; none where there are none, or no room for them."""
        fit = self.data.fit
        if self.room is None or not self.room.holds(len(self.data.batches) + len(fit)):
            return ()
        return mirrored(fit)


FEWEST = 2  # batches: one to fit with, one to judge with


@dataclass(frozen=True)
class ActivationBudget:
    """Bytes that one batch takes, and bytes that there are."""

    each: int
    limit: int

    def holds(self, batches: int) -> bool:
        """Tell whether so many batches fit."""
        return batches * self.each <= self.limit

    def thinned(self, data: Calibration) -> Calibration:
        """Return as many batches as fit, evenly chosen."""
        return data.thinned(max(self.limit // self.each, FEWEST))


def activation_budget(
    model: onnx.ModelProto, batches: Sequence[Mapping[str, np.ndarray]], limit: int
) -> ActivationBudget:
    """Run a model on the largest batch to learn what is kept of it between its layers, at most.

    The pruned network keeps no more than that, and nor does a window of what it is to make. Raises
    UsageError where the model does not run.
    """
    largest = max(batches, key=lambda batch: sum(values.nbytes for values in batch.values()))
    walk, most = Walk(model, [largest]), 1
    for layer in linears(walk):
        for place in (layer.place, layer.place + 1):
            walk.until(place)
            most = max(most, walk.size)
    return ActivationBudget(3 * most, limit)


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

    def onward(self, names: Sequence[str]) -> Iterator[dict[str, np.ndarray]] | None:
        """Yield by batch what tensors are to be, now or later; None where one is not there."""
        walk = self.walk
        later = [n for n in names if walk.made.get(n, -1) >= walk.at]
        if any(n not in later and not self.has(n) for n in names):
            return None
        place = max([walk.made[n] + 1 for n in later], default=walk.at)
        found = walk.onward(place, later) if later else ({} for _ in walk.values)
        return (
            {n: self._kept(n, made[n] if n in made else values[n]) for n in names}
            for made, values in zip(found, walk.values, strict=True)
        )

    def _kept(self, name: str, values: np.ndarray) -> np.ndarray:
        labelled = self.removal.traced.tensors.get(name)
        kept = self.removal.replayed.tensors.get(name)
        return values if labelled is None or kept is None else selected(values, labelled, kept)


FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)


def stored_tensors(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Return the initializers of a model and the tensors of its Constant nodes; they are not copies."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        held = held_tensor(node)
        if held is not None:
            stored[node.output[0]] = held
    return stored


def values_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return the values of all stored tensors of floats, by name."""
    stored = stored_tensors(model)
    return {n: numpy_helper.to_array(t) for n, t in stored.items() if t.data_type in FLOATS}


def hashes(model: onnx.ModelProto) -> dict[str, str]:
    """Return the SHA-256 of the values of all stored tensors, by name."""
    return {n: hashlib.sha256(bytes(raw_bytes(t))).hexdigest() for n, t in stored_tensors(model).items()}


def changed(before: onnx.ModelProto, after: onnx.ModelProto) -> dict[str, str]:
    """Name the tensors whose values differ between two models, with the SHA-256 of the later ones."""
    old = hashes(before)
    return {name: new for name, new in sorted(hashes(after).items()) if old.get(name) != new}


def with_values(model: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Return a copy of a model in which stored tensors have other values of the same shape."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    stored = stored_tensors(copy)
    for name in values.keys() & stored.keys():
        held = stored[name]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(held.data_type)
        own = np.asarray(values[name], order="C").astype(dtype)
        held.CopyFrom(numpy_helper.from_array(own, held.name))
    return copy
