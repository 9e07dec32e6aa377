"""How a run ends: every exception becomes one line on stderr and an exit code."""

from __future__ import annotations

import atexit
import errno
import functools
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import click

from onnxprune.cli.screen import message
from onnxprune.errors import OnnxPruneError, ResourceError, UsageError, shortened

INTERNAL, INTERRUPTED, BROKEN_PIPE, TERMINATED = 70, 130, 141, 143
STOPPED = 124  # of a process whose parent says why
TRACEBACK = 2  # -vv
_LONGEST = 1000  # characters of a message, which may list names of a model


class Terminated(BaseException):
    """SIGTERM arrived; not an Exception, so that nothing but the end of the program catches it."""


class Interrupted(BaseException):
    """Ctrl-C; a KeyboardInterrupt would make click print a line of its own."""


class Stopped(BaseException):
    """The process above this one stops it, and says why."""


class ClosedOutput(Exception):
    """The reader of our output went away, as `head` does."""


@dataclass
class Invocation:
    """What the end of a run must know about it.

    alone: this process is the program `onnxprune` and nothing else, so that it may fork; forked: it was
    made so.
    """

    verbosity: int = 0
    alone: bool = False
    forked: bool = False


class Program(click.Group):
    """A group of commands that ends in our exit codes instead of click's."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command and exit with its code; without `standalone_mode` exceptions pass through."""
        run = extra.setdefault("obj", Invocation())
        run_command = functools.partial(super().main, *args, **{**extra, "standalone_mode": False})
        if not extra.get("standalone_mode", True):
            return run_command()
        code = _ended(run_command, run)
        return _left(code) if run.forked else sys.exit(code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; click's ways to end after a closed pipe or Ctrl-C are not ours."""
        try:
            result = super().invoke(ctx)
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
        except BrokenPipeError as error:
            raise ClosedOutput from error
        except KeyboardInterrupt as error:
            raise Interrupted from error
        return result


def _left(code: int) -> NoReturn:
    """Leave a forked process without onnxruntime's farewell, which waits for threads of before the fork."""
    try:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    finally:
        os._exit(code)


def _ended(action: Callable[[], Any], run: Invocation) -> int:
    try:
        return action() or 0
    except (Exception, Interrupted, KeyboardInterrupt, Terminated, Stopped) as error:  # noqa: BLE001
        return _stopped(error) or _reported(error, run.verbosity)


def _stopped(error: BaseException) -> int:
    """Say that a run was stopped, if this error came of that; return the exit code, 0 if it did not.

    A Ctrl-C while a binary module is imported, for instance, ends as an ImportError.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (Interrupted, KeyboardInterrupt)):
            return _told("interrupted", INTERRUPTED)
        if isinstance(cause, Terminated):
            return _told("terminated", TERMINATED)
        if isinstance(cause, Stopped):
            return STOPPED
        cause = cause.__cause__ or cause.__context__
    return 0


def _reported(error: BaseException, verbosity: int) -> int:
    """Print an error in one line, with -vv its traceback before; return the exit code."""
    if isinstance(error, ClosedOutput):
        return _muted()
    text, code = _described(error)
    if verbosity >= TRACEBACK and sys.stderr is not None:
        traceback.print_exception(error, file=sys.stderr)
    return _told(text, code)


def _described(error: BaseException) -> tuple[str, int]:
    line = shortened(" ".join(str(error).split()), _LONGEST)
    match error:
        case OnnxPruneError():
            return f"error: {line}", error.exit_code
        case click.UsageError():
            hint = f" (see '{error.ctx.command_path} --help')" if error.ctx else ""
            return f"error: {_one_line(error)}{hint}", UsageError.exit_code
        case click.Abort():
            return "interrupted", INTERRUPTED
        case click.ClickException():
            return f"error: {_one_line(error)}", UsageError.exit_code
        case MemoryError():
            return (
                "error: out of memory; use smaller inputs (--input-shape) or a machine with more",
                ResourceError.exit_code,
            )
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return f"error: {error.strerror}; free some space", ResourceError.exit_code
    return (
        f"internal error: {type(error).__name__}: {line}; please report it with the command and the model "
        "(-vv shows the traceback)",
        INTERNAL,
    )


def _one_line(error: click.ClickException) -> str:
    return shortened(" ".join(error.format_message().split()), _LONGEST)


def _told(text: str, code: int) -> int:
    with suppress(OSError):
        message(text)
    return code


def _muted() -> int:
    """Give stdout and stderr a reader, so that the interpreter's last flush does not fail."""
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(null, stream.fileno())
        os.close(null)
    return BROKEN_PIPE
