"""The oracle: the pruned model must equal the masked original, in onnxruntime, on every case."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import onnx

from onnxprune.analysis.labels import Labelled
from onnxprune.analysis.replay import Kept, Removal
from onnxprune.analysis.replay_state import selected
from onnxprune.analysis.trace import Trace
from onnxprune.errors import UnprovedError
from onnxprune.model.mapped import MappedModel, light
from onnxprune.model.runtime import Sessions, one_line, open_session, run, runtime_errors
from onnxprune.oracle.masked import Masked, masked_original
from onnxprune.oracle.rounding import inexact, nudged, run_nudged
from onnxprune.progress import Steps, unseen
from onnxprune.rules.signature import Signature

PROVED, WEAK, UNPROVED, FAILED = "proved", "weak", "unproved", "failed"
WEAK_SIGNAL = 100.0
NOISE_FACTOR = 4.0
NUDGES = 4
Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """One comparison: the error, what was allowed, and how much signal there was to be wrong."""

    tensor: str
    case: str
    max_abs_error: float
    tolerance: float
    signal: float

    @property
    def ratio(self) -> float:
        """Return error per tolerance; above 1 is a failure."""
        return self.max_abs_error / self.tolerance if self.tolerance else float("inf")


class Verification(msgspec.Struct, frozen=True):
    """What reports say of a proof; error and its part of the tolerance are None where nothing was compared.

    cases: runs that were compared. restricted: nodes whose statistics are of kept channels only.
    """

    status: str
    max_abs_error: float | None
    tolerance_ratio: float | None
    cases: int
    restricted: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Proof:
    """The outcome of a proof."""

    status: str
    cases: int
    worst: Difference | None
    failures: tuple[Difference, ...] = ()
    restricted: tuple[str, ...] = ()
    reason: str = ""
    labels: np.ndarray | None = None

    @property
    def verification(self) -> Verification:
        """Return what reports say of it."""
        error, ratio = (self.worst.max_abs_error, self.worst.ratio) if self.worst else (None, None)
        return Verification(self.status, error, ratio, self.cases, self.restricted, self.reason)


@dataclass
class _Tally:
    worst: Difference | None = None
    failures: list[Difference] = field(default_factory=list)
    cases: int = 0
    signal: float = 0.0

    def add(self, difference: Difference) -> None:
        if self.worst is None or not difference.ratio <= self.worst.ratio:
            self.worst = difference
        if not difference.ratio <= 1:
            self.failures.append(difference)
        self.signal = max(self.signal, difference.signal / difference.tolerance)


def relative_tolerance(dtype: np.dtype) -> float:
    """Return the allowed error per largest value of a type."""
    return 2e-3 if dtype == np.float16 else 1e-5


PART = 1 << 15  # elements that are compared at once: their copies in float64 fit into a cache


def is_code(dtype: np.dtype) -> bool:
    """Tell whether a type holds codes of a quantisation, or sums of them; int64 holds places and sizes."""
    return dtype.kind in "iu" and dtype.itemsize <= 4


def compare(tensor: str, case: str, pruned: np.ndarray, masked: np.ndarray, slack: float = 0.0) -> Difference:
    """Compare one tensor; NaN and Inf must stand at the same places, integers must be equal.

    slack: absolute error that is allowed on top, from the original against itself.
    """
    if pruned.shape != masked.shape or pruned.dtype != masked.dtype:
        return Difference(tensor, case, float("inf"), 1.0, 0.0)
    if is_code(masked.dtype):
        steps = np.abs(pruned.astype(np.int64) - masked.astype(np.int64)).max(initial=0)
        return Difference(tensor, case, float(steps), 1e-6, 0.0)
    if not np.issubdtype(masked.dtype, np.floating):
        same = np.array_equal(pruned, masked)
        return Difference(tensor, case, 0.0 if same else 1.0, 1e-6, 0.0)
    finite = np.isfinite(masked)
    if not finite.all():
        if not np.array_equal(pruned[~finite], masked[~finite], equal_nan=True):
            return Difference(tensor, case, float("inf"), 1.0, 0.0)
        pruned, masked = pruned[finite], masked[finite]
    error, largest, deviation = _extremes(pruned.ravel(), masked.ravel())
    tolerance = relative_tolerance(masked.dtype) * largest + 1e-6 + slack
    return Difference(tensor, case, error, tolerance, deviation if masked.size > 1 else largest)


def _extremes(pruned: np.ndarray, masked: np.ndarray) -> tuple[float, float, float]:
    """Return the largest difference, and the largest magnitude and the deviation of what is expected.

    In float64, part by part: the wide copies of a whole tensor take longer to write than to compare. What
    comes of a NaN is NaN.
    """
    error, largest, shift, total, squares = 0.0, 0.0, 0.0, 0.0, 0.0
    for start in range(0, masked.size, PART):
        wide = masked[start : start + PART].astype(np.float64)
        gaps = np.abs(pruned[start : start + PART].astype(np.float64) - wide)
        error = float(np.maximum(error, gaps.max()))
        largest = float(np.maximum(largest, np.abs(wide).max()))
        shift = shift if start else float(wide.mean())
        wide -= shift
        total += float(wide.sum())
        squares += float(wide @ wide)
    count = max(masked.size, 1)
    return error, largest, max(squares / count - (total / count) ** 2, 0.0) ** 0.5


@dataclass(frozen=True)
class Claim:
    """What the replay says that each tensor of the pruned model keeps of the original's."""

    tensors: Mapping[str, Labelled]
    kept: Mapping[str, Kept]

    def of(self, name: str, values: np.ndarray) -> np.ndarray:
        """Pick from an original tensor what the pruned one keeps."""
        if name in self.kept and name in self.tensors:
            return selected(values, self.tensors[name], self.kept[name])
        return values


