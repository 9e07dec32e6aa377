"""The examples in the docstrings of the public functions run, and print what they say."""

from __future__ import annotations

import doctest
from pathlib import Path
from types import ModuleType

import pytest

from onnxprune.pipeline import api, apply, prune

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("module", [api, apply, prune], ids=lambda m: m.__name__.rpartition(".")[2])
def test_examples_run(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0
