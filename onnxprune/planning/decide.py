"""Decide what goes: score units, constrain, allocate, and replay until nothing conflicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from onnxprune.analysis.members import members
from onnxprune.analysis.replay import Conflict, Removal
from onnxprune.analysis.units import Units
from onnxprune.errors import OnnxPruneError
from onnxprune.model.collection import uncollected
from onnxprune.planning.allocate import RemovalSequence, by_ratio, by_target, measured_loss, norm_loss, ranked
from onnxprune.planning.constraints import Bundle, CandidateSet, Granularity, bundles, candidate_sets
from onnxprune.planning.cost_model import CostModel, SequenceCosts
from onnxprune.planning.criterion import ScoringInput, Slices, criterion_of
from onnxprune.planning.obs import Reader
from onnxprune.settings import PruneSettings

_START = {"finest": Granularity.ANY, "columns": Granularity.COLUMNS, "rows": Granularity.ROWS}


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
    """A removal whose replay holds, and the granularity on which every bundle ended."""

    removal: Removal
    granularities: Mapping[int, Granularity]
    bundles: tuple[Bundle, ...]
    clashes: tuple[Conflict, ...] = field(default=())


def scoring_input(units: Units, seed: int, readers: Iterable[Reader] = ()) -> ScoringInput:
    """Present the members of a model to a criterion, and what reads its units."""
    slices = (
        Slices(m.stored.name, m.units, m.view, m.is_weight, m.is_scale, m.role == "produces")
        for m in members(units)
    )
    groups = tuple(group.units for group in units.groups)
    return ScoringInput(units.count, groups, tuple(slices), tuple(readers), seed)


def score(units: Units, settings: PruneSettings, readers: Iterable[Reader] = ()) -> np.ndarray:
    """Score every unit by the criterion of the settings.

    readers: what reads the units, for criteria that need data.
    """
    criterion = criterion_of(settings.resolved_criterion)
    scores = criterion(scoring_input(units, settings.seed, readers if criterion.needs_data else ()))
    return _with_elements(units, scores)


def _with_elements(units: Units, scores: np.ndarray) -> np.ndarray:
    """Add to the score of a channel the mean score of what goes with it of computed weights."""
    rows = units.rows
    own = units.inner[rows.child]
    if not own.any():
        return scores
    parents = rows.parent[rows.row[own]]
    total = np.bincount(parents, weights=scores[rows.child[own]], minlength=units.count)
    return scores + total / np.maximum(np.bincount(parents, minlength=units.count), 1)


def criterion_warnings(units: Units, settings: PruneSettings) -> tuple[str, ...]:
    """Say of how many groups the criterion sees nothing, so that another one ranks their channels."""
    criterion = criterion_of(settings.resolved_criterion)
    if criterion.sees is None:
        return ()
    blind = criterion.unseen(scoring_input(units, settings.seed))
    leaves = [g for g in units.groups if g.level == 0]
    others = sum(bool(blind[g.units].all()) for g in leaves)
    if not others:
        return ()
    return (
        f"criterion {criterion.name}: {others} of {len(leaves)} groups have no {criterion.lacking}; "
        "l2 (weight norms) ranks their channels",
    )


@uncollected
def decide(units: Units, request: Request, scores: np.ndarray, banned: Iterable[int] = ()) -> Decision:
    """Find a removal that the replay accepts.

    banned: groups that must stay whole, by place in `found.groups`. Raises OnnxPruneError where the
    replay refuses the model as it is.
    """
    every = bundles(units)
    held = units.holding(frozenset(banned) | request.excluded)
    cache = CandidateCache(held, scores)
    granularities = {b.id: _first_rung(b, request.settings) for b in every}
    clashes: list[Conflict] = []
    while True:
        sequences = [sequence for b in every for sequence in cache.sequences(b, granularities)]
        sequences, chosen = _depths(held, sequences, request)
        removed = _guarded(held, sequences, chosen)
        removal = Removal.of(units, removed)
        conflicts = removal.replayed.conflicts
        if not conflicts:
            unfit = _idle(units, every, granularities, request, removed)
            unfit += _overdone(units, every, granularities, request, (sequences, chosen, removed))
            if not unfit:
                return Decision(removal, granularities, tuple(every), tuple(clashes))
            for bundle in unfit:
                granularities[bundle.id] = Granularity(granularities[bundle.id] + 1)
            continue
        clashes += conflicts
        if not removed.any():
            first = conflicts[0]
            raise OnnxPruneError(
                f"internal error: with nothing removed, node '{first.node}' clashes: {first.reason}"
            )
        stuck = _descend(units, every, granularities, conflicts, removed)
        if stuck:
            # Below whole rows there is nothing but to keep the groups that clash; the rest may go on.
            held = held.holding(stuck)
            cache = CandidateCache(held, scores)
            for bundle in every:
                if stuck & set(bundle.groups):
                    granularities[bundle.id] = _first_rung(bundle, request.settings)


def _first_rung(bundle: Bundle, settings: PruneSettings) -> Granularity:
    return _START[settings.granularity] if bundle.grids or bundle.parents else Granularity.ANY


def _idle(
    units: Units,
    every: list[Bundle],
    granularities: Mapping[int, Granularity],
    request: Request,
    removed: np.ndarray,
) -> list[Bundle]:
    """List the bundles at a constrained granularity that give nothing though they were asked to."""
    result = []
    for bundle in every:
        asked = any(request.ratios.get(g, 0.0) * len(units.groups[g].units) >= 1 for g in bundle.groups)
        whole = not any(removed[units.groups[g].units].any() for g in bundle.groups)
        if Granularity.ANY < granularities[bundle.id] < Granularity.NOTHING and asked and whole:
            result.append(bundle)
    return result


def _overdone(
    units: Units,
    every: list[Bundle],
    granularities: Mapping[int, Granularity],
    request: Request,
    taken: tuple[list[RemovalSequence], list[int], np.ndarray],
) -> list[Bundle]:
    """List the bundles that lose more than was asked: what was chosen empties a row, whose parent dies.

    At a coarser granularity every row gives its share, or goes with all that goes with it.
    """
    if request.limits or request.settings.resolved_scope != "local":
        return []
    sequences, chosen, removed = taken
    counts = np.zeros(len(units.groups), np.int64)
    for sequence, depth in zip(sequences, chosen, strict=True):
        np.add.at(counts, list(sequence.groups), sequence.taken[:depth].sum(axis=0))

    def over(group: int) -> bool:
        indices = units.groups[group].units
        asked = int(np.floor(request.ratios.get(group, 0.0) * len(indices) + 1e-9))
        return int(removed[indices].sum()) > max(asked, int(counts[group]))

    return [b for b in every if granularities[b.id] < Granularity.ROWS and any(over(g) for g in b.groups)]


class CandidateCache:
    """Candidate sequences of bundles at their granularities, each made once; one without any is left."""

    def __init__(self, units: Units, scores: np.ndarray) -> None:
        self.found, self.scores = units, scores
        self._made: dict[tuple[int, Granularity], list[RemovalSequence]] = {}

    def sequences(self, bundle: Bundle, granularities: dict[int, Granularity]) -> list[RemovalSequence]:
        """Return the sequences of a bundle, at a coarser granularity while a constrained one has none."""
        while True:
            granularity = granularities[bundle.id]
            if (bundle.id, granularity) not in self._made:
                listed = candidate_sets(self.found, bundle, granularity, self.scores)
                self._made[bundle.id, granularity] = [
                    _offer(self.found, m) for m in listed if m.atoms and m.groups
                ]
            made = self._made[bundle.id, granularity]
            if made or granularity in (Granularity.ANY, Granularity.NOTHING):
                return made
            granularities[bundle.id] = Granularity(granularity + 1)


def _descend(
    units: Units,
    every: list[Bundle],
    granularities: dict[int, Granularity],
    conflicts: list[Conflict],
    removed: np.ndarray,
) -> frozenset[int]:
    """Coarsen the bundles in conflict by one granularity; return the groups to hold: in conflict at the last.

    Only groups that lose something are held: those where the conflict is, else all of their bundle.
    """
    holder = {g: b for b in every for g in (*b.groups, *b.parents)}
    groups: set[int] = set()
    for conflict in conflicts:
        indices = np.unique(units.of[conflict.labels]) if conflict.labels.size else np.zeros(0, np.int64)
        groups |= {int(g) for g in np.unique(units.group_of_units[indices]) if g >= 0}
    hit = {holder[g].id for g in groups if granularities[holder[g].id] < Granularity.NOTHING}
    last = {b for b in hit if granularities[b] == Granularity.ROWS}
    losing = {g for b in every if b.id in last for g in b.groups if removed[units.groups[g].units].any()}
    stuck = frozenset(groups & losing or losing)
    if not hit:
        hit = {b for b, granularity in granularities.items() if granularity < Granularity.NOTHING}
    for bundle in hit:
        granularities[bundle] = Granularity(granularities[bundle] + 1)
    return stuck


def _offer(units: Units, candidates: CandidateSet) -> RemovalSequence:
    group_of = units.group_of_units
    taken = np.zeros((len(candidates.atoms), len(candidates.groups)), np.int64)
    if candidates.atoms:
        groups = group_of[np.concatenate(candidates.atoms)]
        atom = np.repeat(np.arange(len(candidates.atoms)), [len(a) for a in candidates.atoms])
        for place, g in enumerate(candidates.groups):
            taken[:, place] = np.bincount(atom[groups == g], minlength=len(candidates.atoms))
    pooled = group_of[candidates.pool]
    widths = np.asarray([int((pooled == g).sum()) for g in candidates.groups])
    return RemovalSequence(candidates.atoms, candidates.costs, candidates.groups, widths, taken)


def _depths(
    units: Units, sequences: list[RemovalSequence], request: Request
) -> tuple[list[RemovalSequence], list[int]]:
    step, least = request.step, request.settings.min_channels
    if not request.limits:
        if request.settings.resolved_scope == "global":
            return sequences, ranked(sequences, max(request.ratios.values(), default=0.0), step, least)
        return by_ratio(sequences, request.ratios, step, least)
    prices = CostModel(units, request.overhead, request.limits)
    if request.settings.resolved_scope == "local":
        return _common_ratio(units, sequences, request, prices)
    depths = [o.depths(step, least) for o in sequences]
    measured = criterion_of(request.settings.resolved_criterion).needs_data
    loss = measured_loss if measured else norm_loss
    return sequences, by_target(
        sequences, depths, request.limits, SequenceCosts(prices, sequences, depths), loss
    )


def _common_ratio(
    units: Units, sequences: list[RemovalSequence], request: Request, prices: CostModel
) -> tuple[list[RemovalSequence], list[int]]:
    """Find the smallest ratio, the same for every group, at which the limits hold."""
    low, high = 0.0, 1.0
    groups = {g for o in sequences for g in o.groups}
    best = by_ratio(sequences, dict.fromkeys(groups, 0.999), request.step, request.settings.min_channels)
    for _ in range(24):
        middle = (low + high) / 2
        trial = by_ratio(
            sequences, dict.fromkeys(groups, middle), request.step, request.settings.min_channels
        )
        going = {(i, j) for i, depth in enumerate(trial[1]) for j in range(depth)}
        effect = prices.effect(np.flatnonzero(_closed(units, trial[0], going)))
        prices.remove(effect)
        now = prices.quantities()
        prices.remove(-effect)
        if all(now[k] <= limit for k, limit in request.limits.items()):
            best, high = trial, middle
        else:
            low = middle
    return best


def _guarded(units: Units, sequences: list[RemovalSequence], chosen: list[int]) -> np.ndarray:
    """Close the removal, and give back the dearest atoms of every axis that it would empty."""
    going = {(i, j) for i, depth in enumerate(chosen) for j in range(depth)}
    while True:
        removed = _closed(units, sequences, going)
        empty = units.emptied(removed)
        if not len(empty):
            return removed
        mark = np.zeros(units.count, dtype=bool)
        mark[empty] = True
        culprits = [
            (float(sequences[i].costs[j]), i, j) for i, j in going if mark[sequences[i].atoms[j]].any()
        ]
        if culprits:
            going.discard(max(culprits)[1:])
        else:
            going = _without_cause(units, sequences, going, empty)


def _closed(units: Units, sequences: list[RemovalSequence], going: set[tuple[int, int]]) -> np.ndarray:
    removed = np.zeros(units.count, dtype=bool)
    if going:
        removed[np.concatenate([sequences[i].atoms[j] for i, j in going])] = True
    return units.rows.close(removed)


def _without_cause(
    units: Units, sequences: list[RemovalSequence], going: set[tuple[int, int]], empty: np.ndarray
) -> set[tuple[int, int]]:
    """Drop the offer whose removal empties an axis only through its closure."""
    for i in sorted({i for i, _ in going}):
        rest = {(k, j) for k, j in going if k != i}
        if not _closed(units, sequences, rest)[empty].all():
            return rest
    return set()