@dataclass(frozen=True)
class Case:
    """Inputs to prove with, and the removal from the graph as it is traced at their sizes."""

    label: str
    removal: Removal
    dtypes: Mapping[str, int]
    feeds: Feeds


class Original:
    """The original, and what it makes of inputs: one run at each level, however many proofs there are."""

    def __init__(self, model: MappedModel) -> None:
        self.model = model
        self._made: list[tuple[Feeds, bool, dict[str, Any]]] = []

    def know(self, feeds: Feeds, outputs: dict[str, Any]) -> None:
        """Note what comes out with optimisation off, from a run that was made for something else."""
        self._made.append((feeds, False, outputs))

    def outputs(self, feeds: Feeds, optimised: bool = False) -> dict[str, Any]:
        """Return the outputs for inputs that do not change later. Raises as `open_session` and `run`."""
        for known, level, outputs in self._made:
            if known is feeds and level == optimised:
                return outputs
        outputs = run(open_session(self.model, optimised), feeds)
        self._made.append((feeds, optimised, outputs))
        return outputs


def prove(models: tuple[Original, onnx.ModelProto], cases: Sequence[Case], progress: Steps = unseen) -> Proof:
    """Prove that the pruned model equals the masked original in every case.

    models: the original and the pruned one.
    """
    original, pruned = models[0], light(models[1])
    tally, sessions = _Tally(), Sessions()
    restricted: tuple[str, ...] = ()
    case: Case | None = None
    try:
        for number, case in enumerate(cases):
            masked = masked_original(original.model, case.removal, case.dtypes)
            restricted = restricted or masked.restricted
            pair = _Pair(masked, pruned, case, sessions)
            _unoptimised(pair, tally)
            if number == 0 and not tally.failures:
                _optimised(original, pair, tally)
            progress(number + 1, len(cases))
    except BrokenError as error:
        assert case is not None
        tally.add(Difference(_named_in(str(error), case.removal.traced), case.label, float("inf"), 1.0, 0.0))
        return Proof(FAILED, tally.cases, tally.worst, tuple(tally.failures), reason=str(error))
    except UnprovedError as error:
        return Proof(UNPROVED, tally.cases, tally.worst, reason=str(error))
    except runtime_errors() as error:
        return Proof(UNPROVED, tally.cases, tally.worst, reason=one_line(error))
    status = FAILED if tally.failures else PROVED if tally.signal >= WEAK_SIGNAL else WEAK
    return Proof(status, tally.cases, tally.worst, tuple(tally.failures), restricted)


