"""Removals until amounts are at most their limits, and no further below than the smallest step allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxprune.planning.allocate import NARROW, Loss, RemovalSequence, by_ratio
from onnxprune.planning.cost_model import CostModel
from onnxprune.planning.living import LivingUnits
from onnxprune.planning.trial import TrialRemoval

NEAR = 0.005  # of the whole: so far below a limit no step is too large
EXCHANGED = 8  # steps of a sequence that may make room for steps of others
HALVINGS = 16  # of the ratio that all groups share
FAR = 0.02  # of the whole: further below it, one group leaves the width that alignment asks for


@dataclass(frozen=True)
class LargeStep:
    """The smallest step that may be put back, where putting it back would exceed a limit.

    group: place of the group; channels: how many of it; key: the target; share: of the whole, what the step
    takes; below: of the whole, how far below its limit the target ends.
    """

    group: int
    channels: int
    key: str
    share: float
    below: float


@dataclass(frozen=True)
class Reached:
    """What a search for limits came to.

    going: what goes, as places of a sequence and its atom; floor: the least that can be left, by name;
    exact_floor: the same with every width allowed; large: why less is left than asked, None where it is not;
    aligned: widths were held to multiples of a step.
    """

    going: frozenset[tuple[int, int]]
    floor: Mapping[str, float]
    exact_floor: Mapping[str, float]
    large: LargeStep | None = None
    aligned: bool = False


@dataclass(frozen=True)
class Widths:
    """Which widths may stay: multiples of a step, at least so many; strict: even where others come nearer."""

    step: int
    least: int
    strict: bool

    def depths(self, sequences: Sequence[RemovalSequence], step: int) -> list[np.ndarray]:
        """List for each sequence how many atoms may go when widths are multiples of a step."""
        return [sequence.depths(step, self.least) for sequence in sequences]

    @property
    def finer(self) -> tuple[int, ...]:
        """Return the steps to fall back to."""
        return () if self.strict else tuple(s for s in (NARROW, 1) if s < self.step)


def reached(
    prices: CostModel,
    living: LivingUnits,
    sequences: Sequence[RemovalSequence],
    widths: Widths,
    limits: Mapping[str, float],
    loss: Loss,
) -> Reached:
    """Remove until the limits hold, as `reach` does, and find the floor.

    Where alignment is not strict, finer widths are taken if the aligned ones miss a limit that these reach,
    or end further below than FAR. A limit below every floor is no reason to leave aligned widths.
    """
    allowance = Allowance.of(limits, prices)

    def begun(step: int) -> TrialRemoval:
        return TrialRemoval(prices, living, sequences, widths.depths(sequences, step))

    floors = {step: floor(begun(step)) for step in {widths.step, *widths.finer, 1}}
    within = [s for s in (widths.step, *widths.finer) if not allowance.missing(floors[s]).any()]
    trial = begun(widths.step)
    reach(trial, allowance, loss)
    for step in widths.finer if within else ():
        now = trial.amounts()
        if allowance.missing(now).any():
            trial = _at(trial, widths.depths(sequences, step))
            reach(trial, allowance, loss)
        elif allowance.below(now) > FAR:
            trial = refined(trial, widths.depths(sequences, step), allowance)
    trial = exchanged(trial, allowance, loss)
    lowest = floors[1] if within and not widths.strict else floors[widths.step]
    return finished(trial, allowance, (lowest, floors[1]), widths)


def finished(
    trial: TrialRemoval, allowance: Allowance, floors: tuple[np.ndarray, np.ndarray], widths: Widths
) -> Reached:
    """Tell what a trial came to. floors: at the widths that may stay, and at any."""
    missed = allowance.missing(now := trial.amounts()).any()
    large = None if missed else large_step(trial, allowance)
    named = [dict(zip(trial.prices.keys, np.minimum(lowest, now).tolist(), strict=True)) for lowest in floors]
    return Reached(frozenset(trial.going()), named[0], named[1], large, widths.strict and widths.step > 1)


def floor(trial: TrialRemoval) -> np.ndarray:
    """Return the amounts that are left when all goes that may; the trial ends with this."""
    whole = trial.at([np.unique(d[[0, -1]]) for d in trial.depths])
    for i in range(len(whole.sequences)):
        if whole.has_next(i):
            whole.take(i)
    return whole.amounts()


@dataclass
class Allowance:
    """Limits as arrays in the order of a cost model's keys; a key without a limit has none to exceed."""

    limits: np.ndarray
    whole: np.ndarray
    asked: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.asked = np.isfinite(self.limits)

    @staticmethod
    def of(limits: Mapping[str, float], prices: CostModel) -> Allowance:
        """Line the limits up with the amounts of a whole model."""
        prices.reset()
        values = np.asarray([limits.get(key, np.inf) for key in prices.keys])
        return Allowance(values, np.maximum(prices.amounts(), 1.0))

    def missing(self, amounts: np.ndarray) -> np.ndarray:
        """Tell which limits are exceeded."""
        return amounts > self.limits

    def below(self, amounts: np.ndarray) -> float:
        """Return by how much of the whole amounts are below the limit that is nearest to them."""
        return float(((self.limits - amounts) / self.whole)[self.asked].min(initial=np.inf))


