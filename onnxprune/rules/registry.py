"""The operator table: one row for each (domain, op_type, since_version), with all that is known of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

import onnx

from onnxprune.errors import OnnxPruneError, UsageError
from onnxprune.registry import load_entry_points
from onnxprune.rules.signature import NOTHING, Facets, Pinned, Signature, Site, Verdict

RuleFunction: TypeAlias = Callable[[Site], Verdict]
OURS = "onnxprune"
_ALIASES = {"ai.onnx": ""}
UNSAID = "{} normalises over this axis, and its rule does not say how"


@dataclass(frozen=True)
class Rule:
    """One row of the operator table; origin: the distribution or module that it comes from.

    apply: says of a node what its axes are; facets: what else is known of the operator.
    """

    domain: str
    op: str
    since: int
    apply: RuleFunction
    family: str
    origin: str = OURS
    facets: Facets = NOTHING

    def verdict(self, site: Site) -> Verdict:
        """Ask the rule; what is normalised is pinned where it does not say how.

        Raises UsageError that names the rule where one of another package fails.
        """
        found = self._asked(site)
        if isinstance(found, Signature) and found.normalised and found.normalisation is None:
            unsaid = dict.fromkeys(found.normalised, UNSAID.format(site.op))
            return replace(found, pins={**unsaid, **found.pins})
        return found

    def _asked(self, site: Site) -> Verdict:
        if self.origin == OURS:
            return self.apply(site)
        where = f"the rule '{self.apply.__name__}' of '{self.origin}', at {site.op} '{site.name}'"
        try:
            result = self.apply(site)
        except Exception as error:
            raise UsageError(f"{where}, failed: {error!r}; mend the rule, or uninstall it") from error
        if not isinstance(result, (Signature, Pinned)):
            raise UsageError(f"{where}: got {result!r}, expected a Signature or Pinned; mend the rule")
        return result

    @property
    def summary(self) -> str:
        """Return the first line of what the rule's author says of it."""
        return (self.apply.__doc__ or "").strip().split("\n")[0]


class Registry:
    """Rules by domain, operator and opset; registering twice is refused.

    complete: the rules of installed plugins are loaded.
    """

    def __init__(self) -> None:
        self._rules: dict[tuple[str, str], list[Rule]] = {}
        self._origin = ""
        self.complete = False

    def rule(
        self, *ops: str, domain: str = "", since: int = 1, facets: Facets = NOTHING
    ) -> Callable[[RuleFunction], RuleFunction]:
        """Register a function as the rule of these operators from this opset on.

        facets: what else is known of each of them. Raises OnnxPruneError when an operator already has a rule
        of that version.
        """
        return self._registering([(op, facets) for op in ops], domain, since)

    def rows(
        self, facets: Mapping[str, Facets], domain: str = "", since: int = 1
    ) -> Callable[[RuleFunction], RuleFunction]:
        """Register a function as the rule of several operators that differ in their facets.

        Raises OnnxPruneError when an operator already has a rule of that version.
        """
        return self._registering(list(facets.items()), domain, since)

    def _registering(
        self, operators: Sequence[tuple[str, Facets]], domain: str, since: int
    ) -> Callable[[RuleFunction], RuleFunction]:
        def register(function: RuleFunction) -> RuleFunction:
            module = function.__module__
            origin = self._origin or (OURS if module.split(".")[0] == OURS else module)
            for op, facets in operators:
                self._add(Rule(domain, op, since, function, module.rsplit(".", 1)[-1], origin, facets))
            return function

        return register

    @contextmanager
    def adding(self, origin: str) -> Iterator[None]:
        """Note where the rules come from that are registered meanwhile; after an error there are none."""
        before = {key: list(rows) for key, rows in self._rules.items()}
        self._origin = origin
        try:
            yield
        except BaseException:
            self._rules = before
            raise
        finally:
            self._origin = ""

    def _add(self, rule: Rule) -> None:
        rows = self._rules.setdefault((rule.domain, rule.op), [])
        if any(row.since == rule.since for row in rows):
            name = f"{rule.domain or 'ai.onnx'}::{rule.op}"
            raise OnnxPruneError(f"{name} since opset {rule.since} has a rule already: register it once")
        rows.append(rule)
        rows.sort(key=lambda row: row.since)

    def find(self, domain: str, op: str, opset: int) -> Rule | None:
        """Return the newest rule that is not newer than the opset, or None."""
        rows = self._rules.get((_ALIASES.get(domain, domain), op), ())
        fitting = [row for row in rows if row.since <= opset]
        return fitting[-1] if fitting else None

    def facets(self, domain: str, op: str, opset: int) -> Facets:
        """Return what is known of an operator besides its axes: nothing where it has no rule."""
        found = self.find(domain, op, opset)
        return NOTHING if found is None else found.facets

    def facets_of(self, node: onnx.NodeProto, opsets: Mapping[str, int]) -> Facets:
        """Return what is known of a node besides its axes; opsets: version by domain, ONNX's own under ''."""
        return self.facets(node.domain, node.op_type, opsets.get(_ALIASES.get(node.domain, node.domain), 1))

    def table(self) -> list[Rule]:
        """Return all rules, sorted by domain, operator and version."""
        rules = [row for rows in self._rules.values() for row in rows]
        return sorted(rules, key=lambda row: (row.domain, row.op, row.since))


REGISTRY = Registry()
rule = REGISTRY.rule
rows = REGISTRY.rows
facets_of = REGISTRY.facets_of


GROUP = "onnxprune.rules"


def load_plugins() -> None:
    """Import the modules of the entry-point group `onnxprune.rules`, once; they register their rules.

    Raises UsageError that names the distribution of a module that cannot be imported or registers an
    operator twice: a run that went on without its rules would prune less than yesterday's.
    """
    if not REGISTRY.complete:
        load_entry_points(GROUP, REGISTRY.adding)
        REGISTRY.complete = True
