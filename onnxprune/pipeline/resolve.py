"""What a run goes by: its settings, resolved against a model and against the data that they name."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import numpy as np

from onnxprune.analysis.analyse import Analysis
from onnxprune.analysis.members import members
from onnxprune.analysis.records import PRODUCES
from onnxprune.analysis.units import Units
from onnxprune.data.moments import Evidence, observed
from onnxprune.data.read import Calibration, read_calibration
from onnxprune.data.synthetic import synthesised
from onnxprune.errors import NothingToPrune, UsageError, nearest
from onnxprune.model.feeds import find_feeds
from onnxprune.model.io import Loaded
from onnxprune.pipeline.inspect import pin_reports
from onnxprune.planning.criterion import criterion_of
from onnxprune.planning.data_criteria import readers_of
from onnxprune.planning.decide import Request, score
from onnxprune.planning.target import Measured, amount_of
from onnxprune.progress import Progress, silent
from onnxprune.recovery.probe import Probe, calibrated
from onnxprune.rules.signature import NO_RULE, Pinned
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
        ratios |= dict.fromkeys(groups_matching(units, [pattern], produced=True), ratio)
    stored = units.traced.network.everything()
    weights = sum(int(np.prod(s.shape, dtype=np.int64)) * s.itemsize for s in stored)
    overhead = max(loaded.nbytes - int(weights), 0) + STAMP_BYTES
    asked = {k: amount_of(k) for k in settings.targets if k not in settings.sought}
    original = Measured(loaded.model, loaded.nbytes, units.traced)
    whole = {k: target.measure(original) for k, target in asked.items()}
    limits = {k: target.limit(settings.targets[k], whole[k]) for k, target in asked.items()}
    if limits and all(whole[k] <= limit for k, limit in limits.items()):
        met = ", ".join(f"{k} {t.shown(whole[k])} of {t.shown(limits[k])} allowed" for k, t in asked.items())
        raise NothingToPrune(f"nothing to prune: the model meets the target as it is ({met}); set it lower")
    excluded = groups_matching(units, settings.exclude)
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
    ruleless = sorted(
        {s.node.op for s in steps if isinstance(s.verdict, Pinned) and s.verdict.reason == NO_RULE}
    )
    pins = [f"{p.op} '{p.node or p.tensor}' ({p.reason})" for p in pin_reports(analysis.units)[:2]]
    reasons = ([f"no rule for {', '.join(ruleless)}"] if ruleless else []) + pins
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
def groups_matching(units: Units, patterns: Iterable[str], produced: bool = False) -> frozenset[int]:
    """Return the groups of which a node or tensor matches one of the patterns.

    produced: only where the node or tensor brings the channels into being. Raises UsageError, with the
    nearest names, for a pattern that matches nothing in the model, or with `produced` no group.
    """
    patterns = list(patterns)
    if not patterns:
        return frozenset()
    _check_known(units, patterns)
    net = units.traced.network
    tests = [_test(p) for p in patterns]
    hit: set[int] = set()
    for member in members(units):
        if produced and member.role != PRODUCES:
            continue
        names = [(member.node, member.op), (member.stored.name, "")]
        names += [(t.name, "") for t in net.nodes[member.number].outputs] if member.number >= 0 else []
        if any(test(name, op) for test in tests for name, op in names):
            hit |= {int(g) for g in np.unique(units.group_of_units[member.units]) if g >= 0}
    if produced and not hit:
        groups = (group.name for group in units.groups)
        raise UsageError(
            f"pattern '{patterns[0]}' matches no node or tensor that makes the channels of a group"
            f"{nearest(patterns[0], groups)}; see `onnxprune inspect`"
        )
    return frozenset(hit)


def _check_known(units: Units, patterns: Iterable[str]) -> None:
    """Refuse a pattern that matches no node and no tensor of the model."""
    net = units.traced.network
    ops = sorted({n.op for n in net.nodes})
    tensors = sorted({t.name for n in net.nodes for t in (*n.inputs, *n.outputs) if t.name})
    nodes = [*zip(net.names, (n.op for n in net.nodes), strict=True), *((name, "") for name in tensors)]
    for pattern in patterns:
        test = _test(pattern)
        if not any(test(name, op) for name, op in nodes):
            near = nearest(pattern, ops if pattern.startswith("type:") else [*net.names, *tensors])
            raise UsageError(
                f"pattern '{pattern}' matches no node or tensor{near}; see `onnxprune inspect -v`"
            )


def _test(pattern: str) -> Callable[[str, str], bool]:
    if pattern.startswith("type:"):
        wanted = pattern[5:]
        return lambda _name, op: op == wanted
    if pattern.startswith("re:"):
        try:
            compiled = re.compile(pattern[3:])
        except re.error as error:
            raise UsageError(f"pattern '{pattern}' is not a regular expression: {error}") from error
        return lambda name, _op: compiled.search(name) is not None
    return lambda name, _op: fnmatchcase(name, pattern)


# -- data and scores -----------------------------------------------------------------------------------------
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
