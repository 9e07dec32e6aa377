"""Losses measured again where the plan stands, so that channels go from where they cost least there.

`probing` measures each group alone in the original. With many groups cut at once they weigh differently: each
round gives every group the last channels back that it loses, or takes the next ones where it loses none, and
scales its losses by what that changes of the squared drift. All of it behind channel-level least squares.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxprune.analysis.units import Group
from onnxprune.planner import Decision, Request, decide
from onnxprune.probing import Probe
from onnxprune.progress import Steps, unseen

ROUNDS = 3
PART = 8  # a group is measured by an eighth of its channels
FARTHEST = 5.0  # how far from the usual a group's scale is believed to be


def rebalanced(
    request: Request, first: Decision, probe: Probe, judge: Probe, progress: Steps = unseen
) -> np.ndarray | None:
    """Return losses [units] whose plan drifts less than the first; None where no round finds any.

    first: of losses that compare between groups; probe, judge: on inputs to fit with and held out.
    """
    found, best = probe.found, None
    scores, dead = first.scores, first.dead
    least = judge.drift(dead)
    if least is None or not np.isfinite(least):
        return None
    for number in range(ROUNDS):
        scales = dict(_scales(probe, scores, dead))
        usual = float(np.median(list(scales.values()))) if scales else 0.0
        if usual <= 0:
            break
        scores = scores.copy()
        for group, scale in scales.items():
            # Only half of the way, on a logarithmic scale: the groups move together.
            scores[found.groups[group].units] *= np.sqrt(np.clip(scale / usual, 1 / FARTHEST, FARTHEST))
        dead = decide(found, request, scores).dead
        drift = judge.drift(dead)
        if drift is not None and drift < least:
            best, least = scores, drift
        progress(number + 1, ROUNDS)
    return best


def _scales(probe: Probe, scores: np.ndarray, dead: np.ndarray) -> Iterator[tuple[int, float]]:
    """Yield for each group by how much its losses fall short of the squared drift that they cause."""
    base = probe.drift(dead)
    if base is None:
        return
    for group in (g for g in probe.found.groups if g.level == 0):
        turned = _turned(probe, group, scores, dead)
        if not len(turned):
            continue
        other = dead.copy()
        other[turned] = ~other[turned]
        drift = probe.drift(probe.found.rows.close(other))
        told = float(scores[turned].sum())
        if drift is not None and np.isfinite(drift) and told > 0:
            gained = base**2 - drift**2
            yield group.id, max(gained if dead[turned[0]] else -gained, 0.0) / told


def _turned(probe: Probe, group: Group, scores: np.ndarray, dead: np.ndarray) -> np.ndarray:
    """Choose the dearest units that go, or the cheapest that stay where none goes."""
    ordered = probe.cheapest_first(group, scores)
    count = max(1, len(group.units) // PART)
    gone = ordered[dead[ordered]]
    return gone[-count:] if len(gone) else ordered[: min(count, len(group.units) - 1)]