class BrokenError(Exception):
    """A model made by us does not run on inputs on which the original does."""


@dataclass(frozen=True)
class _Pair:
    """The two models of a case; sessions with optimisation off stay open for the cases that follow."""

    masked: Masked
    pruned: MappedModel
    case: Case
    sessions: Sessions

    @cached_property
    def outputs(self) -> list[str]:
        return [o.name for o in self.masked.model.model.graph.output]

    @cached_property
    def watched(self) -> list[str]:
        return list(dict.fromkeys([*self.masked.watched, *self.outputs]))

    @cached_property
    def plain(self) -> Any:
        """Return the session of the masked original with optimisation off, from which all watched come."""
        return self.sessions.of(exposing(self.masked.model, self.watched))

    @cached_property
    def found(self) -> dict[str, Any]:
        """Return what the pruned model makes with optimisation off. Raises BrokenError."""
        return _ran(lambda: self.sessions.of(exposing(self.pruned, self.watched)), self.case.feeds)


def _ran(opened: Callable[[], Any], feeds: Feeds) -> dict[str, Any]:
    """Open and run a model made by us.

    Raises BrokenError where it does not run.
    """
    failures: tuple[type[Exception], ...] = (UnprovedError, *runtime_errors())
    try:
        return run(opened(), feeds)
    except failures as error:
        raise BrokenError(one_line(error)) from error


def _named_in(message: str, traced: Trace) -> str:
    """Return the first output of the node that an error of onnxruntime names, or nothing."""
    quoted = set(re.findall(r"Name:\s*'([^']*)'|\(([^()]*)\)|'([^']*)'", message))
    names = {name for groups in quoted for name in groups if name}
    for step in traced.steps:
        outputs = [t.name for t in step.node.outputs if t.name]
        if outputs and (step.node.name in names or names & set(outputs)):
            return outputs[0]
    return ""


def _unoptimised(pair: _Pair, tally: _Tally) -> None:
    case = pair.case
    claim = Claim(case.removal.traced.tensors, case.removal.replayed.tensors)
    expected = _ran(lambda: pair.plain, case.feeds)
    label = f"{case.label}, optimisation off"
    differences = [
        compare(name, label, pair.found[name], claim.of(name, expected[name]))
        for name in pair.watched
        if isinstance(expected[name], np.ndarray)
    ]
    failing = [d.tensor for d in differences if not d.ratio <= 1]
    noise = _noise(pair, failing, claim) if failing else {}
    for difference in differences:
        tally.add(replace(difference, tolerance=difference.tolerance + noise.get(difference.tensor, 0.0)))
    tally.cases += 1


