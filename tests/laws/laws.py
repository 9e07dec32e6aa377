"""The laws that every graph obeys, checked on one generated graph: oracle, prices, plans, conservation.

`check(seed)` runs them all and returns what is broken; tests/laws/test_laws.py and scripts/fuzz.py read it.
"""

from __future__ import annotations

import math
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

import numpy as np
import onnx

from onnxprune.analysis.analyse import Analysis, analyse, inlined, load
from onnxprune.analysis.cost import macs
from onnxprune.analysis.folding import analyse_folded
from onnxprune.analysis.labels import Factor
from onnxprune.analysis.replay import Removal
from onnxprune.analysis.trace import Trace
from onnxprune.analysis.units import Units
from onnxprune.errors import OnnxPruneError
from onnxprune.model.feeds import feeds_for
from onnxprune.model.inline import Inlined
from onnxprune.model.load import Loaded
from onnxprune.model.tensors import raw_bytes
from onnxprune.oracle.cases import Cases, cases_of, proof
from onnxprune.oracle.prove import FAILED, PROVED, WEAK
from onnxprune.pipeline.resolve import requested
from onnxprune.planning.cost_model import CostModel
from onnxprune.planning.decide import Decision, decide, score
from onnxprune.planning.plan import Plan, derived, group_plans, planned_removal, read_plan
from onnxprune.rewrite.apply import apply as rewritten
from onnxprune.settings import PruneSettings
from tests.laws.composing import compose, laid_out_otherwise, parameters_read
from tests.laws.counting import FLOATS, count_all_params, count_macs, exposed, run_once
from tests.laws.forms import MAY_STAY, Pair, feeds_of, ifs_left, misplaced, near
from tests.laws.generator import Case, generate

RATIOS = (0.5, 0.25, 0.75)
WINDOWED = ("Conv", "ConvTranspose", "QLinearConv")


@dataclass(frozen=True)
class Broken:
    """A law that does not hold: the seed and the plan that show it."""

    seed: int
    plan: str
    law: str
    detail: str

    def __str__(self) -> str:
        return f"seed {self.seed}, {self.plan or 'no plan'}: {self.law}: {self.detail}"


@dataclass
class Result:
    """What came of one graph; `shares` are the shares of parameters removed, by plan."""

    seed: int
    features: frozenset[str] = frozenset()
    plans: int = 0
    conflicts: int = 0
    weak: int = 0
    composed: int = 0
    refused: int = 0
    dropped: int = 0
    cases: int = 0
    proved_cases: int = 0
    laid_out: int = 0
    left: int = 0
    folded: int = 0
    compared: int = 0
    shares: list[float] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)

    def fail(self, plan: str, law: str, detail: object) -> None:
        self.broken.append(Broken(self.seed, plan, law, " ".join(str(detail).split())[:600]))


@dataclass
class Subject:
    """A generated graph, read once for all plans."""

    case: Case
    loaded: Loaded
    written_out: Inlined
    analysis: Analysis

    @staticmethod
    def of(case: Case) -> Subject:
        """Write out, lay out and label as the pipeline does; seeds that are even fold no constants."""
        return Subject.read(case, load(case.model))

    @staticmethod
    def read(case: Case, loaded: Loaded) -> Subject:
        written_out = inlined(loaded.model)
        label = analyse_folded if case.seed % 2 else analyse
        return Subject(case, loaded, written_out, label(written_out.model, case.input_shapes[0]))

    @property
    def model(self) -> onnx.ModelProto:
        """The model that is labelled: branches beside each other, weights stored."""
        return self.analysis.model

    @cached_property
    def cases(self) -> Cases:
        """Inputs of every shape that the generator promises to run."""
        shapes = list(self.case.input_shapes)
        feeds = [feeds_of(self.case, s, i) for i, s in enumerate(shapes)]
        return cases_of(self.analysis, feeds)

    @cached_property
    def own_feeds(self) -> dict[str, np.ndarray]:
        """Inputs of the sizes that the analysis chose: MACs are counted there."""
        return feeds_for(self.model, self.analysis.sizes)

    def decide(self, settings: PruneSettings) -> Decision:
        request = requested(self.analysis, settings, self.loaded)
        return decide(self.analysis.units, request, score(self.analysis.units, settings))

    def plan_of(self, removal: Removal) -> Plan:
        groups = group_plans(self.analysis.units, removal.removed, {})
        return Plan(self.loaded.sha256, {}, 1, groups, **derived(removal))

    def rewrite(self, removal: Removal) -> onnx.ModelProto:
        return rewritten(self.model, removal)


