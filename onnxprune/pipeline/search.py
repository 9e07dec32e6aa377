"""The smallest model that is still good enough: bisection over the MACs that may remain."""

from __future__ import annotations

from dataclasses import replace

from onnxprune.analysis.cost import macs
from onnxprune.data.read import Validation
from onnxprune.errors import NothingToPrune
from onnxprune.evaluation.validation import Judge, answers_in
from onnxprune.pipeline.attempt import Candidate, RunContext
from onnxprune.planning.target import QualityData, quality_of
from onnxprune.reports.data import Trial

TRIALS = 8
NEAR = 0.01  # of all MACs; bounds closer than this are one


def searched(context: RunContext, judged: Judge | None) -> Candidate:
    """Find the removal of most MACs at which the qualities hold, measured after the repair.

    Each trial is a whole run from the same scores: select, remove, prove, repair, measure. judged: the
    validation data, else what is held out of the calibration data judges. Where no trial holds the one of
    most MACs is returned: it missed its targets. Raises NothingToPrune where no trial could be made.
    """
    limits, judges = context.request.settings.sought, _judges(context, judged)
    whole = macs(context.analysis.units.traced)
    low, high = 0.0, 1.0
    best: Candidate | None = None
    mildest, most = None, -1.0
    trials: list[Trial] = []
    while len(trials) < TRIALS and high - low > NEAR:
        asked = (low + high) / 2
        candidate = context.carried_out({"macs": asked * whole})
        share = macs(context.analysis.units.traced, candidate.removal.replayed.sizes) / max(whole, 1)
        reached = {key: judge(candidate.model).drop for key, judge in judges.items()}
        context.watch.lap("measure")
        holds = all(reached[k] <= limits[k] for k in limits)
        trials.append(Trial({"asked": asked, "macs_share": share, **reached, "holds": holds}))
        if trials[-1].holds:
            best, high = replace(candidate, reached=reached), min(high, share)
        else:
            low = max(asked, share)
            if share > most:
                mildest, most = replace(candidate, reached=reached), share
        if share > asked:  # there is nothing more to remove
            low = max(low, share)
    found = best or mildest
    if found is None:
        raise NothingToPrune("nothing to prune: there is nothing to search between all MACs and none")
    return replace(found, trials=tuple(trials))


def _judges(context: RunContext, judged: Judge | None) -> dict[str, Judge]:
    """Return what measures each quality that is sought."""
    held = None
    if judged is None and context.repairs is not None:
        known = context.repairs.reference
        held = Validation(context.repairs.data.judge), answers_in(known.outputs())
    data = QualityData(judged, held)
    return {key: quality_of(key).judge(data) for key in context.request.settings.sought}
