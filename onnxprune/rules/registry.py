"""The operator table: one rule for each (domain, op_type, since_version)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from onnxprune.errors import OnnxPruneError
from onnxprune.rules.signature import Site, Verdict

RuleFunction: TypeAlias = Callable[[Site], Verdict]
_ALIASES = {"ai.onnx": ""}


@dataclass(frozen=True)
class Rule:
    """One row of the operator table."""

    domain: str
    op: str
    since: int
    apply: RuleFunction
    family: str

    @property
    def summary(self) -> str:
        """Return the first line of what the rule's author says of it."""
        return (self.apply.__doc__ or "").strip().split("\n")[0]


class Registry:
    """Rules by domain, operator and opset; registering twice is refused."""

    def __init__(self) -> None:
        self._rules: dict[tuple[str, str], list[Rule]] = {}

    def rule(self, *ops: str, domain: str = "", since: int = 1) -> Callable[[RuleFunction], RuleFunction]:
        """Register a function as the rule of these operators from this opset on.

        Raises OnnxPruneError when an operator already has a rule of that version.
        """

        def register(function: RuleFunction) -> RuleFunction:
            for op in ops:
                self._add(Rule(domain, op, since, function, function.__module__.rsplit(".", 1)[-1]))
            return function

        return register

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

    def table(self) -> list[Rule]:
        """Return all rules, sorted by domain, operator and version."""
        rules = [row for rows in self._rules.values() for row in rows]
        return sorted(rules, key=lambda row: (row.domain, row.op, row.since))


REGISTRY = Registry()
rule = REGISTRY.rule