def settings_of(seed: int) -> Iterator[tuple[str, PruneSettings]]:
    """Three random plans for a seed, one of them with a global ranking."""
    for i in range(3):
        ratio, scope = RATIOS[(seed + i) % 3], "global" if i == 2 else "local"
        settings = PruneSettings(
            ratio=ratio, criterion="random", seed=3 * seed + i, align=1, scope=scope, bench=False
        )
        yield f"ratio {ratio} {scope} seed {3 * seed + i}", settings


def check(seed: int) -> Result:
    """Check all laws on the graph of a seed."""
    result = Result(seed)
    try:
        case = generate(seed)
        result.features = case.features
        subject = Subject.of(case)
        conservation(subject, result)
        empty_plan(subject, result)
        preparation(subject, result)
    except Exception as error:  # noqa: BLE001
        result.fail("", "analysis", shown(error))
        return result
    for name, settings in settings_of(seed):
        result.plans += 1
        try:
            check_plan(subject, name, settings, result)
        except Exception as error:  # noqa: BLE001
            result.fail(name, "error", shown(error))
    return result


def shown(error: Exception) -> str:
    if isinstance(error, OnnxPruneError):
        return f"{type(error).__name__}: {error}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.filename.rsplit('/', 1)[-1]}:{last.lineno} {last.name})"


def check_plan(subject: Subject, name: str, settings: PruneSettings, result: Result) -> None:
    decision = subject.decide(settings)
    result.conflicts += len(decision.clashes)
    if not decision.removal.removed.any():
        result.shares.append(0.0)
        return
    pruned = onnx.ModelProto.FromString(subject.rewrite(decision.removal).SerializeToString())
    outcome = proof(subject.analysis, pruned, decision.removal, subject.cases)
    result.cases += len(subject.cases.feeds)
    result.proved_cases += outcome.cases - 1
    for feeds in subject.cases.feeds[outcome.cases - 1 :]:
        run_once(pruned, feeds)
    if outcome.status not in (PROVED, WEAK):
        what = outcome.reason or [f"{d.tensor} {d.case} {d.ratio:.3g}" for d in outcome.failures[:3]]
        result.dropped += outcome.status == FAILED
        result.fail(name, outcome.status, what)
        return
    result.weak += outcome.status == WEAK
    lowering(subject, name, pruned, result)
    before, after = count_all_params(subject.model), count_all_params(pruned)
    result.shares.append(1 - after / before)
    quantities(subject, name, decision, pruned, result)
    plan = subject.plan_of(decision.removal)
    round_trip(subject, name, plan, decision, result)
    if settings.resolved_scope == "local":
        composition(subject, name, decision, pruned, result)


# -- quantities ----------------------------------------------------------------------------------------------
def quantities(
    subject: Subject, name: str, decision: Decision, pruned: onnx.ModelProto, result: Result
) -> None:
    """Predicted parameters and MACs are those of the written model."""
    traced = subject.analysis.units.traced
    params = count_all_params(pruned) - inserted(subject.model, pruned)
    wanted = {"macs": count_macs(pruned, subject.own_feeds), "params": params}
    found = {"macs": macs(traced, decision.removal.replayed.sizes)}
    prices = CostModel(subject.analysis.units, 0)
    prices.remove(prices.effect(np.flatnonzero(decision.removal.removed)))
    priced = {key: round(value) for key, value in prices.quantities().items()}
    if found["macs"] != wanted["macs"]:
        result.fail(name, "macs", f"predicted {found['macs']}, counted {wanted['macs']}")
    slack = {"macs": 0, "params": copied(traced) + len(decision.removal.replayed.means) + unread(subject)}
    for key, count in wanted.items():
        if abs(priced[key] - count) > slack[key]:
            result.fail(name, f"price of {key}", f"predicted {priced[key]}, counted {count}")


