"""Options of commands: made from what settings say of themselves, and those that only commands have."""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from onnxprune.cli.errors import Invocation
from onnxprune.cli.screen import Screen
from onnxprune.errors import UsageError
from onnxprune.settings.kinds import Flag, Kind, Whole
from onnxprune.settings.option import Group, Option, defaults_of, options_of

Command = TypeVar("Command", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)


class Value(click.ParamType):
    """A value read by the kind of a setting, which raises UsageError."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.name = kind.metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the value; click names the option in the message."""
        if not isinstance(value, str):
            return value
        try:
            return self.kind.parse(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(
        self, _ctx: click.Context, _param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Complete words to choose from."""
        return [CompletionItem(word) for word in self.kind.choices() if word.startswith(incomplete)]


class _Described(Value):
    """The value of a setting, with all that is said of it."""

    def __init__(self, option: Option) -> None:
        super().__init__(option.kind)
        self.option = option


class _SettingOption(click.Option):
    """An option whose help is made when it is shown, since it may list what other packages bring."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return what the help of the command shows; the words to choose from are asked for now."""
        if isinstance(self.type, _Described):
            choices = self.type.kind.choices()
            self.metavar = f"[{'|'.join(choices)}]" if choices else self.type.kind.metavar
            self.help = self.type.option.text()
        return super().get_help_record(ctx)


def from_settings(settings: type, *which: Group | str) -> Callable[[Command], Command]:
    """Add the options of settings, by groups and by names of single ones, in this order."""

    def add(function: Command) -> Command:
        for name, option in reversed(list(_selected(settings, which))):
            function = _decorator(name, option, defaults_of(settings)[name])(function)
        return function

    return add


def chosen(
    settings: type, options: Mapping[str, Any], *which: Group | str, given: Container[str] | None = None
) -> dict[str, Any]:
    """Return the values of options as the settings take them.

    given: names of the options to take, by default all. Raises UsageError for names that are given twice.
    """
    result: dict[str, Any] = {}
    for name, option in _selected(settings, which):
        if given is None or name in given:
            value = options[name]
            if isinstance(option.kind, Flag):
                value = value != defaults_of(settings)[name]  # the option stands for the other one
            result |= option.kind.fields(name, value)
    return result


def _selected(settings: type, which: tuple[Group | str, ...]) -> Iterator[tuple[str, Option]]:
    known = options_of(settings)
    for wanted in which:
        if isinstance(wanted, Group):
            yield from ((name, option) for name, option in known.items() if option.group is wanted)
        else:
            yield wanted, known[wanted]


def _decorator(name: str, option: Option, default: Any) -> Callable[[Command], Command]:
    kind = option.kind
    if isinstance(kind, Flag):
        return click.option(option.flag, name, is_flag=True, help=option.help)
    if isinstance(kind, Whole):
        return click.option(
            option.flag, name, type=click.IntRange(min=kind.least), default=default, metavar=kind.metavar,
            show_default=option.usual or True, help=option.help,
        )  # fmt: skip
    if default in (None, MISSING, (), {}):
        shown = None
    else:
        shown = default if kind.repeatable else kind.shown(default)
    return click.option(
        option.flag, name, cls=_SettingOption, type=_Described(option), multiple=kind.repeatable,
        default=shown, required=default is MISSING, show_default=shown is not None, help=option.help,
    )  # fmt: skip


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


def proof_seed(function: Command) -> Command:
    """Add --seed, of the inputs that a proof runs."""
    return click.option(
        "--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
        help="Seed of the inputs that the proof runs with.",
    )(function)  # fmt: skip


def force(function: Command) -> Command:
    """Add --force."""
    return click.option("--force", is_flag=True, help="Replace output files that exist.")(function)


def output(required: bool) -> Callable[[Command], Command]:
    """Add -o."""
    return click.option(
        "-o", "--output", type=PATH, required=required, metavar="OUT", help="Where to write the model."
    )
