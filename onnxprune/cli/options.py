"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from onnxprune.choices import CRITERIA, GRANULARITIES, INLINING, METRICS, RECOVERIES, SCOPES
from onnxprune.cli.errors import Invocation
from onnxprune.cli.screen import Screen
from onnxprune.errors import UsageError
from onnxprune.quantities import parse_bytes, read_target

Command = TypeVar("Command", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)
_SETTINGS = ("calib", "recover", "memory_limit", "criterion", "scope", "granularity", "align", "min_channels",
             "exclude", "seed", "allow_unproved", "inline", "threads", "provider", "validate", "metric",
             "max_drop", "steps")  # fmt: skip


class _Text(click.ParamType):
    """An option value read by a function that raises UsageError."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the value; click names the option in the message."""
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


def read_ratio(text: str) -> tuple[str | None, float]:
    """Read 'R' or 'PATTERN=R' as a pattern (or None) and a ratio.

    Raises UsageError where R is no number.
    """
    pattern, equals, number = text.rpartition("=")
    if equals and not pattern:
        raise UsageError(f"got '{text}', expected a pattern before '=': a name, a glob or type:Conv")
    try:
        return pattern or None, float(number)
    except ValueError:
        raise UsageError(f"got '{number}', expected the share removed, such as 0.5 or 'conv1*=0.3'") from None


def read_shape(text: str) -> tuple[str, tuple[int | None, ...]]:
    """Read 'NAME:1,3,224,224'; '?' and -1 stand for sizes to choose, nothing for a scalar.

    Raises UsageError where a size is no number.
    """
    name, colon, sizes = text.rpartition(":")
    if not colon or not name:
        raise UsageError(f"got '{text}', expected NAME:SIZES such as input:1,3,224,224")
    shape = tuple(_size(part.strip(), text) for part in sizes.split(",")) if sizes.strip() else ()
    return name, shape


def _size(text: str, whole: str) -> int | None:
    if text in ("?", "-1"):
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise UsageError(f"got size '{text}' in '{whole}', expected a number, or ? for one to choose")
    return int(text)


def read_value(text: str) -> tuple[str, Any]:
    """Read 'NAME=VALUE' (a number, true, false, a list in JSON, or text) or 'NAME=FILE.npy'.

    Raises UsageError for a file that cannot be read or holds Python objects.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"got '{text}', expected NAME=VALUE or NAME=FILE.npy")
    if value.endswith(".npy"):
        return name, _array(value)
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def _array(path: str) -> Any:
    import numpy as np

    try:
        with Path(path).open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise UsageError(f"file '{path}' cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, SyntaxError) as error:
        raise UsageError(f"file '{path}' is not an array written by numpy.save: {error}") from error


def read_step(text: str) -> int:
    """Read 'auto' as 0, or a number of channels.

    Raises UsageError for anything else.
    """
    if text == "auto":
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise UsageError(f"got '{text}', expected auto or a number of channels, at least 1")
    return int(text)


RATIO = _Text("r", read_ratio)
TARGET = _Text("key=value", read_target)
SHAPE = _Text("name:sizes", read_shape)
VALUE = _Text("name=value", read_value)
STEP = _Text("auto|n", read_step)
SIZE = _Text("size", parse_bytes)


def unique(option: str, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Collect the pairs of a repeatable option.

    Raises UsageError for a name that is given twice.
    """
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise UsageError(f"{option}: '{name}' is given twice")
        result[name] = value
    return result


def split_ratios(
    pairs: Iterable[tuple[str | None, float]],
) -> tuple[float | None, tuple[tuple[str, float], ...]]:
    """Split --ratio values into the one for all groups and those for patterns.

    Raises UsageError where there are two for all groups.
    """
    plain = [ratio for pattern, ratio in pairs if pattern is None]
    if len(plain) > 1:
        raise UsageError(f"--ratio: got {len(plain)} for all groups, expected one; others are PATTERN=R")
    special = tuple((pattern, ratio) for pattern, ratio in pairs if pattern is not None)
    return (plain[0] if plain else None), special


def common(function: Command) -> Command:
    """Add --json, -v and -q; the function gets a Screen as its first argument."""

    @click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
    @click.option("-v", "--verbose", count=True, help="Print more; -vv adds tracebacks to errors.")
    @click.option("-q", "--quiet", is_flag=True, help="Print the result and errors only.")
    @click.pass_context
    @functools.wraps(function)
    def command(ctx: click.Context, as_json: bool, verbose: int, quiet: bool, **options: Any) -> Any:
        if quiet and verbose:
            raise UsageError("-q and -v exclude each other: got both")
        run = ctx.find_object(Invocation)
        if run is not None:
            run.verbosity = verbose
        return function(Screen(as_json, -1 if quiet else verbose), **options)

    return command  # type: ignore[return-value]


