"""Write the tables of docs/extending.md: what the registries hold, ours only.

Usage: python scripts/registries.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnxprune.registries import CRITERIA, METRICS, RECOVERIES, TARGETS
from onnxprune.registry import Registry

PAGE = Path(__file__).resolve().parent.parent / "docs" / "extending.md"
START, END = "<!-- made by scripts/registries.py -->\n", "<!-- end -->\n"
KINDS: tuple[tuple[str, Registry[Any]], ...] = (
    ("Criteria", CRITERIA), ("Metrics", METRICS), ("Targets", TARGETS), ("Recovery methods", RECOVERIES),
)  # fmt: skip


def tables() -> str:
    """Return the tables as Markdown."""
    return "".join(line + "\n" for title, registry in KINDS for line in _table(title, registry))


def _table(title: str, registry: Registry[Any]) -> Iterator[str]:
    yield from (f"**{title}** (`{registry.group}`)", "", "| name | what it is | needs |", "|---|---|---|")
    for entry in registry:
        if registry.is_ours(entry):
            yield f"| `{entry.name}` | {entry.summary} | {_needs(entry)} |"
    yield ""


def _needs(entry: Any) -> str:
    if getattr(entry, "needs_labels", False):
        return "labels"
    if getattr(entry, "needs_data", False):
        return "calibration data"
    named = {"calib": "calibration", "validate": "validation"}
    found = [named[need] for need in getattr(entry, "needs", ())]
    return f"{' or '.join(found)} data" if found else ""


def page(text: str) -> str:
    """Return the page with its tables made anew."""
    before, rest = text.split(START)
    return before + START + tables() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
