"""Inlining must change no output: the model with its functions written out against the original."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx

from onnxprune.errors import UnprovedError
from onnxprune.model.runtime import open_session, run
from onnxprune.oracle.prove import Feeds, compare


def require_same(original: onnx.ModelProto, inlined: onnx.ModelProto, cases: Iterable[Feeds]) -> None:
    """Run both on all inputs and compare the outputs; one that is random is left to the proof.

    Raises UnprovedError for an output that differs, and where one of them does not run.
    """
    fed = list(cases)
    before = _ran(original, [*fed, *fed])
    for expected, again, found in zip(before, before[len(fed) :], _ran(inlined, fed), strict=False):
        for name, wanted in expected.items():
            if not isinstance(wanted, np.ndarray) or not _equal(wanted, again[name]):
                continue
            difference = compare(name, "", found[name], wanted)
            if not difference.ratio <= 1:
                raise UnprovedError(
                    f"output '{name}' differs by {difference.max_abs_error:.2g} once the model's functions "
                    "are written out: onnxruntime has kernels that compute something else than their "
                    "bodies; --inline none leaves them in place"
                )


def _ran(model: onnx.ModelProto, cases: Iterable[Feeds]) -> list[dict[str, Any]]:
    session = open_session(model)
    return [run(session, feeds) for feeds in cases]


def _equal(left: np.ndarray, right: np.ndarray) -> bool:
    return np.array_equal(left, right, equal_nan=left.dtype.kind == "f")
