"""A small network, half of it removed, and data to repair it with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from onnxprune.analysis.analyse import Analysis, analyse
from onnxprune.analysis.replay import Removal
from onnxprune.data.moments import Evidence, observed
from onnxprune.data.read import Calibration
from onnxprune.recovery.context import ActivationBudget, RecoveryContext
from onnxprune.rewrite.apply import apply as rewritten
from tests.laws.test_regressions import model_of

WIDTH = 12


def dense() -> onnx.ModelProto:
    """x [B, 6] -> 12 -> 12 -> y [B, 3]."""
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "v", "c"], ["k"]),
        helper.make_node("Relu", ["k"], ["s"]),
        helper.make_node("Gemm", ["s", "u", "d"], ["y"]),
    ]
    params = {"w": (6, WIDTH), "b": (WIDTH,), "v": (WIDTH, WIDTH), "c": (WIDTH,), "u": (WIDTH, 3), "d": (3,)}
    return model_of(nodes, {"x": ["B", 6]}, {"y": ["B", 3]}, params)


def calibration(batches: int = 10, each: int = 16, seed: int = 0) -> Calibration:
    rng = np.random.default_rng(seed)
    made = tuple({"x": rng.standard_normal((each, 6)).astype(np.float32)} for _ in range(batches))
    return Calibration(made, batches * each)


@dataclass(frozen=True)
class Example:
    """A removal from a network, the model that is left, and what data says of the network."""

    analysis: Analysis
    removal: Removal
    pruned: onnx.ModelProto
    evidence: Evidence

    def context(self) -> RecoveryContext:
        data = self.evidence.data
        return RecoveryContext(self.analysis.model, self.removal, data, self.evidence, ActivationBudget(0, 0))


def example(gone: int = 5, model: onnx.ModelProto | None = None) -> Example:
    """Remove the first channels of both hidden layers, of `dense` or a model with its tensors."""
    analysis = analyse(model or dense())
    units = analysis.units
    removed = np.zeros(units.count, dtype=bool)
    for group in units.groups:
        removed[group.units[:gone]] = True
    removal = Removal.of(units, units.rows.close(removed))
    assert not removal.replayed.conflicts
    evidence = observed(analysis.model, units, calibration(), 1 << 30)
    return Example(analysis, removal, rewritten(analysis.model, removal), evidence)