def reach(trial: TrialRemoval, allowance: Allowance, loss: Loss, held: int | None = None) -> None:
    """Remove step by step until every amount is at most its limit, or nothing is left to remove.

    loss: what a step of a sequence costs, from one depth to another; held: a sequence that stays. The next
    step is the one that loses least per relative saving. One that would end further below the limits than
    NEAR waits until no other gets there. Prices are recomputed after every step. At the end each step without
    which the limits still hold is put back, the largest first.
    """
    count = len(trial.sequences)
    prices, savings = np.full(count, np.inf), np.zeros((count, len(allowance.limits)))
    stale, before = np.arange(count), np.zeros(len(allowance.limits), dtype=bool)
    while True:
        now = trial.amounts()
        missing = allowance.missing(now)
        if not missing.any():
            break
        if (missing != before).any():
            stale, before = np.arange(count), missing
        for i in stale.tolist():
            if i != held:
                prices[i], savings[i] = _priced(trial, i, missing, now, loss)
        best = _chosen(prices, now - savings, allowance, missing)
        if best is None:
            break
        stale = trial.take(best)
    put_back(trial, allowance)


def _priced(
    trial: TrialRemoval, sequence: int, missing: np.ndarray, now: np.ndarray, loss: Loss
) -> tuple[float, np.ndarray]:
    """Return the price of a sequence's next step, and what it saves; what went along with others is free."""
    nothing = np.zeros(len(now))
    while trial.has_next(sequence):
        saving = trial.saving(sequence)
        if saving is None:
            trial.take(sequence)
            continue
        saved = float((np.maximum(saving, 0.0) / np.maximum(now, 1.0))[missing].sum())
        lost = loss(trial.sequences[sequence], *trial.span(sequence))
        return (lost / saved if saved > 0 else np.inf), saving
    return np.inf, nothing


def _chosen(prices: np.ndarray, then: np.ndarray, allowance: Allowance, missing: np.ndarray) -> int | None:
    """Choose the cheapest step that does not overshoot; where all do, the one that does so least.

    then: what each step would leave. [sequences, keys]
    """
    if not np.isfinite(prices).any():
        return None
    beyond = ((allowance.limits - then) / allowance.whole)[:, missing].min(axis=1)
    done = ~(then > allowance.limits).any(axis=1)
    large = done & (beyond > NEAR)
    fitting = np.where(large, np.inf, prices)
    if np.isfinite(fitting).any():
        return int(np.argmin(fitting))
    return int(np.argmin(np.where(np.isfinite(prices), beyond, np.inf)))


def put_back(trial: TrialRemoval, allowance: Allowance) -> None:
    """Put back every step without which the limits still hold, the largest first, so that others fit too."""
    if allowance.missing(trial.amounts()).any():
        return
    while True:
        fitting = [(size, i) for i, size, fits in _last_steps(trial, allowance) if fits]
        if not fitting:
            return
        for _, i in sorted(fitting, reverse=True):
            while trial.place[i]:
                trial.give_back(i)
                if allowance.missing(trial.amounts()).any():
                    trial.take(i)
                    break


def _last_steps(trial: TrialRemoval, allowance: Allowance) -> list[tuple[int, float, bool]]:
    """List by sequence what share of the whole its last step takes, and whether the limits hold without."""
    result, now = [], trial.amounts()
    for i in range(len(trial.place)):
        if trial.place[i]:
            trial.give_back(i)
            then = trial.amounts()
            trial.take(i)
            size = float(((then - now) / allowance.whole)[allowance.asked].max())
            result.append((i, size, not allowance.missing(then).any()))
    return result


def large_step(trial: TrialRemoval, allowance: Allowance) -> LargeStep | None:
    """Find the smallest step that may be put back, where amounts are further below the limits than NEAR."""
    now = trial.amounts()
    below = allowance.below(now)
    if below <= NEAR:
        return None
    steps = [(size, i) for i, size, _ in _last_steps(trial, allowance) if size > 0]
    if not steps:
        return None
    size, i = min(steps)
    sequence, low = trial.sequences[i], trial.place[i] - 1
    taken = sequence.taken[trial.depths[i][low] : trial.depths[i][low + 1]].sum(axis=0)
    main = int(np.argmax(taken))
    tightest = np.argmin(np.where(allowance.asked, (allowance.limits - now) / allowance.whole, np.inf))
    return LargeStep(sequence.groups[main], int(taken[main]), trial.prices.keys[int(tightest)], size, below)


