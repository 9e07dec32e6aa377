"""Reading reports back, as data that is checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from onnxprune.errors import UsageError
from onnxprune.reports.data import SCHEMA_VERSION, PruneReport, SensitivityReport
from onnxprune.reports.record import STATUSES, Run

T = TypeVar("T")


def prune_report(data: Mapping[str, Any]) -> PruneReport:
    """Read the JSON of `prune`. Raises UsageError where it is something else."""
    found = dict(data)
    targets = found.get("targets")
    if isinstance(targets, Mapping):  # what is not finite is null in JSON
        found["targets"] = {k: _finite(v) for k, v in targets.items()}
    return _converted(found, PruneReport, "a report of `onnxprune prune --json`")


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
        data = json.loads(path.read_bytes())
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
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"expected {wanted}: {error}") from error


def _finite(values: Any) -> Any:
    return (
        {k: math.inf if v is None else v for k, v in values.items()}
        if isinstance(values, Mapping)
        else values
    )
