"""Cases for the oracle: seeds, batch sizes and dynamic sizes at which the original runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from onnxprune.analysis.analyse import Analysis
from onnxprune.analysis.replay import Conflict, Replayed, replay
from onnxprune.analysis.trace import Trace, trace
from onnxprune.errors import UnprovedError, UsageError
from onnxprune.model.feeds import feeds_for, find_feeds
from onnxprune.model.interface import input_specs
from onnxprune.model.runtime import open_session, run, runtime_errors
from onnxprune.model.shapes import all_shapes
from onnxprune.oracle.prove import FAILED, UNPROVED, Case, Difference, Proof, prove


@dataclass(frozen=True)
class Cases:
    """Inputs to prove with; `reason` says why there are none."""

    feeds: tuple[dict[str, np.ndarray], ...]
    reason: str = ""


def cases(analysis: Analysis, shapes: Mapping[str, Any], values: Mapping[str, Any], seed: int) -> Cases:
    """Find inputs of several sizes on which the original runs.

    Raises UsageError where none runs.
    """
    try:
        base = analysis.feeds or find_feeds(analysis.model, shapes or analysis.sizes, values, seed)
    except UnprovedError as error:
        return Cases((), str(error))
    found = [base]
    failures: tuple[type[Exception], ...] = (UsageError, *runtime_errors())
    specs = input_specs(analysis.model)
    for sizes in _other_sizes(specs, {n: a.shape for n, a in base.items()}, set(shapes)):
        try:
            feeds = feeds_for(analysis.model, sizes, values, seed + len(found), like=base)
            run(open_session(analysis.model), feeds)
        except failures:
            continue
        found.append(feeds)
    return Cases(tuple(found))


def _other_sizes(
    specs: Mapping[str, Any], base: Mapping[str, tuple[int, ...]], given: set[str]
) -> list[dict[str, tuple[int, ...]]]:
    """Vary one symbol at a time: batch 3, other dynamic sizes half as large again."""
    symbols: dict[str, list[tuple[str, int]]] = {}
    for name, spec in specs.items():
        for axis, dim in enumerate(spec.dims or ()):
            if not isinstance(dim, int) and name not in given:
                symbols.setdefault(dim if isinstance(dim, str) else f"{name}:{axis}", []).append((name, axis))
    result = []
    for places in symbols.values():
        size = base[places[0][0]][places[0][1]]
        for other in (3,) if size == 1 else (size * 3 // 2, size * 2):
            sizes = {n: list(s) for n, s in base.items()}
            for name, axis in places:
                sizes[name][axis] = other
            result.append({n: tuple(s) for n, s in sizes.items()})
    return result


def proof(
    analysis: Analysis, pruned: onnx.ModelProto, replayed: Replayed, dead: np.ndarray, found: Cases
) -> Proof:
    """Prove a pruned model on the cases; unproved where there are none."""
    if not found.feeds:
        return Proof(UNPROVED, 0, None, reason=found.reason)
    alive = analysis.units.alive(dead)
    prepared: list[Case] = []
    for number, feeds in enumerate(found.feeds):
        label = "inputs " + ", ".join(f"{n} {'x'.join(map(str, a.shape))}" for n, a in feeds.items())
        if number == 0:
            prepared.append(Case(label, analysis.units.traced, replayed, alive, analysis.dtypes, feeds))
            continue
        again = _at_sizes(analysis, alive, feeds)
        if again is None:
            continue
        case, clash = again
        if clash is not None:
            worst = Difference(clash.node, label, float("inf"), 1.0, 0.0)
            return Proof(FAILED, 0, worst, (worst,), reason=clash.reason, labels=clash.labels)
        prepared.append(replace(case, label=label))
    return prove((analysis.model, pruned), prepared)


def _at_sizes(
    analysis: Analysis, alive: np.ndarray, feeds: dict[str, np.ndarray]
) -> tuple[Case, Conflict | None] | None:
    """Trace and replay the removal at other input sizes; None where the labels are not the same."""
    info = all_shapes(analysis.model, feeds)
    net = analysis.units.traced.network
    traced = trace(net, {name: value.shape for name, value in info.items()})
    carried = _carried_over(analysis.units.traced, traced, alive)
    if carried is None:
        return None
    replayed = replay(traced, carried)
    dtypes = {name: value.dtype for name, value in info.items()}
    clash = replayed.conflicts[0] if replayed.conflicts else None
    return Case("", traced, replayed, carried, dtypes, feeds), clash


def _carried_over(old: Trace, new: Trace, alive: np.ndarray) -> np.ndarray | None:
    """Carry living labels to a trace at other sizes; both make their labels in the same order.

    Labels along a dynamic axis are more or fewer there; none of them may be dead.
    """
    if len(old.book.made) != len(new.book.made):
        return None
    found = np.ones(new.book.count, dtype=bool)
    for (start, size), (at, other) in zip(old.book.made, new.book.made, strict=True):
        part = alive[start : start + size]
        if size == other:
            found[at : at + other] = part
        elif not part.all():
            return None
    return found


def suspects(analysis: Analysis, replayed: Replayed, dead: np.ndarray, outcome: Proof) -> set[int]:
    """Return the groups to drop after a failed proof: those removed at the first node that differs."""
    found = analysis.units
    group_of = found.group_of_units
    changed = {int(g) for g in np.unique(group_of[dead]) if g >= 0}
    if outcome.status != FAILED:
        return changed
    if outcome.labels is not None and outcome.labels.size:
        units = np.unique(found.of[outcome.labels])
        return {int(g) for g in np.unique(group_of[units]) if g >= 0} & changed or changed
    failing = {d.tensor for d in outcome.failures}
    for step in found.traced.steps:
        if failing & {t.name for t in step.node.outputs} and step.number in replayed.refs:
            hit: set[int] = set()
            for block, _ in replayed.refs[step.number]:
                units = np.unique(found.of[block.labels])
                hit |= {int(g) for g in np.unique(group_of[units[dead[units]]]) if g >= 0}
            if hit:
                return hit
    return changed
