"""What a run goes by: its settings, resolved against a model and against the data that they name."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from onnxprune.analysis.analyse import Analysis
from onnxprune.analysis.patterns import groups_matching
from onnxprune.data.moments import Evidence, observed
from onnxprune.data.read import Calibration, read_calibration
from onnxprune.data.synthetic import synthesised
from onnxprune.errors import NothingToPrune
from onnxprune.model.feeds import find_feeds
from onnxprune.model.load import Loaded
from onnxprune.pipeline.inspect import pin_reports
from onnxprune.planning.criterion import criterion_of
from onnxprune.planning.data_criteria import readers_of
from onnxprune.planning.decide import Request, score
from onnxprune.planning.target import Measured, amount_of
from onnxprune.progress import Progress, silent
from onnxprune.recovery.probe import Probe, calibrated
from onnxprune.rules.foreign import advice, is_without_rule
from onnxprune.rules.signature import Pinned
from onnxprune.settings import PruneSettings

STAMP_BYTES = 320  # of a pruned model's metadata
PROBE_BATCHES, PROBE_SAMPLES = 4, 24  # groups are measured on as many, at least


def requested(analysis: Analysis, settings: PruneSettings, loaded: Loaded) -> Request:
    """Resolve settings against a model: ratios by group, limits, exclusions, alignment.

    Raises UsageError for patterns that match nothing, NothingToPrune where nothing may go or has to.
    """
    units = analysis.units
    ratios = dict.fromkeys(range(len(units.groups)), settings.ratio or 0.0)
    for pattern, ratio in settings.ratios:
        named = groups_matching(units, [pattern], produced=True, folded=analysis.folded)
        ratios |= dict.fromkeys(named, ratio)
    stored = units.traced.network.everything()
    weights = sum(int(np.prod(s.shape, dtype=np.int64)) * s.itemsize for s in stored)
    nbytes = analysis.model.ByteSize() if analysis.folded else loaded.nbytes
    overhead = max(nbytes - int(weights), 0) + STAMP_BYTES
    asked = {k: amount_of(k) for k in settings.targets if k not in settings.sought}
    original = Measured(loaded.model, loaded.nbytes, units.traced)
    whole = {k: target.measure(original) for k, target in asked.items()}
    limits = {k: target.limit(settings.targets[k], whole[k]) for k, target in asked.items()}
    if limits and all(whole[k] <= limit for k, limit in limits.items()):
        met = ", ".join(f"{k} {t.shown(whole[k])} of {t.shown(limits[k])} allowed" for k, t in asked.items())
        raise NothingToPrune(f"nothing to prune: the model meets the target as it is ({met}); set it lower")
    excluded = groups_matching(units, settings.exclude, folded=analysis.folded)
    return Request(ratios, limits, excluded, settings.align or machine_step(), overhead, settings)


def require_groups(analysis: Analysis, request: Request) -> None:
    """Require that something may go.

    Raises NothingToPrune, with the reasons, where every group is frozen or excluded.
    """
    leaves = [g.id for g in analysis.units.groups if g.level == 0]
    if leaves and request.excluded.issuperset(leaves):
        raise NothingToPrune(f"nothing to prune: --exclude names all {len(leaves)} groups; exclude less")
    if not leaves:
        raise NothingToPrune(f"nothing to prune: {_why_nothing(analysis)}")


def _why_nothing(analysis: Analysis) -> str:
    steps = analysis.units.traced.steps
    frozen = [s.site for s in steps if isinstance(s.verdict, Pinned) and is_without_rule(s.verdict.reason)]
    ruleless = sorted({f"{s.op} of '{s.domain}'" if s.domain else s.op for s in frozen})
    instead = sorted({advice(s.domain) for s in frozen} - {""})
    pins = [f"{p.op} '{p.node or p.tensor}' ({p.reason})" for p in pin_reports(analysis.units)[:2]]
    reasons = ([f"no rule for {', '.join(ruleless)}"] if ruleless else []) + (instead or pins)
    return "every channel is frozen: " + "; ".join(reasons or ["no operator produces channels"])


# -- alignment -----------------------------------------------------------------------------------------------
def machine_step() -> int:
    """Return the step of this machine's widest vector instructions: 16 with AVX-512, else 8.

    onnxruntime's CPU kernels work on blocks of so many channels (NCHWc; 8 with AVX2 and NEON).
    """
    wide = platform.machine() in ("x86_64", "AMD64") and "avx512f" in _cpu_flags()
    return 16 if wide else 8


def _cpu_flags() -> frozenset[str]:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return frozenset()
    for line in info.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("flags"):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()


# -- patterns: globs, `re:…` and `type:Conv` -----------------------------------------------------------------
def calibration(analysis: Analysis, settings: PruneSettings) -> Calibration:
    """Read the calibration data, or make it up where this is asked for.

    Raises UsageError for data that does not fit the model.
    """
    if not settings.synthetic:
        return read_calibration(settings.calib, analysis.model)
    shapes, values = settings.input_shapes or analysis.sizes, settings.input_values
    base = analysis.feeds or find_feeds(analysis.light, shapes, values, settings.seed)
    return synthesised(analysis.model, base, frozenset(values), settings.seed)


def gathered(analysis: Analysis, settings: PruneSettings, progress: Progress = silent) -> Evidence | None:
    """Read the calibration data and run the original on it; None without data.

    Raises UsageError for data that does not fit the model.
    """
    if settings.calib is None:
        return None
    return evidence_of(analysis, calibration(analysis, settings), settings, progress)


def evidence_of(
    analysis: Analysis, data: Calibration, settings: PruneSettings, progress: Progress = silent
) -> Evidence:
    """Sum up what a model's consumers read, by halves of the data where groups are to be probed.

    Raises UsageError where the model does not run on it.
    """
    parts, steps = 2 if _is_probed(settings) else 1, partial(progress, "calibration")
    return observed(analysis.model, analysis.units, data, settings.memory_limit, parts, steps)


def scored(
    analysis: Analysis, evidence: Evidence | None, settings: PruneSettings, progress: Progress = silent
) -> np.ndarray:
    """Score every unit by the criterion of the settings; where groups compete, by measured drift."""
    units = analysis.units
    if evidence is None or not criterion_of(settings.resolved_criterion).needs_data:
        return score(units, settings)
    scores = score(units, settings, readers_of(evidence.readers, evidence.moments))
    if not _is_probed(settings):
        return scores
    return calibrated(units, scores, _probes(analysis, evidence), partial(progress, "scoring"))


def _is_probed(settings: PruneSettings) -> bool:
    """Tell whether groups compete by losses that data gives: these compare within a group only."""
    competing = settings.resolved_scope != "local" or bool(settings.targets)
    return competing and criterion_of(settings.resolved_criterion).needs_data


def _probes(analysis: Analysis, evidence: Evidence) -> Iterator[Probe]:
    """Yield what measures groups: on each half of the inputs to fit with, by the moments of the other one.

    What goes is expressed by what stays. On the inputs that this is learned from every group looks cheaper
    than it is, most of all one whose channels few inputs use.
    """
    fit, parts = evidence.data.fit, evidence.parts
    most = max(PROBE_BATCHES, -(-PROBE_SAMPLES // evidence.data.each))
    for number in range(len(parts)):
        own, others = fit[number :: len(parts)], parts[number - 1]
        yield Probe(analysis.model, analysis.units, (evidence.readers, others), own[: -(-most // len(parts))])
