"""Settings of a run as a whole; those of single models are PruneSettings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import msgspec

from onnxprune.batches.folder import Shard
from onnxprune.errors import UsageError, nearest
from onnxprune.quantities import parse_bytes
from onnxprune.settings.types import check_types


@dataclass(frozen=True)
class BatchSettings:
    """How a batch runs.

    jobs: models at once, None for one per core. timeout: seconds of wall clock for one model, None for
    any. memory_limit: bytes of resident memory for one model's process, None for its part of 80 % of the
    machine's. dask: the address of a Dask scheduler, or `local`. shard: `i/n`, the i-th of n runs that
    share the models. retry_failed: run again what ended with a failure. Raises UsageError for values that
    make no sense.
    """

    jobs: int | None = None
    timeout: float | None = 3600.0
    memory_limit: int | None = None
    dask: str | None = None
    shard: str | None = None
    retry_failed: bool = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        check_types(self)
        if self.jobs is not None and self.jobs < 1:
            raise UsageError(f"--jobs must be at least 1: got {self.jobs}")
        if self.timeout is not None and not self.timeout > 0:
            raise UsageError(f"--timeout must be above 0 seconds: got {self.timeout:g}")
        if self.memory_limit is not None and self.memory_limit < 1:
            raise UsageError(f"--memory-limit must be above 0 bytes: got {self.memory_limit}")
        _shard(self.shard)

    @property
    def part(self) -> Shard | None:
        """Return which shard this run is, None where it is the whole."""
        return _shard(self.shard)


def _shard(text: str | None) -> Shard | None:
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count:
        raise UsageError(f"--shard is i/n with i from 1 to n: got '{text}'")
    return Shard(number, count)


KEYS = tuple(field.name for field in fields(BatchSettings))
SAVED = ("jobs", "timeout", "memory_limit", "dask")  # how, not what part of it and what again


def read(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Read the run's settings of a manifest. Raises UsageError for an unknown key, with the nearest name."""
    _check_names(given, SAVED, where)
    size = given.get("memory_limit")
    return {**given, "memory_limit": parse_bytes(size)} if isinstance(size, str) else dict(given)


def typed(given: Mapping[str, Any]) -> BatchSettings:
    """Check names, types and values of a run's settings. Raises UsageError."""
    where = "settings of the run"
    _check_names(given, KEYS, where)
    try:
        return msgspec.convert(given, BatchSettings)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {str(error)[:1].lower()}{str(error)[1:]}") from error


def _check_names(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in given:
        if key not in known:
            raise UsageError(f"{where}: unknown setting '{key}'{nearest(key, known)}")
