"""Several steps instead of one: choose, remove and repair some, look again at the repaired model, go on.

Every step chooses among the channels of the original, whose graph stays; what changes is the values of its
weights: those that a step leaves are replaced by the repaired ones. So the last step's removal is a plan for
the original like any other, and nothing has to be composed. The repaired model is looked at through the
masked original of these weights, which computes what the pruned model computes, in the original's shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnxprune.analysis.analyse import Analysis, analyse
from onnxprune.analysis.replay import Cut, Removal, Replayed
from onnxprune.analysis.units import Units
from onnxprune.data.moments import Evidence, Gram
from onnxprune.errors import OnnxPruneError
from onnxprune.model.graph import Stored
from onnxprune.model.mapped import MappedModel
from onnxprune.oracle.masked import masked_original
from onnxprune.pipeline.resolve import evidence_of, scored
from onnxprune.planning.cost_model import CostModel
from onnxprune.planning.decide import Request
from onnxprune.recovery.context import values_of, with_values
from onnxprune.rewrite.apply import apply as rewritten
from onnxprune.rewrite.apply import shared_values, sliced


@dataclass(frozen=True)
class Stage:
    """Where a step begins: the original with the weights so far, importance by unit, and the evidence."""

    analysis: Analysis
    scores: np.ndarray
    evidence: Evidence

    def pruned(self, removed: np.ndarray) -> onnx.ModelProto:
        """Remove units from the original with the weights so far."""
        return rewritten(self.analysis.model, Removal.of(self.analysis.units, removed))

    def after(self, removal: Removal, repaired: onnx.ModelProto, request: Request) -> Stage:
        """Go on from a repaired model: take its weights over, and score what is left."""
        base, settings = self.analysis, request.settings
        model = with_values(base.model, _taken_over(base.units, removal.replayed, repaired))
        again = analyse(model, base.sizes, settings.input_values)
        if not np.array_equal(again.units.of, base.units.of):
            raise OnnxPruneError("internal error: the channels of the model are others after a repair")
        seen = Removal.of(again.units, removal.removed)
        masked = masked_original(MappedModel(model), seen, again.dtypes).model.model
        shown = replace(again, model=masked)
        evidence = _without(evidence_of(shown, self.evidence.data, settings), removal.removed)
        left = replace(shown, units=_left(again.units, removal.removed))
        scores = scored(left, evidence, settings)
        return Stage(again, np.where(removal.removed, 0.0, scores), evidence)


def scheduled(request: Request, units: Units, part: float) -> Request:
    """Return what to ask for after a part of the steps, from 0 to 1: kept shares fall geometrically."""
    whole = CostModel(units, request.overhead, request.limits).quantities()
    ratios = {g: 1.0 - (1.0 - ratio) ** part for g, ratio in request.ratios.items()}
    limits = {k: whole[k] * min(v / max(whole[k], 1.0), 1.0) ** part for k, v in request.limits.items()}
    return replace(request, ratios=ratios, limits=limits)


def _taken_over(units: Units, replayed: Replayed, repaired: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return the original's tensors with the repaired values where they are kept.

    A tensor of which several nodes keep other parts is several after the removal, and stays as it was.
    """
    cuts: dict[str, list[Cut]] = {}
    for cut in replayed.cuts:
        cuts.setdefault(cut.slot.stored.name, []).append(cut)
    traced, values = units.traced, values_of(repaired)
    result: dict[str, np.ndarray] = {}
    for name, stored in traced.network.stored.items():
        if name not in values or not stored.is_parameter:
            continue
        whole = np.array(stored.values)
        counted = np.arange(whole.size).reshape(whole.shape)
        if name in traced.shared:
            kept = [shared_values(traced, replayed, name, counted)]
        elif len(cuts.get(name, ())) not in (0, len(traced.network.uses[name])):
            continue
        else:
            kept = [_places(cut, counted) for cut in cuts.get(name, ())] or [counted]
        if all(np.array_equal(places, kept[0]) for places in kept) and kept[0].size == values[name].size:
            whole.flat[kept[0].ravel()] = values[name].ravel()
            result[name] = whole
    return result


def _places(cut: Cut, counted: np.ndarray) -> np.ndarray:
    """Return, for each element that a use keeps, its place in the original's tensor."""
    stored = Stored(cut.slot.stored.name, None, counted)
    return sliced(replace(cut, slot=replace(cut.slot, stored=stored)))


def _left(units: Units, removed: np.ndarray) -> Units:
    """Return the units with groups that hold only what is left: shares are of these."""
    return replace(units, groups=[replace(g, units=g.units[~removed[g.units]]) for g in units.groups])


def _without(evidence: Evidence, removed: np.ndarray) -> Evidence:
    """Return the evidence without removed places: what is gone says nothing of what is left."""
    parts = []
    for moments in evidence.parts:
        left = dict(moments)
        for consumer in evidence.readers:
            alive = ~removed[consumer.units]
            for view in consumer.views:
                gram = moments[view]
                second = gram.second * alive[:, :, None] * alive[:, None, :]
                left[view] = Gram(gram.count, gram.first * alive, second)
        parts.append(left)
    return replace(evidence, parts=tuple(parts))
