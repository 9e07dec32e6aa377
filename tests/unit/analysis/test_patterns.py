"""Patterns: globs, regular expressions and operator types, and the refusal of those that mean nothing."""

from __future__ import annotations

import pytest

from onnxprune.analysis.patterns import check_known, matcher
from onnxprune.errors import UsageError

NAMES = [("/body/conv", "Conv"), ("fc1", "Gemm"), ("fc1.weight", "")]


@pytest.mark.parametrize(
    ("pattern", "hit"),
    [
        ("fc1", ["fc1"]),
        ("fc*", ["fc1", "fc1.weight"]),
        ("re:^/body", ["/body/conv"]),
        ("type:Gemm", ["fc1"]),
        ("FC*", []),
        ("", []),
    ],
)
def test_matching(pattern: str, hit: list[str]) -> None:
    matches = matcher(pattern)
    assert [name for name, op in NAMES if matches(name, op)] == hit


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("fc2", "pattern 'fc2' matches no node or tensor.*nearest: .*'fc1'.*onnxprune inspect -v"),
        ("type:Convolution", "nearest: 'Conv'"),
        ("re:(", "pattern 're:\\(' is not a regular expression"),
    ],
)
def test_refusals(pattern: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        check_known([pattern], NAMES)
    check_known(["fc1", "type:Conv"], NAMES)