def input_shapes(function: Command) -> Command:
    """Add --input-shape."""
    return click.option(
        "--input-shape", "input_shapes", type=SHAPE, multiple=True, metavar="NAME:1,3,224,224",
        help="Sizes of an input when the model is run; ? for one to choose. Repeatable.  "
        "[default: as declared, batch 1]",
    )(function)  # fmt: skip


def inputs(function: Command) -> Command:
    """Add --input-shape and --input-value."""
    return input_shapes(input_values(function))


def input_values(function: Command) -> Command:
    """Add --input-value."""
    return click.option(
        "--input-value", "input_values", type=VALUE, multiple=True, metavar="NAME=VALUE|FILE.npy",
        help="Value of an input when the model is run: a number, true, a JSON list, or a file of numpy.save. "
        "Repeatable.  [default: random]",
    )(function)  # fmt: skip


def proof_seed(function: Command) -> Command:
    """Add --seed, of the inputs that a proof runs."""
    return click.option(
        "--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
        help="Seed of the inputs that the proof runs with.",
    )(function)  # fmt: skip


def runtime(function: Command) -> Command:
    """Add --provider and --threads."""
    provider = click.option(
        "--provider", default="CPUExecutionProvider", show_default=True, metavar="P",
        help="Execution provider of onnxruntime to time with.",
    )  # fmt: skip
    threads = click.option(
        "--threads", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
        help="Threads of onnxruntime to time with.",
    )  # fmt: skip
    return provider(threads(function))


def criterion(function: Command) -> Command:
    """Add --criterion."""
    return click.option(
        "--criterion", type=click.Choice(CRITERIA),
        help="What ranks the channels: norms of their weights (l1, l2, linf), scales of normalisations "
        "(bn-scale), distance from the other filters (fpgm), chance (random); with --calib their activations "
        "(activation), these times the weights (wanda), or what their consumers lose (obs).  "
        "[default: l2; obs with --calib]",
    )(function)  # fmt: skip


def calib(required: bool) -> Callable[[Command], Command]:
    """Add --calib."""
    return click.option(
        "--calib", metavar="DATA", required=required,
        help="Inputs without labels, to choose and repair by: an .npz with arrays by input name, a folder of "
        ".npy or .npz files, or script.py:function, which is run; about 1000 samples do. Where there are "
        "none, the word synthetic makes them up, which is worse than data and better than nothing.",
    )  # fmt: skip


def memory_limit(function: Command) -> Command:
    """Add --memory-limit."""
    return click.option(
        "--memory-limit", type=SIZE, default="2GiB", show_default=True, metavar="SIZE",
        help="Memory for statistics of the calibration data (read several times beyond it), and for what a "
        "repair keeps between layers (fewer samples beyond it).",
    )(function)  # fmt: skip


def granularity(function: Command) -> Command:
    """Add --granularity."""
    return click.option(
        "--granularity", type=click.Choice(GRANULARITIES), default="finest", show_default=True,
        help="What goes as one where channels have rows and columns, as attention heads and Conv groups "
        "have: single channels where possible (finest), the same columns of every row, or whole rows "
        "(heads).",
    )(function)  # fmt: skip


def exclude(function: Command) -> Command:
    """Add --exclude."""
    return click.option(
        "--exclude", multiple=True, metavar="PATTERN",
        help="Leave whole what a node or tensor of this name holds: glob, re:... or type:Conv. Repeatable.",
    )(function)  # fmt: skip


def inline(function: Command) -> Command:
    """Add --inline."""
    return click.option(
        "--inline", type=click.Choice(INLINING), default="auto", show_default=True,
        help="Functions of the model to write out; auto: those without a rule.",
    )(function)  # fmt: skip


def force(function: Command) -> Command:
    """Add --force."""
    return click.option("--force", is_flag=True, help="Replace output files that exist.")(function)


def output(required: bool) -> Callable[[Command], Command]:
    """Add -o."""
    return click.option(
        "-o", "--output", type=PATH, required=required, metavar="OUT", help="Where to write the model."
    )


