"""Decide what goes: score units, walk down the ladder, allocate, and replay until nothing clashes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from onnxprune.analysis.members import members
from onnxprune.analysis.replay import Conflict, Replayed, replay
from onnxprune.analysis.units import Units
from onnxprune.choices import DATA_CRITERIA
from onnxprune.errors import OnnxPruneError
from onnxprune.model.collection import uncollected
from onnxprune.planning.alignment import machine_step
from onnxprune.planning.allocate import Offer, by_ratio, by_target, measured_loss, norm_loss, ranked
from onnxprune.planning.constraints import Bundle, Menu, Rung, bundles, menus
from onnxprune.planning.cost_model import Market, Prices
from onnxprune.planning.criteria import Slices, importance, unseen
from onnxprune.settings import PruneSettings

_LACKING = {"bn-scale": "normalisation scale", "fpgm": "weight that makes their channels"}
_START = {"finest": Rung.ANY, "columns": Rung.COLUMNS, "rows": Rung.ROWS}


@dataclass(frozen=True)
class Request:
    """What to plan for, resolved against a model.

    ratios: share to remove, by group; limits: what may remain, in MACs, parameters and bytes.
    """

    ratios: Mapping[int, float]
    limits: Mapping[str, float]
    excluded: frozenset[int]
    step: int
    overhead: int
    settings: PruneSettings


@dataclass(frozen=True)
class Decision:
    """The units that go, the replay that holds, and the rung on which every bundle ended."""

    dead: np.ndarray
    replayed: Replayed
    rungs: Mapping[int, Rung]
    bundles: tuple[Bundle, ...]
    clashes: tuple[Conflict, ...] = field(default=())


def slices_of(found: Units) -> list[Slices]:
    """Present the members of a model to the scoring."""
    return [
        Slices(m.stored.name, m.units, m.view, m.is_weight, m.is_scale, m.role == "produces")
        for m in members(found)
    ]


def score(found: Units, settings: PruneSettings) -> np.ndarray:
    """Score every unit by a norm, the criterion of the settings."""
    return importance(settings.resolved_criterion, found.count, slices_of(found), settings.seed)


def criterion_warnings(found: Units, settings: PruneSettings) -> tuple[str, ...]:
    """Say of how many groups the criterion sees nothing, so that another one ranks their channels."""
    if settings.resolved_criterion not in _LACKING:
        return ()
    blind = unseen(settings.resolved_criterion, found.count, slices_of(found))
    leaves = [g for g in found.groups if g.level == 0]
    others = sum(bool(blind[g.units].all()) for g in leaves)
    if not others:
        return ()
    lacking = _LACKING[settings.resolved_criterion]
    return (
        f"criterion {settings.criterion}: {others} of {len(leaves)} groups have no {lacking}; "
        "l2 (weight norms) ranks their channels",
    )


def resolved_step(settings: PruneSettings) -> int:
    """Return the alignment in channels: the machine's where it is `auto`."""
    return settings.align or machine_step()


@uncollected
def decide(found: Units, request: Request, scores: np.ndarray, banned: Iterable[int] = ()) -> Decision:
    """Find a removal that the replay accepts.

    banned: groups that must stay whole, by place in `found.groups`. Raises OnnxPruneError where the
    replay refuses the model as it is.
    """
    every = bundles(found)
    held = found.holding(frozenset(banned) | request.excluded)
    kitchen = Kitchen(held, scores)
    rungs = {b.id: _first_rung(b, request.settings) for b in every}
    clashes: list[Conflict] = []
    while True:
        offers = [offer for b in every for offer in kitchen.offers(b, rungs)]
        offers, chosen = _depths(held, offers, request)
        dead = _guarded(held, offers, chosen)
        replayed = replay(found.traced, found.alive(dead))
        if not replayed.conflicts:
            unfit = _idle(found, every, rungs, request, dead)
            unfit += _overdone(found, every, rungs, request, (offers, chosen, dead))
            if not unfit:
                return Decision(dead, replayed, rungs, tuple(every), tuple(clashes))
            for bundle in unfit:
                rungs[bundle.id] = Rung(rungs[bundle.id] + 1)
            continue
        clashes += replayed.conflicts
        if not dead.any():
            first = replayed.conflicts[0]
            raise OnnxPruneError(
                f"internal error: with nothing removed, node '{first.node}' clashes: {first.reason}"
            )
        stuck = _descend(found, every, rungs, replayed.conflicts, dead)
        if stuck:
            # Below whole rows there is nothing but to keep the groups that clash; the rest may go on.
            held = held.holding(stuck)
            kitchen = Kitchen(held, scores)
            for bundle in every:
                if stuck & set(bundle.groups):
                    rungs[bundle.id] = _first_rung(bundle, request.settings)