def refined(trial: TrialRemoval, finer: Sequence[np.ndarray], allowance: Allowance) -> TrialRemoval:
    """Go on from a trial at finer depths; one sequence leaves its width where this comes nearer.

    The sequences are tried in turn until one comes as near as NEAR.
    """
    fine = _at(trial, finer)
    best, chosen, most = allowance.below(fine.amounts()), 0, 0
    for i in range(len(fine.place)):
        steps = 0
        while fine.place[i] > 0:
            fine.give_back(i)
            if allowance.missing(fine.amounts()).any():
                fine.take(i)
                break
            steps += 1
        below = allowance.below(fine.amounts())
        if steps and below < best:
            best, chosen, most = below, i, steps
        if best <= NEAR:
            return fine
        for _ in range(steps):
            fine.take(i)
    for _ in range(most):
        fine.give_back(chosen)
    return fine


def exchanged(trial: TrialRemoval, allowance: Allowance, loss: Loss) -> TrialRemoval:
    """Where the limits are still far, put back last steps of a sequence and let steps of others go instead.

    Up to EXCHANGED steps are tried of each in turn, small ones first, until one comes nearer than FAR; else
    the nearest is returned.
    """
    best, places = allowance.below(trial.amounts()), list(trial.place)
    nearest = places
    order = sorted((size, i) for i, size, _ in _last_steps(trial, allowance)) if best > FAR else []
    for _, i in order:
        for fewer in range(1, min(EXCHANGED, places[i]) + 1):
            trial = _placed(trial, trial.depths, [p - fewer * (j == i) for j, p in enumerate(places)])
            reach(trial, allowance, loss, held=i)
            now = trial.amounts()
            if not allowance.missing(now).any() and allowance.below(now) < best:
                best, nearest = allowance.below(now), list(trial.place)
            if best <= FAR:
                return _placed(trial, trial.depths, nearest)
    return _placed(trial, trial.depths, nearest)


def _placed(trial: TrialRemoval, depths: Sequence[np.ndarray], places: Sequence[int]) -> TrialRemoval:
    """Begin again, and take so many steps of each sequence."""
    again = trial.at(depths)
    for i, place in enumerate(places):
        while again.place[i] < place:
            again.take(i)
    return again


def _at(trial: TrialRemoval, finer: Sequence[np.ndarray]) -> TrialRemoval:
    """Return the same removal at other depths, which hold those of the trial."""
    depths = [own[place] for own, place in zip(trial.depths, trial.place, strict=True)]
    return _placed(trial, finer, [int(np.searchsorted(f, d)) for f, d in zip(finer, depths, strict=True)])


def one_ratio(
    sequences: list[RemovalSequence],
    widths: Widths,
    limits: Mapping[str, float],
    model: tuple[CostModel, LivingUnits],
) -> tuple[list[RemovalSequence], Reached]:
    """Find the smallest ratio, the same for every group, at which the limits hold; put back what fits.

    Returns the sequences in another order. Where alignment is not strict, finer widths are tried until the
    limits are met and not far away.
    """
    prices, living = model
    allowance = Allowance.of(limits, prices)
    floors = {
        s: floor(TrialRemoval(prices, living, sequences, widths.depths(sequences, s)))
        for s in {widths.step, *widths.finer, 1}
    }
    trial = _at_one_ratio(sequences, widths, model, allowance)
    lowest = floors[widths.step]
    for step in widths.finer:
        now = trial.amounts()
        held = not allowance.missing(now).any()
        if (held and allowance.below(now) <= FAR) or (not held and allowance.missing(floors[1]).any()):
            break
        trial, lowest = _at_one_ratio(sequences, replace(widths, step=step), model, allowance), floors[1]
    found = finished(trial, allowance, (lowest, floors[1]), widths)
    return list(trial.sequences), found


def _at_one_ratio(
    sequences: list[RemovalSequence],
    widths: Widths,
    model: tuple[CostModel, LivingUnits],
    allowance: Allowance,
) -> TrialRemoval:
    groups = {g for o in sequences for g in o.groups}

    def at(ratio: float) -> TrialRemoval:
        ordered, chosen = by_ratio(sequences, dict.fromkeys(groups, ratio), widths.step, widths.least)
        trial = TrialRemoval(*model, ordered, widths.depths(ordered, widths.step))
        for i, depth in enumerate(chosen):
            while trial.depths[i][trial.place[i]] < depth:
                trial.take(i)
        return trial

    low, high = 0.0, 0.999
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if allowance.missing(at(middle).amounts()).any():
            low = middle
        else:
            high = middle
    trial = at(high)
    put_back(trial, allowance)
    return trial