def removal(function: Command) -> Command:
    """Add --ratio and --target."""
    ratio = click.option(
        "--ratio", "ratios", type=RATIO, multiple=True, metavar="R|PATTERN=R",
        help="Share of every group's channels to remove, from 0 to below 1: 0.5 removes half. PATTERN=R for "
        "some nodes or tensors (glob, re:... or type:Conv). Repeatable. This or --target is required.",
    )  # fmt: skip
    target = click.option(
        "--target", "targets", type=TARGET, multiple=True, metavar="KEY=VALUE",
        help="What may remain of macs, params or size: a share of the original up to 1 (macs=0.5), or an "
        "amount (macs=500M, params=2M, size=10MB); or how much worse it may get, for which the fewest MACs "
        "are searched in some 7 whole runs: drift=0.05 of the outputs, drop=0.01 of the metric. Repeatable; "
        "all must hold.",
    )  # fmt: skip
    return ratio(target(function))


def widths(function: Command) -> Command:
    """Add --scope, --granularity, --align and --min-channels."""
    scope = click.option(
        "--scope", type=click.Choice(SCOPES),
        help="Rank channels within every group (local) or all together (global).  "
        "[default: local; global with --target]",
    )  # fmt: skip
    align = click.option(
        "--align", type=STEP, default="auto", show_default=True, metavar="auto|N",
        help="Keep widths that are multiples of N channels; auto takes what is fast on this processor (16 or "
        "8); 1 cuts exactly.",
    )  # fmt: skip
    least = click.option(
        "--min-channels", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
        help="Channels that stay in every group, at least.",
    )  # fmt: skip
    return scope(granularity(align(least(function))))


def seed(function: Command) -> Command:
    """Add --seed, of all random choices."""
    return click.option(
        "--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
        help="Seed of all random choices: the inputs of the proof, the criterion random.",
    )(function)  # fmt: skip


def evidence(function: Command) -> Command:
    """Add --no-bench and --allow-unproved."""
    no_bench = click.option("--no-bench", is_flag=True, help="Do not time the result.")
    unproved = click.option(
        "--allow-unproved", is_flag=True,
        help="Write the model also where onnxruntime cannot run it, so that nothing is proved.",
    )  # fmt: skip
    return no_bench(unproved(function))


def prune_settings(options: Mapping[str, Any], given: Container[str]) -> dict[str, Any]:
    """Return those of the options that are fields of PruneSettings, as it takes them.

    given: names of the options to take. Raises UsageError for names that are given twice.
    """
    ratio, ratios = split_ratios(options["ratios"])
    read: dict[str, dict[str, Any]] = {
        "ratios": {"ratio": ratio, "ratios": ratios},
        "targets": {"targets": unique("--target", options["targets"])},
        "input_shapes": {"input_shapes": unique("--input-shape", options["input_shapes"])},
        "input_values": {"input_values": unique("--input-value", options["input_values"])},
        "no_bench": {"bench": not options["no_bench"]},
    }
    result: dict[str, Any] = {}
    for name in (*read, *_SETTINGS):
        if name in given and name in options:
            result |= read.get(name) or {name: options[name]}
    return result


def calibration(function: Command) -> Command:
    """Add --calib, --recover, --steps and --memory-limit."""
    return repair(memory_limit(function))


def repair(function: Command) -> Command:
    """Add --calib, --recover and --steps."""
    recover = click.option(
        "--recover", type=click.Choice(RECOVERIES),
        help="Repair of the weights by the data: biases only (bias), weights by least squares between "
        "channels (ls), every layer fitted to the original's outputs (refit), or layers fitted "
        "together after that (joint).  [default: none; joint with --calib]",
    )  # fmt: skip
    steps = click.option(
        "--steps", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
        help="Choose and repair in this many steps, each looking at what the last one left; N times as long, "
        "and measured to be no better in general: compare with --validate.",
    )  # fmt: skip
    return calib(required=False)(recover(steps(function)))


def validation(function: Command) -> Command:
    """Add --validate, --metric and --max-drop."""
    validate = click.option(
        "--validate", metavar="DATA",
        help="Inputs to judge the whole model on, before and after: as for --calib, with an array `labels` "
        "(a class for each sample) or targets by output name beside the inputs. Nothing is fitted to them.",
    )  # fmt: skip
    metric = click.option(
        "--metric", metavar="NAME",
        help=f"How --validate judges: {', '.join(METRICS)}, or script.py:function, which is run and gets the "
        "outputs (arrays by name) and the labels or None; higher is better. agreement and drift compare with "
        "the unpruned model, cosine and psnr (dB, at most 100) with targets or else with it, too.  [default: "
        "top1 with labels; agreement where the first output is [samples, classes]; else drift]",
    )  # fmt: skip
    max_drop = click.option(
        "--max-drop", type=float, metavar="X",
        help="Gate: write nothing, and exit with 1, where the metric gets worse by more than X, in its own "
        "units (0.01 of top1 is one point).",
    )  # fmt: skip
    return validate(metric(max_drop(function)))