def unread(subject: Subject) -> int:
    """Count the elements of tensors that no node reads: nothing there is priced."""
    read = sum(
        math.prod(s.shape) for s in subject.analysis.units.traced.network.everything() if s.is_parameter
    )
    return count_all_params(subject.model) - read


def copied(traced: Trace) -> int:
    """Count the elements of vectors with several uses: how many copies a removal makes is not priced."""
    net = traced.network
    several = [name for name, uses in net.uses.items() if len(uses) > 1 and name not in traced.shared]
    return sum(
        math.prod(net.stored[n].shape) * len(net.uses[n]) for n in several if net.stored[n].is_parameter
    )


def inserted(before: onnx.ModelProto, after: onnx.ModelProto) -> int:
    """Count the float numbers that repair run-time values: they are no parameters."""
    known = {t.name for t in before.graph.initializer}
    new = [t for t in after.graph.initializer if t.name not in known and t.data_type in FLOATS]
    return sum(math.prod(t.dims) for t in new if t.name.endswith("_factor") or "_factor_" in t.name)


# -- plans ---------------------------------------------------------------------------------------------------
def empty_plan(subject: Subject, result: Result) -> None:
    """Removing nothing changes no weight and no node."""
    units = subject.analysis.units
    nothing = Removal.of(units, np.zeros(units.count, dtype=bool))
    if nothing.replayed.conflicts:
        result.fail("empty", "empty plan", f"conflict: {nothing.replayed.conflicts[0].reason}")
        return
    same = subject.rewrite(nothing)
    before, after = weights(subject.model), weights(same)
    if before != after:
        names = [n for n in {*before, *after} if before.get(n) != after.get(n)]
        result.fail("empty", "empty plan", f"weights differ: {sorted(names)[:5]}")
    nodes = [[n.SerializeToString(deterministic=True) for n in m.graph.node] for m in (subject.model, same)]
    if nodes[0] != nodes[1]:
        result.fail("empty", "empty plan", "nodes differ")
    if count_macs(subject.model, subject.own_feeds) != macs(units.traced):
        counted = count_macs(subject.model, subject.own_feeds)
        result.fail("empty", "macs", f"original: predicted {macs(units.traced)}, counted {counted}")


def weights(model: onnx.ModelProto) -> dict[str, tuple[list[int], int, bytes]]:
    return {t.name: (list(t.dims), t.data_type, bytes(raw_bytes(t))) for t in model.graph.initializer}


def preparation(subject: Subject, result: Result) -> None:
    """What is written out, laid out and folded computes what the file does."""
    written_out, folded = subject.written_out, subject.analysis.folded
    left = ifs_left(subject.model)
    result.laid_out, result.left, result.folded = len(written_out.lifted), len(left), len(folded)
    if written_out.changed or folded:
        compared(subject, ("", "preparation"), (subject.loaded.model, subject.model), result)
    if left and not MAY_STAY & subject.case.features:
        result.fail("", "preparation", f"no branch is chosen for {left}")


def lowering(subject: Subject, name: str, pruned: onnx.ModelProto, result: Result) -> None:
    """The pruned model with its branches in their nodes computes what the proved one does."""
    if not subject.written_out.lifted:
        return
    lowered = onnx.ModelProto.FromString(subject.written_out.lowered(pruned).SerializeToString())
    onnx.checker.check_model(lowered)
    for detail in misplaced(subject.written_out, pruned, lowered):
        result.fail(name, "lowering", detail)
    compared(subject, (name, "lowering"), (pruned, lowered), result)


