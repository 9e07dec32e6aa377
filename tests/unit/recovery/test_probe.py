"""Probing: what a group costs is measured on inputs that its compensation was not learned from."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from onnxprune import PruneSettings
from onnxprune.analysis.analyse import analyse
from onnxprune.pipeline.resolve import gathered, scored
from onnxprune.recovery.probe import PROBE, Probe
from tests.laws.test_regressions import model_of

INPUTS, WIDTH, SAMPLES = 32, 64, 40


def two_layers(samples: int) -> onnx.ModelProto:
    """x [samples, 32] -> 64 -> [samples, 2]: one group."""
    nodes = [
        helper.make_node("MatMul", ["x", "u"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "v"], ["y"]),
    ]
    return model_of(
        nodes, {"x": (samples, INPUTS)}, {"y": (samples, 2)}, {"u": (INPUTS, WIDTH), "v": (WIDTH, 2)}
    )


def batches(samples: int) -> list[dict[str, np.ndarray]]:
    values = np.random.default_rng(0).standard_normal((SAMPLES, INPUTS)).astype(np.float32)
    return [{"x": part} for part in np.split(values, SAMPLES // samples)]


def told_and_seen(samples: int) -> tuple[float, float]:
    """Return the squared drift that scores tell of the cheapest share, and that on the inputs fitted to."""
    analysis = analyse(two_layers(samples), {}, {})
    settings = PruneSettings(targets={"macs": 0.5}, align=1, calib=batches(samples))
    evidence = gathered(analysis, settings)
    assert evidence is not None
    scores = scored(analysis, evidence, settings)
    fitted = Probe(analysis.model, analysis.units, (evidence.readers, evidence.moments), evidence.data.fit)
    removed = fitted.removal(analysis.units.groups[0], scores, PROBE)
    drift = fitted.drift(removed)
    assert drift is not None
    return float(scores[removed].sum()), drift**2


def test_fewer_inputs_than_channels_do_not_make_them_cheap() -> None:
    told, seen = told_and_seen(1)
    assert seen < 0.02, "the channels that stay express all that went, on so few inputs"
    assert told > 10 * seen


def test_inputs_that_cannot_be_halved_are_measured_as_they_are() -> None:
    told, seen = told_and_seen(20)
    assert np.isclose(told, seen)
