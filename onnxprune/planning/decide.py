"""Decide what goes: score units, constrain, allocate, and replay until nothing conflicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from onnxprune.analysis.members import members
from onnxprune.analysis.replay import Conflict, Removal
from onnxprune.analysis.units import Units
from onnxprune.errors import OnnxPruneError
from onnxprune.model.collection import uncollected
from onnxprune.planning.allocate import RemovalSequence, by_ratio, measured_loss, norm_loss, ranked
from onnxprune.planning.constraints import Bundle, CandidateSet, Granularity, bundles, candidate_sets, row_pin
from onnxprune.planning.cost_model import CostModel
from onnxprune.planning.criterion import ScoringInput, Slices, criterion_of
from onnxprune.planning.living import LivingUnits, linked_by_rows
from onnxprune.planning.obs import Reader
from onnxprune.planning.reach import Reached, Widths, one_ratio, reached
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
    """A removal whose replay holds, and the granularity on which every bundle ended.

    reached: what the limits came to; None without any.
    """

    removal: Removal
    granularities: Mapping[int, Granularity]
    bundles: tuple[Bundle, ...]
    clashes: tuple[Conflict, ...] = field(default=())
    reached: Reached | None = None


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


def row_warnings(units: Units, decision: Decision, settings: PruneSettings) -> tuple[str, ...]:
    """Say which tensor forbids that whole rows go, where they were asked for and none may."""
    if _START[settings.granularity] != Granularity.ROWS:
        return ()
    said = []
    for bundle in decision.bundles:
        pin = row_pin(units, bundle) if bundle.grids or bundle.parents else None
        if pin is not None:
            names = ", ".join(f"g{units.groups[g].id} ({units.groups[g].name})" for g in bundle.groups)
            said.append(
                f"no whole rows of {names} may go: {pin.op} '{pin.node}' at '{pin.tensor}': {pin.reason}"
            )
    return tuple(said)


@uncollected
def decide(units: Units, request: Request, scores: np.ndarray, banned: Iterable[int] = ()) -> Decision:
    """Find a removal that the replay accepts.

    banned: groups that must stay whole, by place in `found.groups`. Raises OnnxPruneError where the
    replay refuses the model as it is.
    """
    every = bundles(units)
    held = units.holding(frozenset(banned) | request.excluded)
    cache = CandidateCache(held, scores, _START[request.settings.granularity])
    granularities = {b.id: cache.begun(b) for b in every}
    clashes: list[Conflict] = []
    while True:
        sequences = [sequence for b in every for sequence in cache.sequences(b, granularities)]
        allocation = _allocated(held, sequences, request)
        removed = _guarded(held, allocation.sequences, allocation.going)
        removal = Removal.of(units, removed)
        conflicts = removal.replayed.conflicts
        if not conflicts:
            unfit = _idle(units, every, granularities, request, removed)
            unfit += _overdone(units, every, granularities, request, (allocation, removed))
            if not unfit:
                return Decision(removal, granularities, tuple(every), tuple(clashes), allocation.reached)
            for bundle in unfit:
                granularities[bundle.id] = cache.after(bundle, granularities[bundle.id])
            continue
        clashes += conflicts
        if not removed.any():
            first = conflicts[0]
            raise OnnxPruneError(
                f"internal error: with nothing removed, node '{first.node}' clashes: {first.reason}"
            )
        stuck = _descend(cache, every, granularities, conflicts, removed)
        if stuck:
            # Below whole rows there is nothing but to keep the groups that clash; the rest may go on.
            held = held.holding(stuck)
            cache = cache.holding(held, every)
            for bundle in every:
                if stuck & set(bundle.groups):
                    granularities[bundle.id] = cache.begun(bundle)


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
    taken: tuple[_Allocation, np.ndarray],
) -> list[Bundle]:
    """List the bundles that lose more than was asked: what was chosen empties a row, whose parent dies.

    At a coarser granularity every row gives its share, or goes with all that goes with it.
    """
    if request.limits or request.settings.resolved_scope != "local":
        return []
    allocation, removed = taken
    counts = np.zeros(len(units.groups), np.int64)
    for i, depth in Counter(i for i, _ in allocation.going).items():
        sequence = allocation.sequences[i]
        counts[list(sequence.groups)] += sequence.taken[:depth].sum(axis=0)

    def over(group: int) -> bool:
        indices = units.groups[group].units
        asked = int(np.floor(request.ratios.get(group, 0.0) * len(indices) + 1e-9))
        return int(removed[indices].sum()) > max(asked, int(counts[group]))

    coarsest = (Granularity.ROWS, Granularity.NOTHING)
    return [b for b in every if granularities[b.id] not in coarsest and any(over(g) for g in b.groups)]


class CandidateCache:
    """Candidate sequences of bundles at their granularities, each made once; one without any is left.

    first: the granularity at which bundles with grids or parents begin.
    """

    def __init__(self, units: Units, scores: np.ndarray, first: Granularity = Granularity.ANY) -> None:
        self.found, self.scores, self.first = units, scores, first
        self._made: dict[tuple[int, Granularity], list[RemovalSequence]] = {}

    def sequences(self, bundle: Bundle, granularities: dict[int, Granularity]) -> list[RemovalSequence]:
        """Return the sequences of a bundle, at the next granularity while a constrained one has none."""
        while True:
            granularity = granularities[bundle.id]
            made = self._at(bundle, granularity)
            if made or granularity in (Granularity.ANY, Granularity.NOTHING):
                return made
            granularities[bundle.id] = self.after(bundle, granularity)

    def _at(self, bundle: Bundle, granularity: Granularity) -> list[RemovalSequence]:
        if (bundle.id, granularity) not in self._made:
            listed = candidate_sets(self.found, bundle, granularity, self.scores)
            made = [_offer(self.found, m) for m in listed if m.atoms and m.groups]
            self._made[bundle.id, granularity] = made
        return self._made[bundle.id, granularity]

    def begun(self, bundle: Bundle) -> Granularity:
        """Return the granularity at which a bundle begins."""
        return self.first if bundle.grids or bundle.parents else Granularity.ANY

    def after(self, bundle: Bundle, granularity: Granularity) -> Granularity:
        """Return the granularity to try next: where any unit may not go, the one of smaller steps first."""
        order = list(Granularity)
        constrained = bundle.grids or bundle.parents
        if self.first == Granularity.ANY and constrained and granularity < Granularity.NOTHING:
            steps = [self._largest_step(bundle, g) for g in (Granularity.EVEN, Granularity.ROWS)]
            if steps[1] < steps[0]:
                order.remove(Granularity.ROWS)
                order.insert(1, Granularity.ROWS)
        return order[order.index(granularity) + 1]

    def _largest_step(self, bundle: Bundle, granularity: Granularity) -> float:
        """Return the largest share of a group of the bundle that one step takes; 1 where none is offered."""
        shares = dict.fromkeys(bundle.groups, 1.0)
        for sequence in self._at(bundle, granularity):
            most = sequence.taken.max(axis=0) / np.maximum(sequence.widths, 1)
            for group, share in zip(sequence.groups, most.tolist(), strict=True):
                if group in shares and share > 0:
                    shares[group] = min(shares[group], share)
        return max(shares.values(), default=1.0)

    def holding(self, held: Units, every: Iterable[Bundle]) -> CandidateCache:
        """Return a cache for units of which more are held; what these do not concern is not made again."""
        result = CandidateCache(held, self.scores, self.first)
        linked = linked_by_rows(held)
        changed = np.unique(linked[held.pinned != self.found.pinned])
        for bundle in every:
            own = [held.groups[g].units for g in (*bundle.groups, *bundle.parents)]
            if not np.isin(linked[np.concatenate(own)], changed).any():
                result._made |= {key: made for key, made in self._made.items() if key[0] == bundle.id}
        return result


def _descend(
    cache: CandidateCache,
    every: list[Bundle],
    granularities: dict[int, Granularity],
    conflicts: list[Conflict],
    removed: np.ndarray,
) -> frozenset[int]:
    """Coarsen the bundles in conflict by one granularity; return the groups to hold: in conflict at the last.

    Only groups that lose something are held: those where the conflict is, else all of their bundle.
    """
    units = cache.found
    holder = {g: b for b in every for g in (*b.groups, *b.parents)}
    of = {b.id: b for b in every}
    groups: set[int] = set()
    for conflict in conflicts:
        indices = np.unique(units.of[conflict.labels]) if conflict.labels.size else np.zeros(0, np.int64)
        groups |= {int(g) for g in np.unique(units.group_of_units[indices]) if g >= 0}
    hit = {holder[g].id for g in groups if granularities[holder[g].id] < Granularity.NOTHING}
    last = {b for b in hit if cache.after(of[b], granularities[b]) == Granularity.NOTHING}
    losing = {g for b in every if b.id in last for g in b.groups if removed[units.groups[g].units].any()}
    stuck = frozenset(groups & losing or losing)
    if not hit:
        hit = {b for b, granularity in granularities.items() if granularity < Granularity.NOTHING}
    for bundle in hit:
        granularities[bundle] = cache.after(of[bundle], granularities[bundle])
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


Going: TypeAlias = frozenset[tuple[int, int]]  # a sequence and its atom


@dataclass(frozen=True)
class _Allocation:
    """Sequences, perhaps reordered, and what goes of them; reached: what the limits came to."""

    sequences: list[RemovalSequence]
    going: Going
    reached: Reached | None = None


def _allocated(units: Units, sequences: list[RemovalSequence], request: Request) -> _Allocation:
    step, least = request.step, request.settings.min_channels
    scope = request.settings.resolved_scope
    if not request.limits and scope == "global":
        chosen = ranked(sequences, max(request.ratios.values(), default=0.0), step, least)
        return _Allocation(sequences, _first(chosen))
    if not request.limits:
        sequences, chosen = by_ratio(sequences, request.ratios, step, least)
        return _Allocation(sequences, _first(chosen))
    prices, living = CostModel(units, request.overhead, request.limits), LivingUnits(units)
    widths = Widths(step, least, strict=request.settings.align != 0)
    if scope == "local":
        ordered, found = one_ratio(sequences, widths, request.limits, (prices, living))
        return _Allocation(ordered, found.going, found)
    measured = criterion_of(request.settings.resolved_criterion).needs_data
    loss = measured_loss if measured else norm_loss
    found = reached(prices, living, sequences, widths, request.limits, loss)
    return _Allocation(sequences, found.going, found)


def _first(chosen: Iterable[int]) -> Going:
    return frozenset((i, j) for i, depth in enumerate(chosen) for j in range(depth))


def _guarded(units: Units, sequences: list[RemovalSequence], chosen: Going) -> np.ndarray:
    """Close the removal, and give back the dearest atoms of every axis that it would empty."""
    going = set(chosen)
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
