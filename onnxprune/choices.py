"""The words that settings take. Nothing heavy is imported here, so the command line can list them at once."""

from __future__ import annotations

CRITERIA = ("l1", "l2", "linf", "bn-scale", "fpgm", "random")
SCOPES = ("local", "global")
GRANULARITIES = ("finest", "columns", "rows")
TARGETS = ("macs", "params", "size")
INLINING = ("auto", "all", "none")