def compared(
    subject: Subject, law: tuple[str, str], models: tuple[onnx.ModelProto, onnx.ModelProto], result: Result
) -> None:
    pair = Pair(subject.case, *models)
    result.compared += pair.runs
    for detail in pair.differences():
        result.fail(*law, detail)


def round_trip(subject: Subject, name: str, plan: Plan, decision: Decision, result: Result) -> None:
    """Plan -> JSON -> plan is identity, and the plan removes what the decision did."""
    read = read_plan(plan.to_json())
    if read != plan or read.to_json() != plan.to_json():
        result.fail(name, "plan file", "plan -> JSON -> plan is not identity")
    removed = planned_removal(subject.analysis.units, read, subject.loaded.sha256).removed
    if not np.array_equal(removed, decision.removal.removed):
        result.fail(
            name,
            "plan file",
            f"{int((removed != decision.removal.removed).sum())} units are read back differently",
        )


def composition(
    subject: Subject, name: str, first: Decision, pruned: onnx.ModelProto, result: Result
) -> None:
    """Applying P then Q is applying compose(P, Q)."""
    again = Subject.read(subject.case, load(pruned))
    settings = PruneSettings(ratio=0.4, criterion="random", seed=subject.case.seed, align=1, bench=False)
    before, second = first.removal, again.decide(settings).removal
    if not second.removed.any():
        return
    units = subject.analysis.units
    more = compose(units, before.replayed, again.analysis.units, second.removed)
    if more is None:
        return
    both = Removal.of(units, units.rows.close(before.removed | more))
    if both.replayed.conflicts:  # uneven removals one after the other need not be one removal of even rows
        result.refused += 1
        return
    if again.analysis.folded:  # a constant that was too small for it before: the other model computes it
        result.refused += 1
        return
    traces = (units.traced, again.analysis.units.traced)
    if laid_out_otherwise((traces[0], before.replayed), (traces[1], second.replayed), both.replayed):
        result.refused += 1
        return
    result.composed += 1
    left, right = again.rewrite(second), subject.rewrite(both)
    same_model(subject, name, (left, right), result)


def same_model(
    subject: Subject, name: str, models: tuple[onnx.ModelProto, onnx.ModelProto], result: Result
) -> None:
    """Two prunings of one model read the same parameters at every node, and compute the same tensors."""
    left, right = (parameters_read(m) for m in models)
    names = [next(filter(None, n.output), "") for n in subject.model.graph.node]
    common = [name for name in names if name in left or name in right]
    others = [node for node in common if left.get(node) != right.get(node)]
    if others:
        result.fail(name, "composition", f"other parameters at {len(others)} nodes: {others[:3]}")
        return
    tensors = list(dict.fromkeys([*common, *(o.name for o in models[0].graph.output)]))
    a, b = (run_once(exposed(m, tensors), subject.cases.feeds[0]) for m in models)
    apart = [tensor for tensor in tensors if not near(a[tensor], b[tensor], subject.case)]
    if apart:
        result.fail(name, "composition", f"{len(apart)} tensors differ: {apart[:3]}")


# -- conservation --------------------------------------------------------------------------------------------
def conservation(subject: Subject, result: Result) -> None:
    """Every index of every labelled axis is of exactly one unit, and free or pinned with a reason."""
    for law in (_axes_once, _pins_have_reasons, _groups_disjoint):
        for detail in law(subject.analysis):
            result.fail("", "conservation", detail)


