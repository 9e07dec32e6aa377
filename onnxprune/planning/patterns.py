"""Patterns that name nodes and tensors: globs, `re:…` and `type:Conv`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

import numpy as np

from onnxprune.analysis.members import members
from onnxprune.analysis.records import PRODUCES
from onnxprune.analysis.units import Units
from onnxprune.errors import UsageError, nearest


def groups_matching(units: Units, patterns: Iterable[str], produced: bool = False) -> frozenset[int]:
    """Return the groups of which a node or tensor matches one of the patterns.

    produced: only where the node or tensor brings the channels into being. Raises UsageError, with the
    nearest names, for a pattern that matches nothing in the model, or with `produced` no group.
    """
    patterns = list(patterns)
    if not patterns:
        return frozenset()
    _check_known(units, patterns)
    net = units.traced.network
    tests = [_test(p) for p in patterns]
    hit: set[int] = set()
    for member in members(units):
        if produced and member.role != PRODUCES:
            continue
        names = [(member.node, member.op), (member.stored.name, "")]
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


def _check_known(units: Units, patterns: Iterable[str]) -> None:
    """Refuse a pattern that matches no node and no tensor of the model."""
    net = units.traced.network
    ops = sorted({n.op for n in net.nodes})
    tensors = sorted({t.name for n in net.nodes for t in (*n.inputs, *n.outputs) if t.name})
    nodes = [*zip(net.names, (n.op for n in net.nodes), strict=True), *((name, "") for name in tensors)]
    for pattern in patterns:
        test = _test(pattern)
        if not any(test(name, op) for name, op in nodes):
            near = nearest(pattern, ops if pattern.startswith("type:") else [*net.names, *tensors])
            raise UsageError(
                f"pattern '{pattern}' matches no node or tensor{near}; see `onnxprune inspect -v`"
            )


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
