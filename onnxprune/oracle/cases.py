"""Cases for the oracle: seeds, batch sizes and dynamic sizes at which the original runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from onnxprune.analysis.analyse import Analysis
from onnxprune.analysis.replay import Conflict, Removal, Rescale, replay
from onnxprune.analysis.trace import Trace, trace
from onnxprune.analysis.units import build_units
from onnxprune.errors import UnprovedError, UsageError
from onnxprune.model.feeds import feeds_for, find_feeds
from onnxprune.model.interface import ValueInfo, input_specs
from onnxprune.model.mapped import light
from onnxprune.model.runtime import open_session, run, runtime_errors
from onnxprune.model.shapes import all_shapes, infer
from onnxprune.model.upcast import runnable, upcast_to_fp32, wide_dtypes
from onnxprune.oracle.prove import FAILED, PROVED, UNPROVED, WEAK, Case, Difference, Proof, prove
from onnxprune.progress import Steps, unseen
from onnxprune.rewrite.apply import factors

FAR_BATCH, FAR_FACTOR = 17, 3


@dataclass(frozen=True)
class Cases:
    """Inputs to prove with; `reason` says why there are none, `wide` that they are for a copy in fp32."""

    feeds: tuple[dict[str, np.ndarray], ...]
    reason: str = ""
    wide: bool = False


def cases(analysis: Analysis, shapes: Mapping[str, Any], values: Mapping[str, Any], seed: int) -> Cases:
    """Find inputs of several sizes on which the original runs.

    Raises UsageError where none runs.
    """
    try:
        model, wide = runnable(analysis.model)
        ready = light(model) if wide else analysis.light
        base = analysis.feeds or find_feeds(ready, shapes or analysis.sizes, values, seed)
    except UnprovedError as error:
        return Cases((), str(error))
    found = [base]
    failures: tuple[type[Exception], ...] = (UsageError, *runtime_errors())
    specs = input_specs(analysis.model)
    for sizes in _other_sizes(specs, {n: a.shape for n, a in base.items()}, set(shapes)):
        try:
            feeds = feeds_for(model, sizes, values, seed + len(found), like=base)
            run(open_session(ready), feeds)
        except failures:
            continue
        found.append(feeds)
    return Cases(tuple(found), wide=wide)


def _other_sizes(
    specs: Mapping[str, Any], base: Mapping[str, tuple[int, ...]], given: set[str]
) -> list[dict[str, tuple[int, ...]]]:
    """Vary one symbol at a time (batch 3, others half as large again or twice), then all at once."""
    symbols: dict[str, list[tuple[str, int]]] = {}
    for name, spec in specs.items():
        for axis, dim in enumerate(spec.dims or ()):
            if not isinstance(dim, int) and name not in given:
                symbols.setdefault(dim if isinstance(dim, str) else f"{name}:{axis}", []).append((name, axis))
    result, together = [], {n: list(s) for n, s in base.items()}
    for places in symbols.values():
        size = base[places[0][0]][places[0][1]]
        for other in (3,) if size == 1 else (size * 3 // 2, size * 2):
            sizes = {n: list(s) for n, s in base.items()}
            for name, axis in places:
                sizes[name][axis] = other
            result.append({n: tuple(s) for n, s in sizes.items()})
        for name, axis in places:
            together[name][axis] = 2 if size == 1 else size * 2
    if len(symbols) > 1:
        result.append({n: tuple(s) for n, s in together.items()})
    return result


def proof(
    analysis: Analysis, pruned: onnx.ModelProto, removal: Removal, cases: Cases, progress: Steps = unseen
) -> Proof:
    """Prove a pruned model on the cases; unproved where there are none."""
    if not cases.feeds:
        return Proof(UNPROVED, 0, None, reason=cases.reason)
    if cases.wide:
        types = wide_dtypes(analysis.dtypes)
        copy = replace(analysis, model=upcast_to_fp32(analysis.model), dtypes=types)
        outcome = proof(copy, upcast_to_fp32(pruned), removal, replace(cases, wide=False), progress)
        proved = outcome.status in (PROVED, WEAK)
        return replace(outcome, reason="on a copy in fp32") if proved else outcome
    prepared: list[Case] = []
    for number, feeds in enumerate(cases.feeds):
        label = "inputs " + ", ".join(f"{n} {'x'.join(map(str, a.shape))}" for n, a in feeds.items())
        if number == 0:
            prepared.append(Case(label, removal, analysis.dtypes, feeds))
            continue
        case = _at_sizes(analysis, removal, feeds)
        clash = _clash(case.removal, removal)
        if clash is not None:
            return _failed(clash, label)
        prepared.append(replace(case, label=label))
    if removal.replayed.rescales:
        clash = _far_clash(analysis, removal, cases.feeds[0])
        if clash is not None:
            return _failed(clash, "inputs of other sizes")
    return prove((analysis.light, pruned), prepared, progress)


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


def _far_clash(analysis: Analysis, removal: Removal, base: Mapping[str, np.ndarray]) -> Conflict | None:
    """Check factors at sizes far from those that are run: a value may follow an input only from there on."""
    sizes = {
        name: tuple(
            s if isinstance(d, int) else FAR_BATCH if s == 1 else FAR_FACTOR * s
            for d, s in zip(spec.dims or base[name].shape, base[name].shape, strict=True)
        )
        for name, spec in input_specs(analysis.model).items()
    }
    info = infer(analysis.model, sizes)
    known = removal.traced.shapes
    if any(value.shape is None and known.get(name) is not None for name, value in info.items()):
        return None
    return _clash(_carried_over(removal, info), removal)


def _at_sizes(analysis: Analysis, removal: Removal, feeds: dict[str, np.ndarray]) -> Case:
    """Trace and replay the removal at other input sizes."""
    info = all_shapes(analysis.model, feeds)
    dtypes = {name: value.dtype for name, value in info.items()}
    return Case("", _carried_over(removal, info), dtypes, feeds)


def _carried_over(removal: Removal, info: Mapping[str, ValueInfo]) -> Removal:
    """Carry a removal to a trace at other sizes; whether parents live follows from their children."""
    old = removal.traced
    units = build_units(trace(old.network, {name: value.shape for name, value in info.items()}))
    alive, lost = _living(old, units.traced, removal.alive)
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
    found = np.ones(new.book.count, dtype=bool)
    produced = {int(labels.flat[0]) for labels in old.book.produced if labels.size}
    for place, made in old.book.made.items():
        there = new.book.made.get(place, [])
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
