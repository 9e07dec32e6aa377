"""Rules and rewrites that are wrong on purpose, and who notices.

A mutant runs through trace, replay, rewrite and oracle as they are. What gets through is compared with the
unaltered engine removing the same elements of the stored tensors.

HOLE: it got through and an output changed. "wider": it got through where the unaltered replay refuses, so
there is nothing to compare with. These are mutants without the pin of an operator that selects by value
(ArgMax, TopK, Hardmax, a maximum over space) or by an index (GatherND, ScatterElements) and that never
selects what was removed on the inputs at hand, and of CumSum and LRN, where the channel at the end has
nothing behind it: masked or gone is the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
import onnx

from onnxprune.analysis.analyse import analyse
from onnxprune.analysis.replay import Removal, Replayed
from onnxprune.analysis.trace import trace
from onnxprune.analysis.units import Units, build_units
from onnxprune.model.mapped import light
from onnxprune.model.runtime import runtime_errors
from onnxprune.oracle.prove import FAILED, PROVED, WEAK, Case, Original, prove
from onnxprune.rewrite.apply import apply as rewritten
from onnxprune.rules import REGISTRY, Registry
from onnxprune.rules.registry import RuleFunction
from onnxprune.rules.signature import ARRIVING, INDEXED, Axes, Signature, Site, Verdict
from tests.laws.composing import owners
from tests.laws.counting import run_once
from tests.laws.label_law import removals

Mutation: TypeAlias = Callable[[Signature], Signature | None]
ORDER = ("HOLE", "wider", "oracle", "loading", "replay", "trace", "same")
HOLE, WIDER, ORACLE, LOADING, REPLAY, TRACE, SAME = ORDER
CRASHES = (ValueError, IndexError, KeyError, AssertionError, TypeError)


# -- altered signatures --------------------------------------------------------------------------------------
def _swap(axes: Axes, first: int, second: int) -> Axes:
    full = [i for i, axis in enumerate(axes) if axis]
    if len(full) < 2:
        return axes
    changed = list(axes)
    a, b = full[first], full[second]
    changed[a], changed[b] = changed[b], changed[a]
    return tuple(changed)


def _renamed(axes: Axes) -> tuple[Axes, str]:
    """Call the last subscript of the last axis "lost"; returns the subscript it was."""
    full = [i for i, axis in enumerate(axes) if axis]
    if not full:
        return axes, ""
    changed = list(axes)
    changed[full[-1]] = (*axes[full[-1]][:-1], "lost")
    return tuple(changed), axes[full[-1]][-1]


def _doubled(axes: Axes) -> Axes:
    full = [i for i, axis in enumerate(axes) if axis]
    changed = list(axes)
    if len(full) > 1:
        changed[full[1]] = axes[full[0]]
    return tuple(changed)


def _reversed(axes: Axes) -> Axes:
    return tuple(axis[::-1] for axis in axes)


def _on_input(place: int, change: Callable[[Axes], Axes]) -> Mutation:
    def mutate(sig: Signature) -> Signature | None:
        if place >= len(sig.inputs) or sig.inputs[place] is None:
            return None
        changed = [*sig.inputs]
        changed[place] = change(sig.inputs[place] or ())
        return None if changed[place] == sig.inputs[place] else replace(sig, inputs=tuple(changed))

    return mutate


def _on_output(place: int, change: Callable[[Axes], Axes]) -> Mutation:
    def mutate(sig: Signature) -> Signature | None:
        if place >= len(sig.outputs) or sig.outputs[place] is None:
            return None
        changed = [*sig.outputs]
        changed[place] = change(sig.outputs[place] or ())
        return None if changed[place] == sig.outputs[place] else replace(sig, outputs=tuple(changed))

    return mutate


def _losing(mutation: Callable[[Callable[[Axes], Axes]], Mutation]) -> Mutation:
    """Rename a subscript on one side only, with the size that it had."""

    def mutate(sig: Signature) -> Signature | None:
        old: list[str] = []

        def change(axes: Axes) -> Axes:
            changed, subscript = _renamed(axes)
            old.append(subscript)
            return changed

        found = mutation(change)(sig)
        sizes = {**sig.sizes, "lost": sig.sizes[old[0]]} if old and old[0] in sig.sizes else sig.sizes
        return found and replace(found, sizes=sizes)

    return mutate


def _placed(change: Callable[[np.ndarray], np.ndarray]) -> Mutation:
    def mutate(sig: Signature) -> Signature | None:
        placed = {k: replace(t, index=change(t.index)) for k, t in sig.placed.items()}
        return replace(sig, placed=placed) if placed else None

    return mutate


def _takes(change: Callable[[np.ndarray], np.ndarray]) -> Mutation:
    def mutate(sig: Signature) -> Signature | None:
        takes = {k: replace(t, index=change(t.index)) for k, t in sig.takes.items() if len(t.index) > 1}
        return replace(sig, takes={**sig.takes, **takes}) if takes else None

    return mutate


def _reordered(sig: Signature) -> Signature | None:
    other = {ARRIVING: INDEXED, INDEXED: ARRIVING}
    takes = {k: replace(t, order=other[t.order]) for k, t in sig.takes.items()}
    return replace(sig, takes=takes) if takes else None


def _emptied(**values: object) -> Mutation:
    """Set fields of a signature to these values."""

    def mutate(sig: Signature) -> Signature | None:
        if all(getattr(sig, key) == value for key, value in values.items()):
            return None
        return replace(sig, **values)  # type: ignore[arg-type]

    return mutate


def _neutral(sig: Signature) -> Signature | None:
    return None if sig.neutral is None else replace(sig, neutral=1.0 if sig.neutral != 1.0 else 0.0)


MUTATIONS: dict[str, Mutation] = {
    **{f"input {i}: first axes swapped": _on_input(i, lambda a: _swap(a, 0, 1)) for i in range(3)},
    **{f"input {i}: outer axes swapped": _on_input(i, lambda a: _swap(a, 0, -1)) for i in range(2)},
    **{f"input {i}: a letter lost": _losing(lambda c, i=i: _on_input(i, c)) for i in range(3)},
    **{f"input {i}: composite reversed": _on_input(i, _reversed) for i in range(3)},
    **{f"output {i}: last axes swapped": _on_output(i, lambda a: _swap(a, -2, -1)) for i in range(2)},
    "output 0: outer axes swapped": _on_output(0, lambda a: _swap(a, 0, -1)),
    "output 0: a letter lost": _losing(lambda c: _on_output(0, c)),
    "output 0: a letter twice": _on_output(0, _doubled),
    "output 0: composite reversed": _on_output(0, _reversed),
    "repair left out": _emptied(repair=None),
    "pins left out": _emptied(pins={}),
    "takes shifted by one": _takes(lambda index: np.roll(index, 1)),
    "takes reversed": _takes(lambda index: index[::-1]),
    "takes in another order": _reordered,
    "tied emptied": _emptied(tied=frozenset()),
    "together emptied": _emptied(together=()),
    "whole emptied": _emptied(whole={}),
    "fed back left out": _emptied(fed_back={}),
    "placed left out": _emptied(placed={}),
    "placed shifted by one": _placed(lambda index: np.roll(index, 1)),
    "placed next to it": _placed(lambda index: np.roll(np.arange(index.max() + 2), -1)[index]),
    "created emptied": _emptied(created=frozenset()),
    "normalised emptied": _emptied(normalised=frozenset()),
    "inner emptied": _emptied(inner=frozenset()),
    "neutral changed": _neutral,
    "neutral left out": _emptied(neutral=None),
    "counted left out": _emptied(counted=False),
    "counted": _emptied(counted=True),
}  # fmt: skip


def altered(rule: RuleFunction, mutation: Mutation, node: str | None) -> Registry:
    """The operator table with one rule altered; on one node only where its name is given."""
    registry = Registry()

    def wrong(site: Site) -> Verdict:
        verdict = rule(site)
        if isinstance(verdict, Signature) and node in (None, site.name):
            return mutation(verdict) or verdict
        return verdict

    for row in REGISTRY.table():
        function = wrong if row.apply is rule else row.apply
        registry.rule(row.op, domain=row.domain, since=row.since, facets=row.facets)(function)
    return registry


# -- the judge -----------------------------------------------------------------------------------------------
@dataclass
class Arena:
    """A model on which mutants are tried; `accepted` are removals that the engine carries out rightly."""

    model: onnx.ModelProto
    feeds: dict[str, np.ndarray]
    base: Units
    dtypes: dict[str, int]
    accepted: list[np.ndarray]
    judged: dict[bytes, tuple[str, onnx.ModelProto | None]] = field(default_factory=dict)

    @staticmethod
    def of(model: onnx.ModelProto, feeds: dict[str, np.ndarray], tries: int = 12) -> Arena:
        analysis = analyse(model, {name: array.shape for name, array in feeds.items()})
        arena = Arena(model, feeds, analysis.units, dict(analysis.dtypes), [])
        for removed in some(removals(arena.base, 6), tries):
            if arena.unaltered(removed)[0] == PROVED:
                arena.accepted.append(removed)
        return arena

    def units(self, registry: Registry) -> Units:
        return build_units(trace(self.base.traced.network, self.base.traced.shapes, registry))

    @cached_property
    def original(self) -> Original:
        """The model, which runs once on the inputs, however many mutants are judged."""
        return Original(light(self.model))

    def unaltered(self, removed: np.ndarray) -> tuple[str, onnx.ModelProto | None]:
        """The verdict on a removal by the engine as it is."""
        key = removed.tobytes()
        if key not in self.judged:
            self.judged[key] = self.verdict(self.base, removed)
        return self.judged[key]

    def verdict(
        self, units: Units, removed: np.ndarray, change: Callable[[Replayed], Replayed] | None = None
    ) -> tuple[str, onnx.ModelProto | None]:
        """Replay, rewrite and prove: "replay", LOADING, FAILED or PROVED, and the pruned model."""
        try:
            removal = Removal.of(units, removed)
            if removal.replayed.conflicts:
                return REPLAY, None
            altered = replace(removal, replayed=change(removal.replayed)) if change else removal
            pruned = rewritten(self.model, altered)
        except CRASHES:
            return LOADING, None
        case = Case("", removal, self.dtypes, self.feeds)
        try:
            status = prove((self.original, pruned), [case]).status
        except CRASHES:
            return LOADING, None
        return {PROVED: PROVED, WEAK: PROVED, FAILED: FAILED}.get(status, LOADING), pruned

    def try_rule(self, registry: Registry) -> Counter[str]:
        """Try an altered operator table on removals of its own and on those that are right."""
        try:
            mutant = self.units(registry)
        except CRASHES:
            return Counter([TRACE])
        try:
            tried = some(removals(mutant, 4), 8)
            tried += [transferred(self.base, removed, mutant) for removed in self.accepted[:6]]
            return Counter(self._judged(mutant, removed) for removed in tried if removed.any())
        except CRASHES:  # its subscripts do not fit the stored tensors: slicing fails as well
            return Counter([LOADING])

    def _judged(self, mutant: Units, removed: np.ndarray) -> str:
        back = transferred(mutant, removed, self.base)
        alike = elements(self.base, back) == elements(mutant, removed)
        right, wanted = self.unaltered(back)
        status, pruned = self.verdict(mutant, removed)
        if status in (REPLAY, LOADING, FAILED):
            noticed = {REPLAY: REPLAY, LOADING: LOADING, FAILED: ORACLE}[status]
            return noticed if (alike and right == PROVED) or (noticed == ORACLE and right != FAILED) else SAME
        if mutant.pinned[removed].any():
            return TRACE
        if right == PROVED and alike:
            assert pruned is not None
            assert wanted is not None
            return SAME if self.agree(pruned, wanted) else HOLE
        return WIDER if right == REPLAY else TRACE

    def agree(self, left: onnx.ModelProto, right: onnx.ModelProto) -> bool:
        """Tell whether two models compute the same; one that does not run agrees with none."""
        try:
            pairs = zip(
                run_once(left, self.feeds).values(), run_once(right, self.feeds).values(), strict=True
            )
        except runtime_errors():
            return False
        return all(
            a.shape == b.shape and np.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True) for a, b in pairs
        )

    def try_rewrites(self) -> Iterator[tuple[str, str]]:
        """Alter what the rewrite does, in every accepted removal; yields the change and who notices."""
        for removed in self.accepted:
            removal = Removal.of(self.base, removed)
            for name, change in rewrites(removal.replayed):
                status, pruned = self.verdict(self.base, removed, lambda _r, change=change: change)
                if status == PROVED:
                    assert pruned is not None
                    wanted = rewritten(self.model, removal)
                    yield name, SAME if self.agree(pruned, wanted) else HOLE
                else:
                    yield name, ORACLE if status == FAILED else status


def some(found: Iterator[np.ndarray], count: int) -> list[np.ndarray]:
    """At most this many, spread evenly."""
    every = list(found)
    places = np.unique(np.linspace(0, len(every) - 1, min(count, len(every))).astype(int))
    return [every[i] for i in places]


def elements(units: Units, removed: np.ndarray) -> dict[tuple[str, int], bytes]:
    """Which elements of every use of a stored tensor go."""
    gone: dict[tuple[str, int], np.ndarray] = {}
    for use, own in owners(units):
        gone[use] = gone.get(use, False) | removed[own]
    return {use: np.packbits(mask).tobytes() for use, mask in gone.items() if mask.any()}


def transferred(source: Units, removed: np.ndarray, target: Units) -> np.ndarray:
    """The units of another trace that lose all their elements of some stored tensor; closed."""
    gone: dict[tuple[str, int], np.ndarray] = {}
    for use, own in owners(source):
        gone[use] = gone.get(use, False) | removed[own]
    result = np.zeros(target.count, dtype=bool)
    for use, own in owners(target):
        if use in gone:
            total = np.bincount(own.ravel(), minlength=target.count)
            lost = np.bincount(own.ravel(), weights=gone[use].ravel(), minlength=target.count)
            result |= (total > 0) & (lost == total)
    return target.rows.close(result)


def rewrites(replayed: Replayed) -> Iterator[tuple[str, Replayed]]:
    """Swap two kept channels in a slice; leave out a slice, a fix, a factor."""
    for i, cut in enumerate(replayed.cuts):
        others = [*replayed.cuts[:i], *replayed.cuts[i + 1 :]]
        yield "a slice left out", replace(replayed, cuts=others)
        for j, (block, coords) in enumerate(cut.picks):
            last = next(iter(coords.values())).shape[-1]
            if last > 1:
                order = [*range(last - 2), last - 1, last - 2]
                swapped = {x: array[..., order] for x, array in coords.items()}
                picks = (*cut.picks[:j], (block, swapped), *cut.picks[j + 1 :])
                yield "two channels swapped", replace(replayed, cuts=[*others, replace(cut, picks=picks)])
    for key, name in (("fixes", "a fix left out"), ("rescales", "a factor left out")):
        every = getattr(replayed, key)
        for i in range(len(every)):
            yield name, replace(replayed, **{key: [*every[:i], *every[i + 1 :]]})
