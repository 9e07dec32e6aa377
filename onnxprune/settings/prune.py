"""What a user asks of one run of prune, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxprune.errors import UsageError
from onnxprune.registries import CRITERIA, METRICS, RECOVERIES, TARGETS
from onnxprune.settings.kinds import (
    Bytes,
    Data,
    Flag,
    Name,
    Number,
    Share,
    Step,
    Text,
    Whole,
    Word,
    described,
)  # fmt: skip
from onnxprune.settings.option import Group, Option, Part, check, resolved, section, setting, values_of
from onnxprune.settings.tables import Patterns, Ratios, Shapes, Targets, Values
from onnxprune.settings.types import check_types

SYNTHETIC = "synthetic"  # in place of calibration data: inputs are made up


def _criteria() -> str:
    data = [c for c in CRITERIA if c.needs_data]
    return f"{described(c for c in CRITERIA if not c.needs_data)}; with --calib {described(data)}."


def _targets() -> str:
    amounts, qualities = ([t for t in TARGETS if t.searched is searched] for searched in (False, True))
    *names, last = [t.name for t in amounts]
    return (
        f"{', '.join(names)} or {last}: a share of the original up to 1 ({names[0]}=0.5), or an amount "
        f"({', '.join(f'{t.name}={t.example}' for t in amounts)}); or how much worse it may get, for which "
        "the fewest MACs are searched in some 7 whole runs: "
        f"{', '.join(f'{t.name}={t.example}' for t in qualities)}. Repeatable; all must hold."
    )


@dataclass(frozen=True)
class PruneSettings:
    """Settings of one run.

    ratio: share of the channels removed; ratios: (pattern, ratio) pairs that override it.
    targets: what may remain, a share of the original up to 1 or an absolute amount (`macs`, `params`,
    `size` in bytes); or how much worse the outputs may get, `drift` or the `drop` of the metric, for which
    the fewest MACs are searched. align: widths are multiples of this many channels; 0 stands for `auto`.
    inline: which model-local functions are written out, `auto` for those without a rule, and whether
        branches that are always taken are.
    calib: calibration data as `read_calibration` takes it; the word "synthetic" makes it up. criterion: a
    name, or a function from a `ScoringInput` to the importance of its units. criterion, scope, recover:
    None for what suits the rest. memory_limit: bytes for the Gram matrices of one pass over the data, and
    for what a repair keeps between layers.
    validate: data to judge the whole model on, as for `calib`, with `labels` or targets beside the inputs;
    metric: a name, `script.py:function` or a function (outputs by name, labels or None), None for
    what suits the data; max_drop: by how much it may get worse, or nothing is written; max_drift: how far
    the outputs may drift on data that nothing was fitted to, or nothing is written; ruined: beyond this
    drift, or this share of missing agreement, a result is called ruined. steps: in how many to choose and
    repair.
    detailed: measure what only pages show, too: drift on generated inputs, time by kind of operator.
    Raises UsageError for values that make no sense.
    """

    ratio: float | None = setting(None, Option(Share(), "--ratio", shapes=Part.CHOICE))
    ratios: tuple[tuple[str, float], ...] = setting((), Option(
        Ratios("ratio"), "--ratio",
        "Share of every group's channels to remove, from 0 to below 1: 0.5 removes half. PATTERN=R for "
        "some nodes or tensors (glob, re:... or type:Conv). Repeatable. This or --target is required.",
        Group.REMOVAL, Part.CHOICE,
    ))  # fmt: skip
    targets: Mapping[str, float] = setting({}, Option(
        Targets(), "--target", "What may remain of ", Group.REMOVAL, Part.CHOICE, more=_targets,
    ))  # fmt: skip
    criterion: Any = setting(None, Option(
        Name(CRITERIA), "--criterion", "What ranks the channels: ", Group.CRITERION, Part.CHOICE,
        more=_criteria, usual="l2; obs with --calib",
        otherwise=lambda given: "l2" if given["calib"] is None else "obs",
    ))  # fmt: skip
    scope: str | None = setting(None, Option(
        Word(("local", "global")), "--scope",
        "Rank channels within every group (local) or all together (global).",
        Group.WIDTHS, Part.CHOICE, usual="local; global with --target",
        otherwise=lambda given: "global" if given["targets"] else "local",
    ))  # fmt: skip
    granularity: str = setting("finest", Option(
        Word(("finest", "columns", "rows")), "--granularity",
        "What goes as one where channels have rows and columns, as attention heads and Conv groups "
        "have: single channels where possible (finest), the same columns of every row, or whole rows "
        "(heads).", Group.WIDTHS, Part.CHOICE,
    ))  # fmt: skip
    align: int = setting(0, Option(
        Step(), "--align",
        "Keep widths that are multiples of N channels; auto takes what is fast on this processor (16 or "
        "8); 1 cuts exactly.", Group.WIDTHS, Part.RUN,
    ))  # fmt: skip
    min_channels: int = setting(1, Option(
        Whole(1), "--min-channels", "Channels that stay in every group, at least.", Group.WIDTHS, Part.CHOICE,
    ))  # fmt: skip
    exclude: tuple[str, ...] = setting((), Option(
        Patterns(), "--exclude",
        "Leave whole what a node or tensor of this name holds: glob, re:... or type:Conv. Repeatable.",
        Group.WIDTHS, Part.CHOICE,
    ))  # fmt: skip
    seed: int = setting(0, Option(
        Whole(), "--seed", "Seed of all random choices: the inputs of the proof, the criterion random.",
        Group.WIDTHS, Part.CHOICE,
    ))  # fmt: skip
    input_shapes: Mapping[str, tuple[int | None, ...]] = setting({}, Option(
        Shapes(), "--input-shape",
        "Sizes of an input when the model is run; ? for one to choose. Repeatable.",
        Group.INPUTS, Part.RUN, "as declared, batch 1",
    ))  # fmt: skip
    input_values: Mapping[str, Any] = setting({}, Option(
        Values(), "--input-value",
        "Value of an input when the model is run: a number, true, a JSON list, or a file of numpy.save. "
        "Repeatable.", Group.INPUTS, Part.RUN, "random",
    ))  # fmt: skip
    bench: bool = setting(True, Option(Flag(), "--no-bench", "Do not time the result.", Group.EVIDENCE))
    allow_unproved: bool = setting(False, Option(
        Flag(), "--allow-unproved",
        "Write the model also where onnxruntime cannot run it, so that nothing is proved.",
        Group.EVIDENCE, Part.RUN,
    ))  # fmt: skip
    threads: int = setting(1, Option(
        Whole(1), "--threads", "Threads of onnxruntime to time with.", Group.RUNTIME, Part.RUN,
    ))  # fmt: skip
    provider: str = setting("CPUExecutionProvider", Option(
        Text("P"), "--provider", "Execution provider of onnxruntime to time with.", Group.RUNTIME, Part.RUN,
    ))  # fmt: skip
    calib: Any = setting(None, Option(
        Data((SYNTHETIC,)), "--calib",
        "Inputs without labels, to choose and repair by: an .npz with arrays by input name, a folder of "
        ".npy or .npz files, or script.py:function, which is run; about 1000 samples do. Where there are "
        "none, the word synthetic makes them up, which is worse than data and better than nothing.",
        Group.CALIBRATION, Part.RUN,
    ))  # fmt: skip
    recover: str | None = setting(None, Option(
        Name(RECOVERIES), "--recover", "Repair of the weights by the data: ", Group.CALIBRATION, Part.REPAIR,
        more=lambda: f"{described(RECOVERIES)}.", usual="none; joint with --calib",
        otherwise=lambda given: "none" if given["calib"] is None else "joint",
    ))  # fmt: skip
    memory_limit: int = setting(2 << 30, Option(
        Bytes(), "--memory-limit",
        "Memory for statistics of the calibration data (read several times beyond it), and for what a "
        "repair keeps between layers (fewer samples beyond it).", Group.MEMORY, Part.RUN,
    ))  # fmt: skip
    inline: str = setting("auto", Option(
        Word(("auto", "all", "none")), "--inline",
        "Functions of the model to write out; auto: those without a rule.", Group.INLINE, Part.RUN,
    ))  # fmt: skip
    validate: Any = setting(None, Option(
        Data(), "--validate",
        "Inputs to judge the whole model on, before and after: as for --calib, with an array `labels` "
        "(a class for each sample) or targets by output name beside the inputs. Nothing is fitted to them.",
        Group.VALIDATION, Part.RUN,
    ))  # fmt: skip
    metric: Any = setting(None, Option(
        Name(METRICS, scripts=True), "--metric", "How --validate judges: ", Group.VALIDATION, Part.RUN,
        more=lambda: f"{described(METRICS)}; or script.py:function, which is run and gets the outputs "
        "(arrays by name) and the labels or None; higher is better.",
        usual="top1 with labels; agreement where the first output is [samples, classes]; else drift",
    ))  # fmt: skip
    max_drop: float | None = setting(None, Option(
        Number("X"), "--max-drop",
        "Gate: write nothing, and exit with 1, where the metric gets worse by more than X, in its own "
        "units (0.01 of top1 is one point).", Group.VALIDATION, Part.RUN,
    ))  # fmt: skip
    max_drift: float | None = setting(None, Option(
        Number("X"), "--max-drift",
        "Gate: write nothing, and exit with 1, where the outputs drift by more than X of their size on the "
        "validation data, else on the fifth of the calibration data that is held out.",
        Group.VALIDATION, Part.RUN,
    ))  # fmt: skip
    ruined: float = setting(0.5, Option(
        Number("X"), "--ruined",
        "Call a result ruined where the outputs drift by more than X on such data, or less than 1 - X of the "
        "classes or boxes are the unpruned model's: a warning, and in a batch a failure.",
        Group.VALIDATION, Part.RUN,
    ))  # fmt: skip
    steps: int = setting(1, Option(
        Whole(1), "--steps",
        "Choose and repair in this many steps, each looking at what the last one left; N times as long, "
        "and measured to be no better in general: compare with --validate.", Group.CALIBRATION, Part.CHOICE,
    ))  # fmt: skip
    detailed: bool = setting(False, Option(Flag()))

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        check_types(self)
        asked = self.ratio is not None or bool(self.ratios)
        if asked == bool(self.targets):
            raise UsageError(
                "one of --ratio and --target is required, not both: got " + ("both" if asked else "neither")
            )
        check(self)
        self._check_targets()
        if self.ratios and self.resolved_scope == "global":
            raise UsageError(
                "ratios by pattern go with the local scope only: leave --scope out, or use --ratio R"
            )
        if self.calib is None:
            self._check_without_data()
        if self.validate is None and (self.metric is not None or self.max_drop is not None):
            option = "--metric" if self.metric is not None else "--max-drop"
            raise UsageError(f"{option} judges on validation data: give --validate DATA")
        if self.max_drift is not None and self.validate is None and (self.calib is None or self.synthetic):
            got = "inputs that are made up cannot judge" if self.synthetic else "there is none"
            raise UsageError(f"--max-drift judges on data, and {got}: give --calib DATA or --validate DATA")

    def _check_without_data(self) -> None:
        criterion = CRITERIA.get(self.criterion) if isinstance(self.criterion, str) else self.criterion
        if getattr(criterion, "needs_data", False):
            raise UsageError(f"criterion {self.criterion} looks at activations: give --calib DATA, or a norm")
        if self.recover is not None and RECOVERIES.get(self.recover).needs_data:
            raise UsageError(f"--recover {self.recover} fits to activations: give --calib DATA")
        if self.steps > 1:
            raise UsageError("--steps chooses again after each repair, by data: give --calib DATA")

    def _check_targets(self) -> None:
        sought = [TARGETS.get(key) for key in self.sought]
        others = [key for key in self.targets if key not in self.sought]
        if sought and others:
            raise UsageError(
                f"target {sought[0].name} searches for the fewest MACs: leave out target {others[0]}"
            )
        for target in sought:
            if all(getattr(self, name) is None for name in target.needs):
                options = " or ".join(f"--{name} DATA" for name in target.needs)
                raise UsageError(f"target {target.name} is measured on data: give {options}")

    @property
    def sought(self) -> dict[str, float]:
        """Return the targets that are searched for: how much worse the outputs may get."""
        return {key: value for key, value in self.targets.items() if TARGETS.get(key).searched}

    @property
    def synthetic(self) -> bool:
        """Tell whether calibration inputs are to be made up."""
        return isinstance(self.calib, str) and self.calib == SYNTHETIC

    @property
    def resolved_criterion(self) -> Any:
        """Return the criterion: l2 without calibration data, obs with it, unless asked otherwise."""
        return resolved(PruneSettings, values_of(self), "criterion")

    @property
    def resolved_recover(self) -> str:
        """Return the repair: none without calibration data, joint with it, unless asked otherwise."""
        return str(resolved(PruneSettings, values_of(self), "recover"))

    @property
    def resolved_scope(self) -> str:
        """Return the scope: local for ratios, global for targets, unless asked otherwise."""
        return str(resolved(PruneSettings, values_of(self), "scope"))

    def of_plan(self) -> dict[str, Any]:
        """Return the settings that shape a plan, as plain data."""
        source = None if self.calib is None else "synthesised" if self.synthetic else "given"
        return {**dict(section(self, Part.CHOICE, Part.REPAIR)), "calibration": source}

    def of_run(self) -> dict[str, Any]:
        """Return the settings that shape a run and not the plan, as plain data."""
        return dict(section(self, Part.RUN))