def _noise(pair: _Pair, names: Sequence[str], claim: Claim) -> dict[str, float]:
    """Measure how far rounding alone moves these tensors of the masked original.

    Its own outputs at another optimisation level and at inputs nudged by one unit in the last place
    show it; a sigmoid behind large logits, or a sum that cancels, amplifies what the tolerance allows.
    What is cast to a coarser type in the middle is nudged by half a unit in that type's last place.
    Codes move by whole steps; those that depend on no float sum over a pruned axis have no noise.
    Raises UnprovedError where the same input gives other outputs.
    """
    masked, case, feeds = pair.masked, pair.case, pair.case.feeds
    plain, again = run(pair.plain, feeds), run(pair.plain, feeds)
    for name in names:
        if not np.array_equal(plain[name], again[name], equal_nan=plain[name].dtype.kind == "f"):
            raise UnprovedError(f"'{name}' is random: the same input gives other values each time")
    exposed = exposing(masked.model, names)
    others = [run(open_session(exposed, optimised=True), feeds), run(pair.plain, _nudged(feeds))]
    rounded = run_nudged(exposed, feeds)
    others += [] if rounded is None else [rounded]
    moved = inexact(masked.model.model, masked.watched, case.dtypes)
    tensors = case.removal.traced.tensors
    known = {n: (labelled.shape, case.dtypes.get(n, 0)) for n, labelled in tensors.items()}
    for seed in range(NUDGES):
        other = nudged(exposed.model, moved, known, seed)
        others += [run(open_session(replace(exposed, model=other)), feeds)] if other is not None else []
    result: dict[str, float] = {}
    for name in names:
        if is_code(plain[name].dtype) and name not in moved:
            continue
        base = claim.of(name, plain[name])
        gaps = [_gap(base, claim.of(name, other[name])) for other in others]
        result[name] = NOISE_FACTOR * max(gaps)
    return result


def _nudged(case: Feeds) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        name: np.nextafter(a, np.where(rng.random(a.shape) < 0.5, -np.inf, np.inf).astype(a.dtype))
        if a.dtype in (np.float32, np.float64, np.float16)
        else a
        for name, a in case.items()
    }


def _gap(left: np.ndarray, right: np.ndarray) -> float:
    if is_code(left.dtype):
        return float(np.abs(left.astype(np.int64) - right.astype(np.int64)).max(initial=0))
    if not np.issubdtype(left.dtype, np.floating):
        return 0.0
    both = np.isfinite(left) & np.isfinite(right)
    return float(np.abs(left[both].astype(np.float64) - right[both].astype(np.float64)).max(initial=0.0))


def _optimised(original: Original, pair: _Pair, tally: _Tally) -> None:
    """Compare at onnxruntime's default level, with the original against itself as the yardstick.

    An original that onnxruntime does not optimise without an error is not compared at this level.
    """
    case = pair.case
    try:
        best = original.outputs(case.feeds, optimised=True)
    except UnprovedError:
        return
    plain = original.outputs(case.feeds)
    expected = _ran(lambda: open_session(pair.masked.model, optimised=True), case.feeds)
    found = _ran(lambda: open_session(pair.pruned, optimised=True), case.feeds)
    whole = Claim({}, {})
    for name, wanted in expected.items():
        if not isinstance(wanted, np.ndarray):
            continue
        slack = 2 * _gap(plain[name], best[name])
        difference = compare(name, f"{case.label}, optimisation on", found[name], wanted, slack)
        if not difference.ratio <= 1:
            noise = _noise(pair, [name], whole).get(name, 0.0)
            if _is_quantised(case.removal.traced):
                # Both are fused in their own way; with optimisation off they were compared already.
                noise += 2 * _gap(found[name], pair.found[name])
            difference = replace(difference, tolerance=difference.tolerance + noise)
        tally.add(difference)
    tally.cases += 1


def _is_quantised(traced: Trace) -> bool:
    """Tell whether a node reads codes, which onnxruntime's fusions round in their own way."""
    return any(isinstance(step.verdict, Signature) and step.verdict.codes for step in traced.steps)


def exposing(model: MappedModel, names: Sequence[str]) -> MappedModel:
    """Return a copy whose outputs are these tensors."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model.model)
    described = {o.name: onnx.ValueInfoProto.FromString(o.SerializeToString()) for o in copy.graph.output}
    del copy.graph.output[:]
    del copy.graph.value_info[:]
    copy.graph.output.extend(described.get(name, onnx.ValueInfoProto(name=name)) for name in names)
    return replace(model, model=copy)
