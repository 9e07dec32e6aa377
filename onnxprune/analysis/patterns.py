"""Patterns that name nodes and tensors: globs, `re:…` and `type:Conv`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

import numpy as np

from onnxprune.analysis.labels import PRODUCES
from onnxprune.analysis.members import members
from onnxprune.analysis.units import Units
from onnxprune.errors import UsageError, nearest
from onnxprune.model.fold import FoldedTensor


def groups_matching(
    units: Units, patterns: Iterable[str], produced: bool = False, folded: Sequence[FoldedTensor] = ()
) -> frozenset[int]:
    """Return the groups of which a node or tensor matches one of the patterns.

    produced: only where the node or tensor brings the channels into being. folded: tensors that go by the
    names of what they were computed from as well. Raises UsageError, with the
    nearest names, for a pattern that matches nothing in the model, or with `produced` no group.
    """
    patterns = list(patterns)
    if not patterns:
        return frozenset()
    net = units.traced.network
    tensors = sorted({t.name for n in net.nodes for t in (*n.inputs, *n.outputs) if t.name})
    origins = {f.tensor: (*f.nodes, *f.constants) for f in folded}
    others = [*tensors, *(name for names in origins.values() for name in names)]
    check_known(
        patterns,
        [*zip(net.names, (n.op for n in net.nodes), strict=True), *((name, "") for name in others)],
    )
    tests = [matcher(p) for p in patterns]
    hit: set[int] = set()
    for member in members(units):
        if produced and member.role != PRODUCES:
            continue
        names = [(member.node, member.op), (member.stored.name, "")]
        names += [(name, "") for name in origins.get(member.stored.name, ())]
        names += [(t.name, "") for t in net.nodes[member.number].outputs] if member.number >= 0 else []
        if any(test(name, op) for test in tests for name, op in names):
            hit |= {int(g) for g in np.unique(units.group_of_units[member.units]) if g >= 0}
    if produced and not hit:
        groups = (group.name for group in units.groups)
        raise UsageError(
            f"pattern '{patterns[0]}' matches no node or tensor that makes the channels of a group"
            f"{nearest(patterns[0], groups)}; see `onnxprune inspect`"
        )
    return frozenset(hit)


def check_known(patterns: Iterable[str], names: Sequence[tuple[str, str]]) -> None:
    """Refuse a pattern that matches nothing.

    names: of all nodes with their operator types, and of all tensors without. Raises UsageError with the
    nearest names.
    """
    for pattern in patterns:
        test = matcher(pattern)
        if not any(test(name, op) for name, op in names):
            types = sorted({op for _, op in names if op})
            near = nearest(pattern, types if pattern.startswith("type:") else [name for name, _ in names])
            raise UsageError(
                f"pattern '{pattern}' matches no node or tensor{near}; see `onnxprune inspect -v`"
            )


def matcher(pattern: str) -> Callable[[str, str], bool]:
    """Return what tells whether a name, or the operator type that goes with it, matches a pattern.

    Raises UsageError for a regular expression that is none.
    """
    if pattern.startswith("type:"):
        wanted = pattern[5:]
        return lambda _name, op: op == wanted
    if pattern.startswith("re:"):
        try:
            compiled = re.compile(pattern[3:])
        except re.error as error:
            raise UsageError(f"pattern '{pattern}' is not a regular expression: {error}") from error
        return lambda name, _op: compiled.search(name) is not None
    return lambda name, _op: fnmatchcase(name, pattern)
