"""Cases for the oracle: seeds, batch sizes and dynamic sizes at which the original runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import onnx

from onnxprune.analysis.analyse import Analysis
from onnxprune.analysis.replay import Conflict, Removal, Rescale, replay
from onnxprune.analysis.trace import Trace, trace
from onnxprune.analysis.units import Units, build_units
from onnxprune.analysis.varying import Varying
from onnxprune.errors import UnprovedError, UsageError
from onnxprune.model.feeds import feeds_for, find_feeds
from onnxprune.model.graph import Network, ValueInfo, input_specs
from onnxprune.model.runtime import runtime_errors
from onnxprune.model.shapes import ShapeReader
from onnxprune.model.sizes import Sizes, far_sizes
from onnxprune.model.upcast import runnable, upcast_to_fp32, wide_dtypes
from onnxprune.oracle.prove import (
    FAILED,
    PROVED,
    UNPROVED,
    WEAK,
    Case,
    Difference,
    Original,
    Proof,
    prove,
)
from onnxprune.oracle.sizes import LIMIT, Ran, SizeSearch, bytes_of
from onnxprune.progress import Steps, unseen
from onnxprune.rewrite.apply import factors


@dataclass(frozen=True, eq=False)
class Sized:
    """The network at other input sizes than the analysis read it at; found once, when it is asked for."""

    network: Network
    varying: Varying
    find: Callable[[], Mapping[str, ValueInfo]]

    @cached_property
    def info(self) -> Mapping[str, ValueInfo]:
        """Return shape and type by tensor name."""
        return self.find()

    @cached_property
    def traced(self) -> Trace:
        """Return the trace at these sizes."""
        shapes = {name: value.shape for name, value in self.info.items()}
        return trace(self.network, shapes, varying=self.varying)

    @cached_property
    def units(self) -> Units:
        """Return the units at these sizes."""
        return build_units(self.traced)


@dataclass(frozen=True, eq=False)
class Cases:
    """Inputs to prove with; `reason` says why there are none, `wide` that they are for a copy in fp32.

    original: what runs; others: the network at the sizes of the inputs after the first; far: at sizes far
    from those that are run.
    """

    feeds: tuple[dict[str, np.ndarray], ...]
    reason: str = ""
    wide: bool = False
    original: Original | None = None
    others: tuple[Sized, ...] = ()
    far: Sized | None = None


def cases(analysis: Analysis, shapes: Mapping[str, Any], values: Mapping[str, Any], seed: int) -> Cases:
    """Find inputs of several sizes on which the original runs.

    Raises UsageError where none runs, and for a seed below zero.
    """
    if seed < 0:
        raise UsageError(f"seed must be at least 0: got {seed}")
    reader = analysis.reader
    try:
        model, wide = runnable(analysis.model)
        if wide and reader.source is analysis.model:
            reader = ShapeReader(model)
        reader.expose()
        base = analysis.feeds or find_feeds(reader.model, shapes or analysis.sizes, values, seed, reader.run)
    except UnprovedError as error:
        return Cases((), str(error))
    original, found, infos = Original(reader.model), [base], []
    failures: tuple[type[Exception], ...] = (UsageError, *runtime_errors())
    with suppress(*failures):  # a proof that needs the outputs says what is wrong with them
        made = reader.run(base)
        original.know(base, {name: made[name] for name in reader.outputs})

    limit = max(LIMIT, 2 * bytes_of(analysis.units.traced.shapes))

    def attempt(sizes: Sizes) -> Ran | None:
        try:
            info = reader.infer(sizes)
            if bytes_of({name: value.shape for name, value in info.items()}) > limit:
                return None
            feeds = feeds_for(model, sizes, values, seed + 1, like=base)
            return feeds, reader.complete(info, feeds, reader.outputs)
        except failures:
            return None

    search = SizeSearch(input_specs(analysis.model), {n: a.shape for n, a in base.items()}, attempt)
    for feeds, info in search.found(set(shapes)):
        found.append(feeds)
        infos.append(info)
    reader.close()
    return replace(_sized(analysis, found, infos, reader), wide=wide, original=original)


def cases_of(analysis: Analysis, feeds: Sequence[dict[str, np.ndarray]]) -> Cases:
    """Return cases of given inputs, the first of the sizes of the analysis, on the model as it is."""
    reader = analysis.reader
    infos = [reader.all(fed) for fed in feeds[1:]]
    return replace(_sized(analysis, feeds, infos, reader), original=Original(reader.model))


def _sized(
    analysis: Analysis, feeds: Sequence[dict[str, np.ndarray]], infos: Sequence[Mapping[str, ValueInfo]],
    reader: ShapeReader,
) -> Cases:  # fmt: skip
    network = analysis.units.traced.network
    varying = analysis.varying
    far = far_sizes(input_specs(analysis.model), {name: array.shape for name, array in feeds[0].items()})
    others = tuple(Sized(network, varying, partial(dict, info)) for info in infos)
    return Cases(tuple(feeds), others=others, far=Sized(network, varying, partial(reader.infer, far)))


def proof(
    analysis: Analysis, pruned: onnx.ModelProto, removal: Removal, cases: Cases, progress: Steps = unseen
) -> Proof:
    """Prove a pruned model on the cases; unproved where there are none."""
    if cases.original is None:
        return Proof(UNPROVED, 0, None, reason=cases.reason)
    dtypes = wide_dtypes(analysis.dtypes) if cases.wide else analysis.dtypes
    labels = [_label(feeds) for feeds in cases.feeds]
    prepared = [Case(labels[0], removal, dtypes, cases.feeds[0])]
    for label, feeds, sized in zip(labels[1:], cases.feeds[1:], cases.others, strict=True):
        case = _at_sizes(removal, sized)
        clash = _clash(case.removal, removal)
        if clash is not None:
            return _failed(clash, label)
        prepared.append(replace(case, label=label, feeds=feeds))
    if removal.replayed.rescales:
        clash = _far_clash(removal, cases)
        if clash is not None:
            return _failed(clash, "inputs of other sizes")
    outcome = prove((cases.original, upcast_to_fp32(pruned) if cases.wide else pruned), prepared, progress)
    if cases.wide and outcome.status in (PROVED, WEAK):
        return replace(outcome, reason="on a copy in fp32")
    return outcome


def _label(feeds: Mapping[str, np.ndarray]) -> str:
    return "inputs " + ", ".join(f"{n} {'x'.join(map(str, a.shape))}" for n, a in feeds.items())


def _failed(clash: Conflict, label: str) -> Proof:
    worst = Difference(clash.node, label, float("inf"), 1.0, 0.0)
    return Proof(FAILED, 0, worst, (worst,), reason=clash.reason, labels=clash.labels)


def _clash(other: Removal, base: Removal) -> Conflict | None:
    """Return why a removal at other sizes is not the one that was written, or None."""
    if other.replayed.conflicts:
        return other.replayed.conflicts[0]
    wanted = {(r.step, r.operand): r for r in base.replayed.rescales}
    found = {(r.step, r.operand): r for r in other.replayed.rescales}
    for place in wanted.keys() | found.keys():
        if place not in wanted or place not in found or not _same_factors(wanted[place], found[place]):
            step = next(s for s in other.traced.steps if s.number == place[0])
            name = step.node.inputs[place[1]].name
            labels = other.traced.labels_behind(name)
            return Conflict(step.site.name, f"'{name}' is not proportional to the channels kept", labels)
    return None


def _same_factors(left: Rescale, right: Rescale) -> bool:
    one, other = list(factors(left)), list(factors(right))
    return len(one) == len(other) and all(
        op == again and np.array_equal(factor, same)
        for (op, factor), (again, same) in zip(one, other, strict=True)
    )


def _far_clash(removal: Removal, cases: Cases) -> Conflict | None:
    """Check factors at sizes far from those that are run: a value may follow an input only from there on."""
    assert cases.far is not None
    known = removal.traced.shapes
    if any(v.shape is None and known.get(name) is not None for name, v in cases.far.info.items()):
        return None
    return _clash(_carried_over(removal, cases.far.units), removal)


def _at_sizes(removal: Removal, sized: Sized) -> Case:
    """Replay the removal at other input sizes."""
    types = {name: value.dtype for name, value in sized.info.items()}
    return Case("", _carried_over(removal, sized.units), types, {})


def _carried_over(removal: Removal, units: Units) -> Removal:
    """Carry a removal to a trace at other sizes; whether parents live follows from their children."""
    alive, lost = _living(removal.traced, units.traced, removal.alive)
    removed = np.zeros(units.count, dtype=bool)
    removed[units.of[~alive]] = True
    if lost is None:
        return Removal.of(units, units.rows.close(removed))
    replayed = replay(units.traced, alive)
    replayed.conflicts.append(lost)
    return Removal(units.traced, removed, alive, replayed)


def _living(old: Trace, new: Trace, alive: np.ndarray) -> tuple[np.ndarray, Conflict | None]:
    """Return which labels of a trace at other sizes live, parents aside, and what is lost on the way.

    Both make the same labels at a node in the same order, but for those along an axis that follows an
    input size: these are told apart by name, and none of them may be dead.
    """
    book = new.book
    found = np.ones(book.count, dtype=bool)
    produced = {int(labels.flat[0]) for labels in old.book.produced if labels.size}
    for place, made in old.book.made.items():
        there = book.made.get(place, [])
        ordered = len(there) == len(made)
        named = {other.what: other for other in there}
        for i, mine in enumerate(made):
            other = there[i] if ordered else named.get(mine.what)
            part = alive[mine.start : mine.start + mine.size]
            if other is not None and other.size == mine.size:
                found[other.start : other.start + other.size] = part
            elif not part.all() and mine.start in produced:
                labels = np.arange(mine.start, mine.start + mine.size)
                return found, Conflict("", "an axis that follows an input size is cut", labels)
    return found, None


def suspects(analysis: Analysis, removal: Removal, outcome: Proof) -> set[int]:
    """Return the groups to drop after a failed proof: those removed at the first node that differs."""
    units, removed, replayed = analysis.units, removal.removed, removal.replayed
    group_of = units.group_of_units
    changed = {int(g) for g in np.unique(group_of[removed]) if g >= 0}
    if outcome.status != FAILED:
        return changed
    if outcome.labels is not None and outcome.labels.size:
        indices = np.unique(units.of[outcome.labels])
        return {int(g) for g in np.unique(group_of[indices]) if g >= 0} & changed or changed
    failing = {d.tensor for d in outcome.failures}
    for step in units.traced.steps:
        if failing & {t.name for t in step.node.outputs} and step.number in replayed.refs:
            hit: set[int] = set()
            for block, _ in replayed.refs[step.number]:
                indices = np.unique(units.of[block.labels])
                hit |= {int(g) for g in np.unique(group_of[indices[removed[indices]]]) if g >= 0}
            if hit:
                return hit
    return changed
