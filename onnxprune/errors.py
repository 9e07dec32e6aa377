"""Every way a run can end badly, each with the exit code of the command line.

Messages are one line: what, where (node, op, tensor), got and expected, what to do.
"""

from __future__ import annotations


class OnnxPruneError(Exception):
    """Base of all errors that onnxprune raises on purpose."""

    exit_code = 70

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class TargetMissed(OnnxPruneError):
    """A target or gate was missed."""

    exit_code = 1


class UsageError(OnnxPruneError):
    """Options, paths, plans or inputs that cannot be used as given."""

    exit_code = 2


class ModelError(OnnxPruneError):
    """The model or its external data is invalid or unreadable."""

    exit_code = 3


class NothingToPrune(OnnxPruneError):
    """No channel may be removed under the given settings."""

    exit_code = 4


class UnprovedError(OnnxPruneError):
    """Nothing could be proved, so nothing was written."""

    exit_code = 5


class ResourceError(OnnxPruneError):
    """A resource limit was hit: memory, disk."""

    exit_code = 6


def printable(text: str) -> str:
    """Escape control characters: names in a model are untrusted text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
