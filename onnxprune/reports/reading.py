"""Reading reports back, as data that is checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec.inspect import (
    AnyType,
    DataclassType,
    DictType,
    FloatType,
    NoneType,
    StructType,
    Type,
    UnionType,
    VarTupleType,
    type_info,
)

import onnxprune
from onnxprune.errors import UsageError
from onnxprune.paths import read_file
from onnxprune.reports.data import PruneReport, SensitivityReport, Trial
from onnxprune.reports.outcome import Outcome
from onnxprune.reports.plain import SCHEMA_VERSION
from onnxprune.reports.record import STATUSES, Record, Run

T = TypeVar("T")


def prune_report(data: Mapping[str, Any]) -> PruneReport:
    """Read the JSON of `prune`. Raises UsageError where it is something else."""
    return _converted(data, PruneReport, "a report of `onnxprune prune --json`")


def outcome_of(record: Record) -> Outcome | None:
    """Return how the model of a record came out, None where there is no report. Raises UsageError."""
    return None if record.report is None else Outcome(prune_report(record.report))


def read_run(path: Path) -> Run:
    """Read the report.json of a batch. Raises UsageError where it is something else or cannot be read."""
    return run_of(read_json(path), str(path))


def run_of(data: Mapping[str, Any], name: str) -> Run:
    """Read a batch from plain data; name: what messages call it. Raises UsageError."""
    run = _converted(data, Run, f"{name}: a report.json of `onnxprune batch`")
    for record in run.records:
        if record.status not in STATUSES:
            known = ", ".join(STATUSES)
            raise UsageError(
                f"{name}: record '{record.id}' has status '{record.status}', expected one of {known}"
            )
    return run


def read_sensitivity(path: Path) -> SensitivityReport:
    """Read the JSON of `sensitivity`. Raises UsageError where it is something else or cannot be read."""
    return _converted(
        read_json(path), SensitivityReport, f"{path}: the JSON of `onnxprune sensitivity --json`"
    )


def read_json(path: Path) -> Mapping[str, Any]:
    """Read a JSON object of our schema. Raises UsageError."""
    try:
        data = json.loads(read_file(path))
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read: {error.strerror}; check the path") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"'{path}' is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise UsageError(f"'{path}' holds no JSON object: expected a report")
    if data.get("schema_version") != SCHEMA_VERSION:
        got = data.get("schema_version", "none")
        raise UsageError(f"'{path}' has schema_version {got}, expected {SCHEMA_VERSION}: make a new report")
    return data


def _converted(data: Mapping[str, Any], kind: type[T], wanted: str) -> T:
    try:
        return msgspec.convert(_restored(data, type_info(kind)), kind, dec_hook=_made)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"expected {wanted} {onnxprune.__version__}: {error}; make a new report with this version"
        ) from error


def _made(kind: type, value: Any) -> Any:
    """Make what has keys of its own: a trial. Raises TypeError, which msgspec tells, for something else."""
    if kind is Trial and isinstance(value, Mapping) and {"asked", "macs_share", "holds"} <= value.keys():
        return Trial(value)
    raise TypeError("expected a trial of a search")


def _restored(value: Any, kind: Type) -> Any:
    """Put infinity where a number was not finite, for which JSON has null."""
    if isinstance(kind, FloatType):
        return math.inf if value is None else value
    if isinstance(kind, (StructType, DataclassType)) and isinstance(value, Mapping):
        known = {field.encode_name: field.type for field in kind.fields}
        return {key: _restored(item, known.get(key, AnyType())) for key, item in value.items()}
    if isinstance(kind, DictType) and isinstance(value, Mapping):
        return {key: _restored(item, kind.value_type) for key, item in value.items()}
    if isinstance(kind, VarTupleType) and isinstance(value, (list, tuple)):
        return [_restored(item, kind.item_type) for item in value]
    if isinstance(kind, UnionType) and value is not None:
        return _restored(value, next(t for t in kind.types if not isinstance(t, NoneType)))
    return value
