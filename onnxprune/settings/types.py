"""Whether values have the types that settings declare: a wrong one would fail later and far away."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, Union, get_args, get_origin, get_type_hints

from onnxprune.errors import UsageError, shortened

_WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text", type(None): "None"}


def check_types(settings: Any) -> None:
    """Compare the fields of a dataclass with their annotations. Raises UsageError for one that differs."""
    hints = get_type_hints(type(settings))
    for field in fields(settings):
        value = getattr(settings, field.name)
        if not _fits(value, hints[field.name]):
            got = f"got {shortened(repr(value), 100)}"
            raise UsageError(f"setting '{field.name}': {got}, expected {_words(hints[field.name])}")


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a value has a type; numbers of numpy are numbers, and a bool is none."""
    inner = get_args(hint)
    kind = get_origin(hint) or hint
    if kind is Any:
        return True
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if kind in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if kind is tuple:
        every = inner[:1] * len(value) if isinstance(value, (tuple, list)) and inner[1:] == (...,) else inner
        return isinstance(value, (tuple, list)) and len(value) == len(every) and all(map(_fits, value, every))
    if kind is Mapping:
        return isinstance(value, Mapping) and all(
            _fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items()
        )
    return isinstance(value, kind)


def _words(hint: Any) -> str:
    inner = [one for one in get_args(hint) if one is not ...]
    kind = get_origin(hint) or hint
    if kind in (Union, types.UnionType):
        return " or ".join(map(_words, inner))
    if kind is tuple and len(inner) == 1:
        return f"a tuple, each of it {_words(inner[0])}"
    if kind is tuple:
        return f"a tuple of {' and '.join(map(_words, inner))}"
    if kind is Mapping:
        return f"a dict from {_words(inner[0])} to {_words(inner[1])}"
    return "anything" if kind is Any else _WORDS.get(kind, kind.__name__)