def _first_rung(bundle: Bundle, settings: PruneSettings) -> Rung:
    return _START[settings.granularity] if bundle.grids or bundle.parents else Rung.ANY


def _idle(
    found: Units, every: list[Bundle], rungs: Mapping[int, Rung], request: Request, dead: np.ndarray
) -> list[Bundle]:
    """List the bundles at a constrained rung that give nothing though they were asked to."""
    result = []
    for bundle in every:
        asked = any(request.ratios.get(g, 0.0) * len(found.groups[g].units) >= 1 for g in bundle.groups)
        whole = not any(dead[found.groups[g].units].any() for g in bundle.groups)
        if Rung.ANY < rungs[bundle.id] < Rung.NOTHING and asked and whole:
            result.append(bundle)
    return result


def _overdone(
    found: Units,
    every: list[Bundle],
    rungs: Mapping[int, Rung],
    request: Request,
    removal: tuple[list[Offer], list[int], np.ndarray],
) -> list[Bundle]:
    """List the bundles that lose more than was asked: what was chosen empties a row, whose parent dies.

    On a lower rung every row gives its share, or goes with all that goes with it.
    """
    if request.limits or request.settings.resolved_scope != "local":
        return []
    offers, chosen, dead = removal
    taken = np.zeros(len(found.groups), np.int64)
    for offer, depth in zip(offers, chosen, strict=True):
        np.add.at(taken, list(offer.groups), offer.taken[:depth].sum(axis=0))

    def over(group: int) -> bool:
        units = found.groups[group].units
        asked = int(np.floor(request.ratios.get(group, 0.0) * len(units) + 1e-9))
        return int(dead[units].sum()) > max(asked, int(taken[group]))

    return [b for b in every if rungs[b.id] < Rung.ROWS and any(over(g) for g in b.groups)]


class Kitchen:
    """Makes the offers of bundles at their rungs, each once; a rung with nothing to offer is left."""

    def __init__(self, found: Units, scores: np.ndarray) -> None:
        self.found, self.scores = found, scores
        self._made: dict[tuple[int, Rung], list[Offer]] = {}

    def offers(self, bundle: Bundle, rungs: dict[int, Rung]) -> list[Offer]:
        """Return what a bundle offers, going down while a constrained rung offers nothing."""
        while True:
            rung = rungs[bundle.id]
            if (bundle.id, rung) not in self._made:
                listed = menus(self.found, bundle, rung, self.scores)
                self._made[bundle.id, rung] = [_offer(self.found, m) for m in listed if m.atoms and m.groups]
            made = self._made[bundle.id, rung]
            if made or rung in (Rung.ANY, Rung.NOTHING):
                return made
            rungs[bundle.id] = Rung(rung + 1)


def _descend(
    found: Units, every: list[Bundle], rungs: dict[int, Rung], conflicts: list[Conflict], dead: np.ndarray
) -> frozenset[int]:
    """Move the bundles that clash one rung down; return the groups to hold that clash on the last rung.

    Only groups that lose something are held: those where the conflict is, else all of their bundle.
    """
    holder = {g: b for b in every for g in (*b.groups, *b.parents)}
    groups: set[int] = set()
    for conflict in conflicts:
        units = np.unique(found.of[conflict.labels]) if conflict.labels.size else np.zeros(0, np.int64)
        groups |= {int(g) for g in np.unique(found.group_of_units[units]) if g >= 0}
    hit = {holder[g].id for g in groups if rungs[holder[g].id] < Rung.NOTHING}
    last = {b for b in hit if rungs[b] == Rung.ROWS}
    losing = {g for b in every if b.id in last for g in b.groups if dead[found.groups[g].units].any()}
    stuck = frozenset(groups & losing or losing)
    if not hit:
        hit = {b for b, rung in rungs.items() if rung < Rung.NOTHING}
    for bundle in hit:
        rungs[bundle] = Rung(rungs[bundle] + 1)
    return stuck


