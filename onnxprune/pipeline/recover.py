"""Calibration at work: gather evidence, score by it, repair the pruned model, and judge the repair."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnxprune.analysis.analyse import Analysis
from onnxprune.analysis.replay import Replayed
from onnxprune.data.consumers import ActivationView, Consumer, consumers
from onnxprune.data.images import mirrored
from onnxprune.data.moments import Gram, collect
from onnxprune.data.read import Calibration, read_calibration
from onnxprune.data.synthetic import synthesised
from onnxprune.evaluation.drift import drift
from onnxprune.model.feeds import find_feeds
from onnxprune.model.tensors import raw_bytes
from onnxprune.planning.criterion import criterion_of
from onnxprune.planning.data_criteria import readers_of
from onnxprune.planning.decide import score
from onnxprune.progress import Progress, Steps, silent
from onnxprune.recovery.activation_budget import activation_budget
from onnxprune.recovery.fold import folded_into
from onnxprune.recovery.joint import fit_jointly
from onnxprune.recovery.probe import Probe, calibrated
from onnxprune.recovery.refit import DAMPING, refitted
from onnxprune.settings import PruneSettings

PROBE_BATCHES, PROBE_SAMPLES = 4, 24  # groups are measured on as many, at least
LEAST_SQUARES = ("ls", "refit", "joint")  # the methods that begin with it
MADE_UP = "calibration inputs are synthesised: real ones may drift more; give --calib DATA if you can"
FEWER = "layers were refitted on {:,} of {:,} calibration samples: --memory-limit holds no more; raise it"
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)


@dataclass(frozen=True)
class Evidence:
    """What the calibration data says of a model: its consumers and the moments of what they read."""

    data: Calibration
    readers: tuple[Consumer, ...]
    grams: Mapping[ActivationView, Gram]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON of `calibration`."""
        return described(self.data)


