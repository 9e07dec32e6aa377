"""The commands: parse, call the API, print."""

from __future__ import annotations

import io
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import onnxprune
from onnxprune.cli import inspection, tables
from onnxprune.cli import page as paging
from onnxprune.cli.batch import batch
from onnxprune.cli.compare import compare
from onnxprune.cli.errors import Invocation, Program, Terminated
from onnxprune.cli.options import PATH, chosen, common, force, from_settings, output, proof_seed
from onnxprune.cli.screen import Screen
from onnxprune.cli.sensitivity import sensitivity
from onnxprune.cli.supervise import supervised
from onnxprune.errors import GateFailed, OnnxPruneError, TargetMissed, UnprovedError, UsageError
from onnxprune.reports.wording import proof_line
from onnxprune.settings import PruneSettings
from onnxprune.settings.option import Group

if TYPE_CHECKING:
    import onnx


BEFORE_FILES = (
    Group.REMOVAL, Group.CRITERION, Group.CALIBRATION, Group.MEMORY, Group.VALIDATION, Group.WIDTHS,
)  # fmt: skip
AFTER_FILES = (Group.EVIDENCE, Group.INLINE, Group.INPUTS, Group.RUNTIME)


@click.group(
    cls=Program,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(onnxprune.__version__, prog_name="onnxprune", message="%(prog)s %(version)s")
@click.pass_context
def program(ctx: click.Context) -> int:
    """Remove channels, heads and neurons from ONNX models, proved and timed with onnxruntime.

    \b
    Example:
      onnxprune prune model.onnx -o small.onnx --ratio 0.5

    \b
    Exit codes:
      0 done                  4 nothing to prune
      1 target missed, gate   5 nothing could be proved
        failed, difference    6 out of memory, disk or time
        or something worse    7 a batch ended with failures
      2 wrong usage           70 internal error
      3 invalid model         130, 143 interrupted
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
    return UsageError.exit_code


@program.command()
@click.argument("model", type=PATH)
@output(required=False)
@from_settings(PruneSettings, *BEFORE_FILES)
@click.option("--plan", "plan_path", type=PATH, metavar="FILE", help="Write the plan, too: JSON.")
@paging.report
@click.option("--dry-run", is_flag=True, help="Choose and prove, but write no model, only the --plan.")
@force
@from_settings(PruneSettings, *AFTER_FILES)
@common
@supervised
def prune(screen: Screen, model: Path, **options: Any) -> int:
    """Remove channels, heads and neurons; prove and time the result.

    \b
    Example:
      onnxprune prune model.onnx -o small.onnx --target macs=0.5
    """
    target, plan = options["output"], options["plan_path"]
    if target is None and not options["dry_run"]:
        raise click.UsageError("-o OUT is required; --dry-run writes no model", click.get_current_context())
    settings = chosen(PruneSettings, options, *BEFORE_FILES, *AFTER_FILES)
    if options["dry_run"]:
        target, settings["bench"] = None, False
    page = options["report_path"]
    named = {"plan": plan, "report": page}
    places = {name: str(path) for name, path in named.items() if path is not None}
    places["written"] = "nothing, as asked by --dry-run" if target is None else str(target)
    checked = PruneSettings(**settings)
    files = onnxprune.SideFiles(plan, page, paging.read_curves(options["curves_path"], page))
    try:
        with screen.working(f"pruning {model}") as progress:
            result = onnxprune.prune(model, checked, target, options["force"], files, progress)
    except GateFailed as error:
        _show(screen, error.result, {"written": "nothing: the gate failed"})
        raise
    _show(screen, result, places)
    if result.report.missed:
        written = "no model is written, as asked by --dry-run" if target is None else f"'{target}' is written"
        raise TargetMissed(f"target missed: {tables.missed_line(result.report)}; {written}")
    return 0


def _show(screen: Screen, result: Any, places: Mapping[str, str]) -> None:
    screen.say(tables.prune_messages(result.report))
    screen.result(result.report, tables.prune_tables(result.report, places, screen.detailed))


@program.command()
@click.argument("model", type=PATH)
@from_settings(PruneSettings, Group.INLINE, Group.INPUTS)
@common
@supervised
def inspect(screen: Screen, model: Path, **options: Any) -> int:
    """List groups and what is frozen; members with -v.

    \b
    Example:
      onnxprune inspect model.onnx
    """
    given = chosen(PruneSettings, options, Group.INLINE, Group.INPUTS)
    with screen.working(f"inspecting {model}"):
        report = onnxprune.inspect(model, given["input_shapes"], given["input_values"], given["inline"])
    screen.say([f"warning: {text}" for text in report.warnings])
    screen.result(report, inspection.inspect_tables(report, str(model), screen.detailed))
    return 0


@program.command()
@click.argument("model", type=PATH)
@click.option("--plan", type=PATH, required=True, metavar="FILE", help="The plan to carry out: JSON.")
@output(required=True)
@force
@from_settings(PruneSettings, "input_values")
@proof_seed
@common
@supervised
def apply(screen: Screen, model: Path, plan: Path, **options: Any) -> int:
    """Carry out a plan on its model, and prove the result.

    \b
    Example:
      onnxprune apply model.onnx --plan plan.json -o small.onnx
    """
    target = options["output"]
    with screen.working(f"pruning {model}") as progress:
        values = chosen(PruneSettings, options, "input_values")["input_values"]
        result = onnxprune.apply(model, plan, target, options["force"], values, options["seed"], progress)
    screen.say(tables.prune_messages(result.report))
    places = {"plan": str(plan), "written": str(target)}
    shown = tables.prune_tables(result.report, places, screen.detailed, planned=True)
    screen.result(result.report, shown)
    return 0


@program.command()
@click.argument("pruned", type=PATH)
@click.option("--original", type=PATH, required=True, metavar="MODEL", help="The model before pruning.")
@click.option("--plan", type=PATH, required=True, metavar="FILE", help="The plan that was carried out.")
@from_settings(PruneSettings, "input_values")
@proof_seed
@common
@supervised
def verify(screen: Screen, pruned: Path, original: Path, plan: Path, **options: Any) -> int:
    """Prove a plan, and check that a model is its result.

    Exits with 1 where the model differs, with 5 where the plan cannot be proved.

    \b
    Example:
      onnxprune verify small.onnx --original model.onnx --plan plan.json
    """
    with screen.working(f"verifying {pruned}") as progress:
        values = chosen(PruneSettings, options, "input_values")["input_values"]
        report = onnxprune.verify(pruned, original, plan, values, options["seed"], progress)
    screen.result(report, tables.verify_tables(report))
    if report.verification.status not in ("proved", "weak"):
        raise UnprovedError(f"the plan's result is not proved: {proof_line(report.verification)}")
    if not report.matches_plan:
        count = len(report.differences)
        found = f"{count} difference{'' if count == 1 else 's'}"
        raise TargetMissed(f"'{pruned}' is not what the plan makes of '{original}': {found}")
    return 0


@program.command()
@click.argument("models", type=PATH, nargs=-1, required=True, metavar="MODEL...")
@from_settings(PruneSettings, Group.INPUTS, Group.RUNTIME)
@common
@supervised
def bench(screen: Screen, models: tuple[Path, ...], **options: Any) -> int:
    """Time models against the first, interleaved, in onnxruntime.

    \b
    Example:
      onnxprune bench model.onnx small.onnx
    """
    settings = onnxprune.BenchSettings(options["provider"], options["threads"])
    shapes, values = _inputs(options)
    with screen.working(f"timing {len(models)} models" if len(models) > 1 else f"timing {models[0]}"):
        result = onnxprune.bench(models, settings, shapes, values)
    screen.say(tables.bench_messages(result))
    screen.result(result, tables.bench_tables(result))
    return 0


@program.command()
@click.argument("model", type=PATH)
@output(required=True)
@click.option(
    "--sparsity", type=float, metavar="S", help="Share of the weights to zero, above 0 and below 1."
)
@click.option(
    "--pattern", metavar="N:M",
    help="Keep the N largest of every M weights along the input channels, as in 2:4. "
    "This or --sparsity is required.",
)  # fmt: skip
@click.option(
    "--scope", type=click.Choice(("local", "global")), default="local", show_default=True,
    help="Rank weights within every tensor (local) or all together (global).",
)  # fmt: skip
@from_settings(PruneSettings, "exclude")
@click.option(
    "--sparse-initializers", is_flag=True,
    help="Store as sparse tensors what is smaller so: from about two zeros in three on.",
)  # fmt: skip
@force
@from_settings(PruneSettings, Group.INPUTS)
@common
@supervised
def sparsify(screen: Screen, model: Path, **options: Any) -> int:
    """Zero weights by magnitude; shapes stay, and so does speed.

    \b
    Example:
      onnxprune sparsify model.onnx -o sparse.onnx --sparsity 0.5
    """
    keys = ("sparsity", "pattern", "scope", "exclude", "sparse_initializers")
    settings = onnxprune.SparsifySettings(**{key: options[key] for key in keys})
    shapes, values = _inputs(options)
    with screen.working(f"sparsifying {model}"):
        original = _loaded(model, shapes, values)
        result = onnxprune.sparsify(model, settings, options["output"], options["force"])
        moved, reason = _drift(original, result.model, shapes, values)
    screen.say([f"warning: drift is not measured: {reason}"] if moved is None else [])
    screen.say(tables.sparsify_messages(result.report))
    shown = tables.sparsify_tables(result.report, moved, str(options["output"]), screen.detailed)
    screen.result({**result.report.to_dict(), "drift": moved}, shown)
    return 0


def _inputs(options: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return sizes and values of inputs by name."""
    given = chosen(PruneSettings, options, Group.INPUTS)
    return given["input_shapes"], given["input_values"]


def _loaded(path: Path, shapes: Mapping[str, Any], values: Mapping[str, Any]) -> onnx.ModelProto:
    """Load a model, and refuse sizes and values that its inputs do not take."""
    from onnxprune.analysis.analyse import load
    from onnxprune.model.feeds import check_given

    model = load(path).model
    check_given(model, shapes, values)
    return model


def _drift(
    original: onnx.ModelProto, other: onnx.ModelProto, shapes: Mapping[str, Any], values: Mapping[str, Any]
) -> tuple[float | None, str]:
    """Measure drift on random inputs; where that is not possible return None and why."""
    from onnxprune.evaluation.drift import generated_drift
    from onnxprune.model.feeds import find_feeds

    try:
        first = find_feeds(original, shapes, values)
        return generated_drift(original, other, first, values), ""
    except OnnxPruneError as error:
        return None, str(error)


@program.command()
@common
def ops(screen: Screen) -> int:
    """List the operators with a rule, where it comes from, and what it does to channels.

    \b
    Example:
      onnxprune ops --json
    """
    from onnxprune.rules import REGISTRY, load_plugins

    load_plugins()
    rules = REGISTRY.table()
    names = ("op", "since", "family", "origin", "summary")
    rows = [{"domain": r.domain or "ai.onnx", **{name: getattr(r, name) for name in names}} for r in rules]
    screen.result({"operators": rows}, tables.ops_tables(rules))
    return 0


program.add_command(sensitivity)
program.add_command(compare)
program.add_command(batch)


def main() -> None:
    """Run the command line and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names may hold what the terminal's encoding cannot
            stream.reconfigure(errors="backslashreplace")
    if not sys.warnoptions:  # numpy's words on overflow are for who reads the code
        warnings.simplefilter("ignore", RuntimeWarning)
    with _terminable():
        program.main(prog_name="onnxprune", obj=Invocation(alone=True))


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the run as an exception does, so that no temporary file is left behind."""

    def terminate(*_: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
