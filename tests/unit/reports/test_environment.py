"""What a run was made with."""

from __future__ import annotations

from onnxprune.reports.facts import environment
from onnxprune.reports.plain import plain


def test_the_environment_is_complete_and_plain() -> None:
    found = environment()
    assert found.keys() == {
        "onnxprune", "onnx", "onnxruntime", "numpy", "python", "system", "processor", "cores", "memory",
    }  # fmt: skip
    assert plain(found) == found
    assert found["cores"] >= 1