@dataclass(frozen=True)
class Recovery:
    """A repaired model and what the repair did; drift is on the batches held out.

    samples: that layers were fitted to or judged on. repaired: tensors whose values changed, with the
    SHA-256 of the new ones.
    """

    model: onnx.ModelProto
    method: str
    samples: int
    repaired: Mapping[str, str]
    drift_before: float
    drift_after: float

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON of `recovery`."""
        return {
            "method": self.method,
            "samples": self.samples,
            "repaired": len(self.repaired),
            "drift_before": self.drift_before,
            "drift_after": self.drift_after,
        }


def gathered(analysis: Analysis, settings: PruneSettings, progress: Progress = silent) -> Evidence | None:
    """Read the calibration data and run the original on it; None without data.

    Raises UsageError for data that does not fit the model.
    """
    if settings.calib is None:
        return None
    return observed(analysis, calibration(analysis, settings), settings, progress)


def calibration(analysis: Analysis, settings: PruneSettings) -> Calibration:
    """Read the calibration data, or make it up where this is asked for.

    Raises UsageError for data that does not fit the model.
    """
    if not settings.synthetic:
        return read_calibration(settings.calib, analysis.model)
    shapes, values = settings.input_shapes or analysis.sizes, settings.input_values
    base = analysis.feeds or find_feeds(analysis.light, shapes, values, settings.seed)
    return synthesised(analysis.model, base, frozenset(values), settings.seed)


def observed(
    analysis: Analysis, data: Calibration, settings: PruneSettings, progress: Progress = silent
) -> Evidence:
    """Run the original on calibration data, and sum up what its consumers read.

    Raises UsageError where it does not run.
    """
    readers = tuple(consumers(analysis.units))
    steps = partial(progress, "calibration")
    grams = collect(analysis.model, [c.view for c in readers], data.fit, settings.memory_limit, steps)
    return Evidence(data, readers, grams)


def cautions(data: Calibration, repair: Recovery | None = None) -> tuple[str, ...]:
    """Warn of calibration data that is made up, and of a repair that had no room for all of it."""
    result = (MADE_UP,) if data.synthesised else ()
    if repair is None or repair.samples >= data.samples:
        return result
    return (*result, FEWER.format(repair.samples, data.samples))


def described(data: Calibration) -> dict[str, Any]:
    """Say of calibration data where it comes from: given, or synthesised and how chosen."""
    source = "synthesised" if data.synthesised else "given"
    return {"source": source, "samples": data.samples, "chosen": data.synthesised or None}


def scored(
    analysis: Analysis, evidence: Evidence | None, settings: PruneSettings, progress: Progress = silent
) -> np.ndarray:
    """Score every unit by the criterion of the settings; where groups compete, by measured drift."""
    units = analysis.units
    if evidence is None or not criterion_of(settings.resolved_criterion).needs_data:
        return score(units, settings)
    scores = score(units, settings, readers_of(evidence.readers, evidence.grams))
    if settings.resolved_scope == "local" and not settings.targets:
        return scores
    probes = _probes(analysis, evidence, settings.memory_limit, progress)
    return calibrated(units, scores, probes, partial(progress, "scoring"))


def _probes(analysis: Analysis, evidence: Evidence, limit: int, progress: Progress) -> Iterator[Probe]:
    """Yield what measures groups: on each half of the inputs to fit with, by the moments of the other one.

    What goes is expressed by what stays. On the inputs that this is learned from every group looks cheaper
    than it is, most of all one whose channels few inputs use.
    """
    fit, each = evidence.data.fit, evidence.data.each
    most = max(PROBE_BATCHES, -(-PROBE_SAMPLES // each))
    if len(fit) < 2:
        yield Probe(analysis.model, analysis.units, (evidence.readers, evidence.grams), fit)
        return
    views = [reader.view for reader in evidence.readers]
    for own, others in ((fit[::2], fit[1::2]), (fit[1::2], fit[::2])):
        grams = collect(analysis.model, views, others, limit, partial(progress, "calibration"))
        yield Probe(analysis.model, analysis.units, (evidence.readers, grams), own[: -(-most // 2)])


def recovered(
    analysis: Analysis,
    pruned: onnx.ModelProto,
    removal: tuple[np.ndarray, Replayed],
    evidence: Evidence,
    settings: PruneSettings,
    progress: Progress = silent,
) -> Recovery:
    """Repair a pruned model; of the steps of the method the one of least drift on the held-out batches.

    removal: booleans by unit, and their replay. Where no step lowers the drift the model stays as it is.
    """
    judge, used = evidence.data.judge, evidence
    if settings.resolved_recover != "ls":
        room = activation_budget(analysis.model, evidence.data.batches, settings.memory_limit)
        used = replace(evidence, data=room.thinned(evidence.data))
    before = best = drift(analysis.model, pruned, judge)
    kept, changed = pruned, frozenset[str]()
    steps = partial(progress, "refit")
    for model, names in _steps(analysis, pruned, removal, used, (settings, steps)):
        after = drift(analysis.model, model, judge)
        if after < best:
            kept, changed, best = model, names, after
    found = hashes(kept)
    repaired = {name: found[name] for name in sorted(changed)}
    return Recovery(kept, settings.resolved_recover, used.data.samples, repaired, before, best)


def joined(
    analysis: Analysis,
    replayed: Replayed,
    first: Recovery,
    data: Calibration,
    limit: int,
    progress: Progress = silent,
) -> Recovery:
    """Fit the layers of a repaired model together; the repair stays as it is where that does not help.

    limit: bytes for what is kept between layers.
    """
    models = (analysis.model, first.model)
    steps = partial(progress, "joint")
    room = activation_budget(analysis.model, data.batches, limit)
    used = room.thinned(data)
    more = mirrored(used.fit) if room.holds(len(used.batches) + len(used.fit)) else []
    model, names = fit_jointly(models, analysis.units.traced, replayed, used, more, steps)
    after = drift(analysis.model, model, data.judge)
    if not after < first.drift_after:
        return first
    found = hashes(model)
    repaired = {name: found[name] for name in sorted({*first.repaired, *names})}
    return replace(first, model=model, repaired=repaired, drift_after=after)


def _steps(
    analysis: Analysis,
    pruned: onnx.ModelProto,
    removal: tuple[np.ndarray, Replayed],
    evidence: Evidence,
    how: tuple[PruneSettings, Steps],
) -> Iterator[tuple[onnx.ModelProto, frozenset[str]]]:
    """Yield models on the way of a method, with the tensors changed so far."""
    (removed, replayed), model, changed = removal, pruned, frozenset[str]()
    settings, progress = how
    method, limit = settings.resolved_recover, settings.memory_limit
    if method in LEAST_SQUARES:
        # The regression of `refit` shrinks towards the weights it begins with: these are better ones.
        model, names = folded_into(pruned, (evidence.readers, evidence.grams), removed, replayed)
        changed = frozenset(names)
        yield model, changed
    if method != "ls":
        dampings = () if method == "bias" else DAMPING
        models = (analysis.model, model)
        model, more = refitted(
            models, analysis.units.traced, replayed, evidence.data, dampings, progress, limit
        )
        yield model, changed | set(more)


def hashes(model: onnx.ModelProto) -> dict[str, str]:
    """Return the SHA-256 of the values of all stored tensors, by name."""
    return {n: hashlib.sha256(bytes(raw_bytes(t))).hexdigest() for n, t in _stored(model).items()}


def values_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return the values of all stored tensors of floats, by name."""
    return {n: numpy_helper.to_array(t) for n, t in _stored(model).items() if t.data_type in FLOATS}


def _stored(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    stored = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                stored[node.output[0]] = attribute.t
    return stored
