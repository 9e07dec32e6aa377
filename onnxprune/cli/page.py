"""The options of the page of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from onnxprune.cli.options import PATH
from onnxprune.errors import UsageError


def report(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --report and --sensitivity."""
    page = click.option(
        "--report", "report_path", type=PATH, metavar="FILE.html",
        help="Write a page about the run, too: one HTML file that needs no network.",
    )  # fmt: skip
    curves = click.option(
        "--sensitivity", "curves_path", type=PATH, metavar="FILE.json",
        help="Show in --report what `onnxprune sensitivity --json` measured.",
    )  # fmt: skip
    return page(curves(function))


def read_curves(path: Path | None, page: Path | None) -> Any:
    """Read the sensitivity that a page shows; None without a path. Raises UsageError where it is none."""
    if path is None:
        return None
    if page is None:
        raise UsageError("--sensitivity is shown in a page: give --report FILE.html")
    from onnxprune.reports.reading import read_sensitivity

    return read_sensitivity(path)
