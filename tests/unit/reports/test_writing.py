"""The files of a batch: each is whole or as it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import onnxprune
from onnxprune.reports.writing import write_all
from tests.report_data import record, report, run_of, zoo


def test_a_write_that_fails_leaves_the_old_reports_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(run_of(record("a", found=report())), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(onnxprune.errors.ResourceError):
        write_all(zoo(), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
