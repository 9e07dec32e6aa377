"""Sections of a page that scripts write, each between markers of its own."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterable
from pathlib import Path


def table_parser(description: str | None, page: str) -> ArgumentParser:
    """Take what every table over models and data needs: folders, which models, whether to write."""
    parser = ArgumentParser(description=description)
    parser.add_argument("models", type=Path, help="folder of the models")
    parser.add_argument("data", type=Path, help="folder of their data files")
    parser.add_argument("--only", default="", help="only models with this in their name")
    parser.add_argument("--write", action="store_true", help=f"write the table into {page}")
    return parser


def told(lines: Iterable[str]) -> str:
    """Print lines as they come; return them as a text."""
    kept = []
    for line in lines:
        print(line, flush=True)
        kept.append(line)
    return "\n".join(kept)


def write_section(page: Path, name: str, text: str) -> None:
    """Put a text between the markers of a section; a new section goes to the end of the page."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    old = page.read_text(encoding="utf-8") if page.exists() else f"# {page.stem.capitalize()}\n"
    before, found, rest = old.partition(start)
    after = rest.partition(end)[2] if found else "\n"
    head = before if found else before.rstrip() + "\n\n"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"{head}{start}\n{text.strip()}\n{end}{after}", encoding="utf-8")
