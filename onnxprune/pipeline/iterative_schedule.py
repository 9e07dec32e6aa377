"""Several steps instead of one: choose, remove and repair some, look again at the repaired model, go on.

Every step chooses among the channels of the original, whose graph stays; what changes is the values of its
weights: those that a step leaves are replaced by the repaired ones. So the last step's removal is a plan for
the original like any other, and nothing has to be composed. The repaired model is looked at through the
masked original of these weights, which computes what the pruned model computes, in the original's shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnxprune.analysis.analyse import Analysis, analyse
from onnxprune.analysis.replay import Cut, Replayed, replay
from onnxprune.analysis.units import Units
from onnxprune.data.consumers import ActivationView, Consumer, consumers
from onnxprune.data.moments import Gram, collect
from onnxprune.errors import OnnxPruneError
from onnxprune.model.graph import Stored
from onnxprune.model.mapped import MappedModel
from onnxprune.oracle.masked import masked_original
from onnxprune.pipeline.recover import Evidence, hashes, scored, values_of
from onnxprune.planning.cost_model import CostModel
from onnxprune.planning.decide import Request
from onnxprune.recovery.least_squares import with_values
from onnxprune.rewrite.apply import apply as rewritten
from onnxprune.rewrite.apply import sliced


@dataclass(frozen=True)
class Stage:
    """Where a step begins: the original with the weights so far, importance by unit, and the evidence."""

    analysis: Analysis
    scores: np.ndarray
    evidence: Evidence

    def pruned(self, removed: np.ndarray) -> onnx.ModelProto:
        """Remove units from the original with the weights so far."""
        units = self.analysis.units
        return rewritten(self.analysis.model, units.traced, replay(units.traced, units.alive(removed)))

    def after(
        self, removal: tuple[np.ndarray, Replayed], repaired: onnx.ModelProto, request: Request
    ) -> Stage:
        """Go on from a repaired model: take its weights over, and score what is left.

        removal: booleans by unit, and their replay.
        """
        removed, replayed = removal
        base, settings = self.analysis, request.settings
        model = with_values(base.model, _taken_over(base.units, replayed, repaired))
        again = analyse(model, base.sizes, settings.input_values)
        units = again.units
        if not np.array_equal(units.of, base.units.of):
            raise OnnxPruneError("internal error: the channels of the model are others after a repair")
        alive = units.alive(removed)
        seen = replay(units.traced, alive)
        masked = masked_original(MappedModel(model), units.traced, seen, alive, again.dtypes).model.model
        readers = tuple(consumers(units))
        grams = collect(masked, [c.view for c in readers], self.evidence.data.fit, settings.memory_limit)
        evidence = Evidence(self.evidence.data, readers, _without(readers, grams, removed))
        scores = scored(replace(again, model=masked, units=_left(units, removed)), evidence, settings)
        return Stage(again, np.where(removed, 0.0, scores), evidence)


def scheduled(request: Request, units: Units, part: float) -> Request:
    """Return what to ask for after a part of the steps, from 0 to 1: kept shares fall geometrically."""
    whole = CostModel(units, request.overhead, request.limits).quantities()
    ratios = {g: 1.0 - (1.0 - ratio) ** part for g, ratio in request.ratios.items()}
    limits = {k: whole[k] * min(v / max(whole[k], 1.0), 1.0) ** part for k, v in request.limits.items()}
    return replace(request, ratios=ratios, limits=limits)


def differing(plain: onnx.ModelProto, repaired: onnx.ModelProto) -> dict[str, str]:
    """Name the tensors whose values a repair changed, with the SHA-256 of the new ones."""
    before = hashes(plain)
    return {name: new for name, new in sorted(hashes(repaired).items()) if before.get(name) != new}


def _taken_over(units: Units, replayed: Replayed, repaired: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return the original's tensors with the repaired values where they are kept.

    Only tensors that one node reads: others may be several after the removal, and are not repaired.
    """
    cuts: dict[str, Cut] = {cut.slot.stored.name: cut for cut in replayed.cuts}
    network, values = units.traced.network, values_of(repaired)
    result: dict[str, np.ndarray] = {}
    for name, stored in network.stored.items():
        if name not in values or not stored.is_parameter or len(network.uses.get(name, ())) != 1:
            continue
        whole = np.array(stored.values)
        if name in cuts:
            whole.flat[_places(cuts[name]).ravel()] = values[name].ravel()
        elif whole.shape == values[name].shape:
            whole = values[name]
        result[name] = whole
    return result


def _places(cut: Cut) -> np.ndarray:
    """Return, for each element that a use keeps, its place in the original's tensor."""
    shape = cut.slot.stored.shape
    counted = Stored(cut.slot.stored.name, None, np.arange(int(np.prod(shape))).reshape(shape))
    return sliced(replace(cut, slot=replace(cut.slot, stored=counted)))


def _left(units: Units, removed: np.ndarray) -> Units:
    """Return the units with groups that hold only what is left: shares are of these."""
    return replace(units, groups=[replace(g, units=g.units[~removed[g.units]]) for g in units.groups])


def _without(
    readers: tuple[Consumer, ...], grams: Mapping[ActivationView, Gram], removed: np.ndarray
) -> dict[ActivationView, Gram]:
    """Return the moments without removed places: what is gone says nothing of what is left."""
    result = dict(grams)
    for consumer in readers:
        alive, gram = ~removed[consumer.units], grams[consumer.view]
        second = gram.second * alive[:, :, None] * alive[:, None, :]
        result[consumer.view] = Gram(gram.count, gram.first * alive, second)
    return result