def _siblings(units: Units, left: Factor, right: Factor) -> bool:
    """Tell whether the slices of two factors along the axes they share have a parent in common."""
    parents: dict[frozenset[int], set[int]] = {}
    children = np.split(units.rows.child, np.flatnonzero(np.diff(units.rows.row)) + 1)
    for parent, row in zip(units.rows.parent.tolist(), children, strict=True):
        parents.setdefault(frozenset(row.tolist()), set()).add(parent)
    shared = [axis for axis in left.axes if axis in right.axes]
    slices = []
    for factor in (left, right):
        front = np.moveaxis(
            units.of[factor.labels], [factor.axes.index(a) for a in shared], range(len(shared))
        )
        slices.append(front.reshape(int(np.prod(front.shape[: len(shared)])), -1))
    return all(
        parents.get(frozenset(a.tolist()), set()) & parents.get(frozenset(b.tolist()), set())
        for a, b in zip(*slices, strict=True)
    )


def _axes_once(analysis: Analysis) -> Iterator[str]:
    units = analysis.units
    for name, labelled in units.traced.tensors.items():
        for factor, other in combinations(labelled.factors, 2):
            if set(factor.axes) & set(other.axes) and not _siblings(units, factor, other):
                yield f"'{name}' has factors without common parents on one axis: {factor.axes}, {other.axes}"
        for factor in labelled.factors:
            sizes = tuple(labelled.shape[a] for a in factor.axes)
            if factor.labels.shape != sizes:
                yield f"'{name}' {labelled.shape}: labels {factor.labels.shape} on axes {factor.axes}"
            if factor.labels.min(initial=0) < 0 or factor.labels.max(initial=0) >= len(units.of):
                yield f"'{name}': a label without a unit"


def _pins_have_reasons(analysis: Analysis) -> Iterator[str]:
    units = analysis.units
    reasoned = np.zeros(units.count, dtype=bool)
    for members, pin in units.pins:
        reasoned[members] = True
        if not pin.reason and pin.op not in WINDOWED:  # their kernel axes need none
            yield f"a pin of '{pin.tensor}' has no reason"
    if (reasoned & ~units.pinned).any():
        yield "a unit with a reason is not pinned"
    held = units.pinned & ~reasoned
    related = np.zeros(units.count, dtype=bool)
    related[units.rows.child] = True
    if (held & ~related).any():
        yield f"{int((held & ~related).sum())} units are pinned without a reason"


def _groups_disjoint(analysis: Analysis) -> Iterator[str]:
    units = analysis.units
    times = np.zeros(units.count, dtype=np.int64)
    for group in units.groups:
        times[group.units] += 1
        if units.pinned[group.units].any():
            yield f"group {group.id} ({group.name}) holds a pinned unit"
    if (times > 1).any():
        yield f"{int((times > 1).sum())} units are in several groups"


def summary(results: Sequence[Result]) -> list[str]:
    """Say what a run over many graphs found, line by line."""
    shares = [s for r in results for s in r.shares]
    laws = Counter(b.law for r in results for b in r.broken)
    features = Counter(f for r in results if r.broken for f in r.features)
    total = Counter(f for r in results for f in r.features)
    worst = sorted(features, key=lambda f: (-features[f] / total[f], f))[:10]
    cut = sum(any(s > 0 for s in r.shares) for r in results)

    def count(what: str) -> int:
        return sum(getattr(r, what) for r in results)

    return [
        f"graphs {len(results)}, plans {count('plans')}, composed {count('composed')} and refused "
        f"{count('refused')}, weak {count('weak')}, input sizes {count('cases')}, "
        f"compared {count('proved_cases')}, conflicts solved by coarser granularities {count('conflicts')}",
        f"Ifs laid out {count('laid_out')} and left {count('left')}, weights folded {count('folded')}, "
        f"runs of one model in two forms {count('compared')}",
        f"mismatches {sum(laws.values())}: " + ", ".join(f"{k} {n}" for k, n in laws.most_common()),
        f"unproved {laws['unproved']}, dropped groups {count('dropped')}",
        f"graphs with something removed {cut / max(len(results), 1):.1%}",
        f"parameters removed, median of plans {float(np.median(shares)) if shares else 0:.1%}",
        "failures by feature: " + ", ".join(f"{f} {features[f]}/{total[f]}" for f in worst),
    ]


__all__ = ["Broken", "Result", "Subject", "check", "settings_of", "summary"]
