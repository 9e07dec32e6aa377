"""Patterns that name nodes and tensors: globs, `re:…` and `type:Conv`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase

import numpy as np

from onnxprune.analysis.members import members
from onnxprune.analysis.records import PRODUCES
from onnxprune.analysis.units import Units
from onnxprune.errors import UsageError


def groups_matching(found: Units, patterns: Iterable[str], produced: bool = False) -> frozenset[int]:
    """Return the groups of which a node or tensor matches one of the patterns.

    produced: only where the node or tensor brings the channels into being. Raises UsageError, with the
    nearest names, for a pattern that matches nothing in the model.
    """
    patterns = list(patterns)
    if not patterns:
        return frozenset()
    net = found.traced.network
    nodes = list(zip(net.names, (n.op for n in net.nodes), strict=True))
    tensors = {t.name for n in net.nodes for t in (*n.inputs, *n.outputs) if t.name}
    for pattern in patterns:
        test = _test(pattern)
        if not any(test(name, op) for name, op in nodes) and not any(test(name, "") for name in tensors):
            near = get_close_matches(pattern, [*net.names, *sorted(tensors)], n=3, cutoff=0.3)
            hint = f"; nearest names: {', '.join(near)}" if near else ""
            raise UsageError(f"pattern '{pattern}' matches no node or tensor{hint}")
    tests = [_test(p) for p in patterns]
    hit: set[int] = set()
    for member in members(found):
        if produced and member.role != PRODUCES:
            continue
        names = [(member.node, member.op), (member.stored.name, "")]
        names += [(t.name, "") for t in net.nodes[member.number].outputs] if member.number >= 0 else []
        if any(test(name, op) for test in tests for name, op in names):
            hit |= {int(g) for g in np.unique(found.group_of_units[member.units]) if g >= 0}
    return frozenset(hit)


def _test(pattern: str) -> Callable[[str, str], bool]:
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
