"""Sections of a page that scripts write, each between markers of its own."""

from __future__ import annotations

from pathlib import Path


def write_section(page: Path, name: str, text: str) -> None:
    """Put a text between the markers of a section; a new section goes to the end of the page."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    old = page.read_text(encoding="utf-8") if page.exists() else f"# {page.stem.capitalize()}\n"
    before, found, rest = old.partition(start)
    after = rest.partition(end)[2] if found else "\n"
    head = before if found else before.rstrip() + "\n\n"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"{head}{start}\n{text.strip()}\n{end}{after}", encoding="utf-8")
