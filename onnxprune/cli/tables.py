"""Reports as tables and messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from onnxprune.cli.screen import Column, Table
from onnxprune.quantities import amount, count, share, size
from onnxprune.reports.outcome import BAD, Outcome
from onnxprune.reports.quality import closeness_line, gate_line, repaired_on
from onnxprune.reports.wording import comparison_line, milliseconds, number, pins_by_reason, proof_line

if TYPE_CHECKING:
    from onnxprune.evaluation.closeness import Closeness
    from onnxprune.evaluation.latency import BenchResult, LatencyRatio
    from onnxprune.evaluation.validation import Validated
    from onnxprune.model.fold import FoldedTensor
    from onnxprune.recovery.unrepaired import Unrepaired
    from onnxprune.reports.data import (
        CalibrationReport,
        GroupReport,
        PinReport,
        PruneReport,
        TargetReport,
        Trial,
        VerifyReport,
    )
    from onnxprune.rewrite.sparsify import SparsifyReport
    from onnxprune.rules import Rule

TOP = 3  # reasons shown without -v
COSTLY = 0.05  # of a target: so much below it alignment is worth a word
SMALLER = 0.99  # a file of this share of the original's bytes is not called smaller
DIFFERENCES = 10  # shown by `verify`
FACTS = (Column(), Column(fold=True))


def prune_tables(
    report: PruneReport, places: Mapping[str, str], detailed: bool, planned: bool = False
) -> list[Table]:
    """Show a run of `prune` or `apply`; places: what was written where; planned: the widths were given."""
    outcome = Outcome(report)
    tone = BAD if outcome.ruined or not all(outcome.gates) else outcome.shade
    verdict = Table((Column(fold=True),), [(outcome.verdict,)], tones=(tone,))
    facts = [
        ("proof", proof_line(report.verification)),
        ("groups", _groups_line(report, planned)),
        *(
            (f"target {'missed' if key in report.missed else 'reached'}", _target_line(key, report))
            for key in report.targets
        ),
        *calibration_facts(report.calibration),
        *_recovery_facts(report),
        *_closeness_facts(report.closeness),
        *_validation_facts(report.validation),
        *_search_facts(report.search),
        *inlined_facts(report.inlined),
        *folded_facts(report.folded),
        *_frozen_facts(report.pinned, detailed),
        *places.items(),
    ]
    tables = [verdict, _sizes_table(report), Table(FACTS, facts)]
    if detailed:
        tables += [_search_table(report.search)] if report.search else []
        tables += [_groups_table(report.groups), _timings_table(report.timings)]
    return tables


def calibration_facts(calibration: CalibrationReport | None) -> list[tuple[str, str]]:
    """Say that calibration inputs were made up, and how."""
    if calibration is None or calibration.source != "synthesised":
        return []
    return [("calibration", f"synthesised: {calibration.samples} random samples, {calibration.chosen}")]


def _recovery_facts(report: PruneReport) -> list[tuple[str, str]]:
    """Say what the repair did; drift is on calibration inputs that were held out."""
    recovery, inputs = report.recovery, repaired_on(report.calibration)
    if recovery is None:
        return []
    before, after = f"{recovery.drift_before:.3g}", f"{recovery.drift_after:.3g}"
    left = _unrepaired_facts(recovery.unrepaired)
    if not recovery.repaired:
        told = f"none helped ({recovery.method}, {recovery.samples} samples): drift {before} on {inputs}"
        return [("repair", told), *left]
    done = f"{recovery.repaired} tensors by {recovery.method} on {recovery.samples} samples"
    return [("repair", f"{done}, drift {before} -> {after} on {inputs}"), *left]


def _unrepaired_facts(left: Sequence[Unrepaired]) -> list[tuple[str, str]]:
    """Say by reason which weights lost inputs and have the values of the original."""
    by_reason: dict[str, list[str]] = {}
    for entry in left:
        by_reason.setdefault(entry.reason, []).append(entry.tensor)
    lines = []
    for reason, names in by_reason.items():
        more = f" and {len(names) - TOP} more" if len(names) > TOP else ""
        lines.append(f"{number(len(names), 'weight')}: {', '.join(names[:TOP])}{more}: {reason}")
    return [("not repaired" if not i else "", line) for i, line in enumerate(lines)]


def _closeness_facts(close: Closeness | None) -> list[tuple[str, str]]:
    """Say how close the result is to the original, and what the gate allows; made-up inputs judge nothing."""
    if close is None or close.loss is None:
        return []
    name = "judged" if close.judged or close.ruined else "not judged"
    return [(name, f"{closeness_line(close)}{gate_line(close)}")]


def _validation_facts(found: Validated | None) -> list[tuple[str, str]]:
    """Say the metric of the whole model before and after, and what the gate allows."""
    if found is None:
        return []
    gate = "" if found.max_drop is None else f", a drop of {found.max_drop:g} is allowed"
    return [("validation", f"{found} on {number(found.samples, 'sample')}{gate}")]


def _search_facts(trials: Sequence[Trial]) -> list[tuple[str, str]]:
    """Say how many trials a search took."""
    held = sum(trial.holds for trial in trials)
    return (
        [("search", f"{number(len(trials), 'trial')}, {held} good enough (-v shows all)")] if trials else []
    )


def _search_table(trials: Sequence[Trial]) -> Table:
    keys = [key for key in trials[0] if key not in ("asked", "macs_share", "holds")]
    columns = (
        Column("MACs asked", right=True), Column("MACs kept", right=True),
        *(Column(key, right=True) for key in keys), Column("good enough"),
    )  # fmt: skip
    rows = [
        (
            share(t["asked"], 1), share(t.macs_share, 1), *(amount(key, t[key]) for key in keys),
            "yes" if t.holds else "no",
        )
        for t in trials
    ]  # fmt: skip
    return Table(columns, rows, "search")


def _sizes_table(report: PruneReport) -> Table:
    before, after = report.before, report.after
    rows = [
        ("parameters", count(before.params), count(after.params), share(after.params, before.params)),
        ("MACs", count(before.macs), count(after.macs), share(after.macs, before.macs)),
        ("bytes", size(before.bytes), size(after.bytes), share(after.bytes, before.bytes)),
    ]
    if report.bench is not None:
        first, second = report.bench.timings
        kept = comparison_line(second.versus_first)
        rows.append(("latency", milliseconds(first.median_ms), milliseconds(second.median_ms), kept))
    columns = (Column("model"), Column("before", right=True), Column("after", right=True), Column("kept"))
    return Table(columns, rows)


def _groups_line(report: PruneReport, planned: bool) -> str:
    pruned = sum(g.kept < g.channels for g in report.groups)
    parts = [f"{pruned} of {len(report.groups)} pruned"]
    wide = sum(g.kept > g.asked for g in report.groups)
    narrow = (
        [g for g in report.groups if g.kept < g.asked] if report.settings.get("ratio") is not None else []
    )
    if wide and not report.targets:
        parts.append(f"{wide} with more channels than asked")
    if narrow:
        first = narrow[0]
        parts.append(f"{len(narrow)} with fewer ({first.asked} asked, {first.kept} kept in {first.id})")
    if not planned and (narrow or (wide and not report.targets)):
        parts.append(f"widths go by {report.settings.get('align')}, --align 1 cuts exactly")
    if report.dropped:
        parts.append(f"{len(report.dropped)} dropped")
    return ", ".join(parts)


def _target_line(key: str, report: PruneReport) -> str:
    """Say a target and what came of it; what was searched for on made-up inputs is called so."""
    target = report.targets[key]
    sought = report.validation is None and any(key in trial for trial in report.search)
    inputs = f" on {repaired_on(report.calibration)}" if sought else ""
    line = f"{key} {amount(key, target.reached)}{inputs}, {amount(key, target.limit)} allowed"
    return line + (_floor_said(key, target) if target.reached > target.limit else _step_said(target))


def _step_said(target: TargetReport) -> str:
    """Say which step was too large to come nearer to a target."""
    step = target.step
    if step is None:
        return ""
    taken = f"{number(step.channels, 'channel')}, {100 * step.share:.1f} %"
    said = (
        f"; {100 * step.below:.1f} % of the whole below: a step of {step.group} ({step.name}) takes {taken}"
    )
    costly = step.aligned and target.limit - target.reached > COSTLY * target.limit
    return said + "; --align 1 comes nearer" * costly


def _floor_said(key: str, target: TargetReport) -> str:
    """Say the least that can be left, and whether other widths would do."""
    if target.floor is None:
        return ""
    said = f"; the floor is {amount(key, target.floor)}"
    exact = target.exact_floor
    if exact is None or exact >= target.floor:
        return said
    return f"{said}, with --align 1 {amount(key, exact)}"


def _frozen_facts(pinned: Iterable[PinReport], detailed: bool) -> list[tuple[str, str]]:
    reasons = pins_by_reason(pinned)
    if not reasons:
        return [("frozen", "nothing")]
    shown = reasons if detailed else reasons[:TOP]
    lines = [f"{number(channels, 'channel')} at {op}: {reason}" for op, reason, channels, _ in shown]
    if len(reasons) > len(shown):
        lines.append(f"and for {number(len(reasons) - len(shown), 'more reason')} (-v shows all)")
    return [("frozen" if not i else "", line) for i, line in enumerate(lines)]


def inlined_facts(names: Sequence[str]) -> list[tuple[str, str]]:
    """Say which functions and branches the result no longer has."""
    more = f" and {len(names) - TOP} more" if len(names) > TOP else ""
    return [("inlined", f"{', '.join(names[:TOP])}{more}")] if names else []


def folded_facts(folded: Sequence[FoldedTensor]) -> list[tuple[str, str]]:
    """Say which tensors the result stores, and the file computes from constants."""
    if not folded:
        return []
    more = f" and {len(folded) - TOP} more" if len(folded) > TOP else ""
    names = ", ".join(f.tensor for f in folded[:TOP])
    return [("folded", f"{number(len(folded), 'tensor')} computed from constants: {names}{more}")]


def _groups_table(groups: Iterable[GroupReport]) -> Table:
    columns = (
        Column("id"), Column("group", fold=True), Column("channels", right=True), Column("asked", right=True),
        Column("kept", right=True), Column("constraint"),
    )  # fmt: skip
    rows = [(g.id, g.name, str(g.channels), str(g.asked), str(g.kept), g.constraint) for g in groups]
    return Table(columns, rows, "groups")


def _timings_table(timings: Mapping[str, float]) -> Table:
    columns = (Column("stage"), Column("seconds", right=True))
    return Table(columns, [(stage, f"{seconds:.2f}") for stage, seconds in timings.items()])


def prune_messages(report: PruneReport) -> list[str]:
    """List what a person must be told about a run besides its result."""
    said = [f"warning: {text}" for text in report.warnings]
    said += [f"dropped: group {d.id} ({d.name}) stays whole: {d.reason}" for d in report.dropped]
    status = report.verification.status
    if status == "weak":
        said.append("warning: the proof is weak: the outputs hardly vary on the inputs it was made with")
    elif status == "unproved":
        said.append(f"warning: not proved: {report.verification.reason}")
    versus = report.bench.timings[1].versus_first if report.bench else None
    if versus and versus.verdict != "faster":
        said.append(f"warning: the pruned model is {versus.verdict}: it takes {_times(versus)}")
    return said


def _times(versus: LatencyRatio) -> str:
    interval = f"95 % interval {versus.low:.2f} to {versus.high:.2f}"
    return f"{versus.ratio:.2f} times the original's time ({interval})"


def missed_line(report: PruneReport) -> str:
    """Say which targets were missed."""
    return "; ".join(_target_line(key, report) for key in report.missed)


def dims(shape: Iterable[int]) -> str:
    return "x".join(str(s) for s in shape) or "scalar"


def verify_tables(report: VerifyReport) -> list[Table]:
    """Show the outcome of `verify`, with the first differences; JSON has all."""
    same = "is the plan's result" if report.matches_plan else "is not the plan's result"
    tables = [Table(FACTS, [("proof", proof_line(report.verification)), ("model", same)])]
    if report.differences:
        columns = (Column(fold=True),)
        rows = [(d,) for d in report.differences[:DIFFERENCES]]
        more = len(report.differences) - len(rows)
        rows += [(f"and {more} more (--json lists all)",)] if more else []
        tables.append(Table(columns, rows, "differences"))
    return tables


def bench_tables(result: BenchResult) -> list[Table]:
    """Show the timings of `bench`."""
    columns = (
        Column("model", fold=True), Column("median", right=True), Column("min", right=True),
        Column("p90", right=True), Column("runs", right=True), Column("time vs first", fold=True),
    )  # fmt: skip
    rows = [
        (
            t.name, *(milliseconds(ms) for ms in (t.median_ms, t.min_ms, t.p90_ms)), str(t.runs),
            comparison_line(t.versus_first),
        )
        for t in result.timings
    ]  # fmt: skip
    used = result.settings
    shapes = ", ".join(f"{name} {dims(shape)}" for name, shape in result.input_shapes.items())
    facts = [
        ("onnxruntime", f"{result.onnxruntime}, {used.provider}, {number(used.threads, 'thread')}"),
        ("processor", result.cpu),
        ("inputs", shapes or "none"),
    ]
    return [Table(columns, rows), Table(FACTS, facts)]


def bench_messages(result: BenchResult) -> list[str]:
    """Say which models are not faster than the first."""
    return [
        f"note: {t.name} is {t.versus_first.verdict} than {result.timings[0].name}"
        for t in result.timings
        if t.versus_first and t.versus_first.verdict != "faster"
    ]


def sparsify_tables(report: SparsifyReport, drift: float | None, output: str, detailed: bool) -> list[Table]:
    """Show sparsity, bytes and drift; with -v of every tensor."""
    before, after = share(report.zeros_before, report.size), share(report.zeros_after, report.size)
    facts = [
        ("zeros", f"{after} of {count(report.size)} weights, {before} before"),
        ("tensors", str(len(report.tensors))),
        ("bytes", f"{size(report.bytes_after)}, {size(report.bytes_before)} before"),
        ("drift", "not measured" if drift is None else f"{drift:.3g} on random inputs"),
        ("written", output),
    ]
    tables = [Table(FACTS, facts)]
    if detailed:
        columns = (
            Column("tensor", fold=True), Column("weights", right=True), Column("zeros", right=True),
            Column("ungrouped", right=True), Column("stored"), Column("note", fold=True),
        )  # fmt: skip
        rows = [
            (
                t.name, str(t.size), share(t.zeros_after, t.size), str(t.ungrouped), t.encoding, t.note,
            )
            for t in report.tensors
        ]  # fmt: skip
        tables.append(Table(columns, rows))
    return tables


def sparsify_messages(report: SparsifyReport) -> list[str]:
    """Say where zeros did not make the file smaller, and what would."""
    if report.bytes_after < SMALLER * report.bytes_before:
        return []
    return [
        "note: the file is no smaller, as zeros are stored like other weights: compress it (zip, gzip) or, "
        "above two zeros in three, use --sparse-initializers; faster is only a runtime with sparse kernels"
    ]


def ops_tables(rules: Iterable[Rule]) -> list[Table]:
    """Show the operator table."""
    columns = (
        Column("operator"), Column("since", right=True), Column("family"), Column("from"),
        Column("what it does to channels", fold=True),
    )  # fmt: skip
    rows = [
        (f"{r.domain}::{r.op}" if r.domain else r.op, str(r.since), r.family, r.origin, r.summary)
        for r in rules
    ]
    return [Table(columns, rows)]
