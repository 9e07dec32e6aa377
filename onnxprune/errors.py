"""Every way a run can end badly, each with the exit code of the command line.

Messages are one line: what, where (node, op, tensor), got and expected, what to do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable


class OnnxPruneError(Exception):
    """Base of all errors that onnxprune raises on purpose."""

    exit_code = 70

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class TargetMissed(OnnxPruneError):
    """A target or gate was missed."""

    exit_code = 1


class GateFailed(TargetMissed):
    """The pruned model is worse than the gate allows, so nothing was written.

    result: what would have been written, with the report.
    """

    def __init__(self, message: str, result: object) -> None:
        super().__init__(message)
        self.result = result


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


def shortened(text: str, limit: int = 300) -> str:
    """Cut the middle out of a long text, at words if it has any: its start says where, its end what."""
    if len(text) <= limit:
        return text
    start, end = text[: limit // 2], text[-(limit // 2) :]
    return f"{start[: start.rfind(' ') % len(start) + 1].rstrip()} … {end[end.find(' ') + 1 :]}"


def without_object(error: Exception) -> str:
    """Return the text of an error in one line, without the address of an object at its end."""
    return " ".join(re.sub(r":? ?<[^<>]* object at 0x[0-9a-f]+>$", "", str(error)).split())


def nearest(wanted: str, known: Iterable[str], most: int = 3) -> str:
    """Name what was probably meant, as a part of a message: "; nearest: 'a', 'b'", or nothing.

    wanted: a name or pattern. It is compared with whole names first, then with their parts.
    """
    from difflib import get_close_matches

    names = list(dict.fromkeys(known))
    bare = re.sub(r"^(type:|re:)|[*?^$\\\[\]]", "", wanted).lower()
    places: dict[str, str] = {}
    for name in names:
        places.setdefault(name.lower(), name)
    for name in names:
        for part in re.split(r"[/.:_]", name.lower()):
            places.setdefault(part, name)
    close = get_close_matches(bare, places, most, 0.5) if bare else []
    found = dict.fromkeys(places[n] for n in close)
    return f"; nearest: {', '.join(repr(n) for n in found)}" if found else ""
