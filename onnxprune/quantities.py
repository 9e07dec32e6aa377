"""MACs, bytes and ratios, and how they print and parse."""

from __future__ import annotations

import re

from onnxprune.errors import UsageError
from onnxprune.registries import TARGETS

_SIZES = {
    "": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip
_COUNTS = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([A-Za-z%]*)\s*")


def count(value: float) -> str:
    """Print a count of parameters or MACs with three digits: 25.6 M."""
    for limit, suffix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= 0.9995 * limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.0f}"


def size(value: float) -> str:
    """Print a number of bytes in decimal units: 102 MB."""
    return count(value).strip() + ("B" if abs(value) >= 1e3 else " B")


def amount(key: str, value: float) -> str:
    """Print a value of a target; a report may be of one that is not installed here."""
    return TARGETS.get(key).shown(value) if key in TARGETS else count(value)


def share(part: float, whole: float) -> str:
    """Print a part of a whole as percent; a dash where the whole is zero."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def parse_amount(text: str) -> tuple[float, str]:
    """Split '10MB', '0.5' or '3ms' into its number and unit.

    Raises UsageError when there is no number.
    """
    match = _NUMBER.fullmatch(text)
    if not match:
        raise UsageError(f"not a number with an optional unit: got '{text}', expected e.g. 0.5 or 10MB")
    return float(match[1]), match[2]


def parse_bytes(text: str) -> int:
    """Read a number of bytes: 10MB (10^6), 10MiB (2^20), 4096.

    Raises UsageError for an unknown unit.
    """
    value, unit = parse_amount(text)
    if unit not in _SIZES:
        raise UsageError(f"unknown unit '{unit}' in '{text}', expected one of B, kB, MB, GB, KiB, MiB, GiB")
    return int(value * _SIZES[unit])


def parse_count(text: str) -> float:
    """Read a count with a unit: 500M.

    Raises UsageError for an unknown unit.
    """
    number, unit = parse_amount(text)
    if unit not in _COUNTS:
        raise UsageError(
            f"unknown unit '{unit}' in '{text}', expected one of k, M, G, T, or a share such as 0.5"
        )
    return number * _COUNTS[unit]


def read_target(text: str) -> tuple[str, float]:
    """Read 'KEY=VALUE': a share that remains, an absolute amount such as 500M or 10MB, or a quality.

    Raises UsageError for an unknown key or unit, and for an amount too small to be one.
    """
    key, equals, value = text.partition("=")
    if not equals or key not in TARGETS:
        raise UsageError(f"got '{text}', expected KEY=VALUE with KEY one of {', '.join(TARGETS.names())}")
    return key, TARGETS.get(key).read(value)