def _offer(found: Units, menu: Menu) -> Offer:
    group_of = found.group_of_units
    taken = np.zeros((len(menu.atoms), len(menu.groups)), np.int64)
    if menu.atoms:
        groups = group_of[np.concatenate(menu.atoms)]
        atom = np.repeat(np.arange(len(menu.atoms)), [len(a) for a in menu.atoms])
        for place, g in enumerate(menu.groups):
            taken[:, place] = np.bincount(atom[groups == g], minlength=len(menu.atoms))
    pooled = group_of[menu.pool]
    widths = np.asarray([int((pooled == g).sum()) for g in menu.groups])
    return Offer(menu.atoms, menu.costs, menu.groups, widths, taken)


def _depths(found: Units, offers: list[Offer], request: Request) -> tuple[list[Offer], list[int]]:
    step, least = request.step, request.settings.min_channels
    if not request.limits:
        if request.settings.resolved_scope == "global":
            return offers, ranked(offers, max(request.ratios.values(), default=0.0), step, least)
        return by_ratio(offers, request.ratios, step, least)
    prices = Prices(found, request.overhead)
    if request.settings.resolved_scope == "local":
        return _common_ratio(found, offers, request, prices)
    depths = [o.depths(step, least) for o in offers]
    loss = measured_loss if request.settings.resolved_criterion in DATA_CRITERIA else norm_loss
    return offers, by_target(offers, depths, request.limits, Market(prices, offers, depths), loss)


def _common_ratio(
    found: Units, offers: list[Offer], request: Request, prices: Prices
) -> tuple[list[Offer], list[int]]:
    """Find the smallest ratio, the same for every group, at which the limits hold."""
    low, high = 0.0, 1.0
    groups = {g for o in offers for g in o.groups}
    best = by_ratio(offers, dict.fromkeys(groups, 0.999), request.step, request.settings.min_channels)
    for _ in range(24):
        middle = (low + high) / 2
        trial = by_ratio(offers, dict.fromkeys(groups, middle), request.step, request.settings.min_channels)
        going = {(i, j) for i, depth in enumerate(trial[1]) for j in range(depth)}
        effect = prices.effect(np.flatnonzero(_closed(found, trial[0], going)))
        prices.remove(effect)
        now = prices.quantities()
        prices.remove(-effect)
        if all(now[k] <= limit for k, limit in request.limits.items()):
            best, high = trial, middle
        else:
            low = middle
    return best


def _guarded(found: Units, offers: list[Offer], chosen: list[int]) -> np.ndarray:
    """Close the removal, and give back the dearest atoms of every axis that it would empty."""
    going = {(i, j) for i, depth in enumerate(chosen) for j in range(depth)}
    while True:
        dead = _closed(found, offers, going)
        empty = found.emptied(dead)
        if not len(empty):
            return dead
        mark = np.zeros(found.count, dtype=bool)
        mark[empty] = True
        culprits = [(float(offers[i].costs[j]), i, j) for i, j in going if mark[offers[i].atoms[j]].any()]
        if culprits:
            going.discard(max(culprits)[1:])
        else:
            going = _without_cause(found, offers, going, empty)


def _closed(found: Units, offers: list[Offer], going: set[tuple[int, int]]) -> np.ndarray:
    dead = np.zeros(found.count, dtype=bool)
    if going:
        dead[np.concatenate([offers[i].atoms[j] for i, j in going])] = True
    return found.rows.close(dead)


def _without_cause(
    found: Units, offers: list[Offer], going: set[tuple[int, int]], empty: np.ndarray
) -> set[tuple[int, int]]:
    """Drop the offer whose removal empties an axis only through its closure."""
    for i in sorted({i for i, _ in going}):
        rest = {(k, j) for k, j in going if k != i}
        if not _closed(found, offers, rest)[empty].all():
            return rest
    return set()
