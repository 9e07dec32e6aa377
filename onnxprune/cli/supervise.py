"""A command in a process of its own: what kills it, or never ends, becomes one line and an exit code.

Models are run by native code, which can crash and can loop, and no exception gets out of either. So the
command line forks before it works: the child goes on as if nothing had happened, the parent waits for it.
"""

from __future__ import annotations

import ctypes
import faulthandler
import functools
import os
import re
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

import click

from onnxprune.cli.errors import STOPPED, TERMINATED, TRACEBACK, Invocation, Stopped, Terminated
from onnxprune.errors import ResourceError, UnprovedError, UsageError
from onnxprune.model.temporary import sweep

Command = TypeVar("Command", bound=Callable[..., Any])
_GRACE = 2.0  # seconds from a signal to the end of the command, before it is killed
_SET_PARENT_DEATH_SIGNAL = 1  # of prctl, Linux
_CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE")
_FRAME = re.compile(r'File "(?P<file>.+)", line \d+ in (?P<function>\S+)')
_STAGES = (
    ("model/source", "reading the model"),
    ("model/flow", "checking the model"),
    ("model/load", "checking the model"),
    ("model/check", "checking the model"),
    ("model/inline", "writing functions out"),
    ("model/feeds", "finding inputs that run the model"),
    ("model/save", "writing the result"),
    ("model/files", "writing files"),
    ("oracle/cases", "finding inputs that run the model"),
    ("oracle", "proving the result"),
    ("data/synthetic", "making calibration data up"),
    ("data/read", "reading data"),
    ("data", "running the calibration data"),
    ("evaluation/latency", "timing"),
    ("evaluation", "measuring the outputs"),
    ("analysis", "analysing the model"),
    ("planning", "choosing channels"),
    ("rewrite", "rewriting the model"),
    ("recovery", "repairing weights"),
    ("reports", "writing the report"),
)


def supervised(function: Command) -> Command:
    """Add --timeout, and run a command below a process that survives it."""

    @click.option(
        "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
        help="Stop after this time; nothing half written stays.",
    )  # fmt: skip
    @click.pass_context
    @functools.wraps(function)
    def command(ctx: click.Context, *args: Any, timeout: float | None, **options: Any) -> Any:
        run = ctx.find_object(Invocation) or Invocation()
        able = run.alone and hasattr(os, "fork")
        if timeout is not None and not able:
            raise UsageError("--timeout needs the program `onnxprune`, on a system that forks processes")
        code = _watched(timeout, run.verbosity, options) if able else None
        if code is not None:
            return code
        run.forked = able
        return ctx.invoke(function, *args, **options)

    return command  # type: ignore[return-value]


def _watched(seconds: float | None, verbosity: int, options: Mapping[str, Any]) -> int | None:
    """Fork; return None in the child, and in the parent the exit code of the child once it has ended.

    options: of the command; what a child that died was writing to a path among them is removed. Raises
    ResourceError where the time is over or the child was killed, UnprovedError where it crashed.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    with tempfile.TemporaryFile() as trace:
        parent, before = os.getpid(), {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
        listening = _Listening()
        pid = os.fork()
        if not pid:
            listening.close()
            _settle(parent, trace.fileno(), before)
            return None
        try:
            end = _Child(pid, seconds, listening).ended()
        finally:
            listening.close()
        if end.code >= 0 and end.code != STOPPED:
            return end.code
        for path in (value for value in options.values() if isinstance(value, Path)):
            sweep(path)
        return _judged(end, _Trace.read(trace), seconds, verbosity)


class _Listening:
    """A pipe that wakes a waiting process up when a signal comes."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.writing, False)
        os.set_blocking(self.reading, False)
        self.heard: list[int] = []
        watched = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
        self._before = {n: signal.signal(n, lambda number, _: self.heard.append(number)) for n in watched}
        self._woken = signal.set_wakeup_fd(self.writing, warn_on_full_buffer=False)

    def wait(self, seconds: float | None) -> list[int]:
        """Wait so long, or for a signal; return those that came."""
        select.select([self.reading], [], [], seconds)
        with suppress(BlockingIOError):
            os.read(self.reading, 1 << 10)
        found, self.heard[:] = list(self.heard), []
        return found

    def close(self) -> None:
        """Give the signals back to whom they belonged."""
        signal.set_wakeup_fd(self._woken)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self.reading)
        os.close(self.writing)


@dataclass(frozen=True)
class _End:
    """How the child ended: code as `waitstatus_to_exitcode` has it; stopped: why we stopped it, or 0."""

    code: int
    stopped: int


@dataclass
class _Child:
    pid: int
    seconds: float | None
    signals: _Listening
    begun: float = field(default_factory=time.monotonic)
    stopped: int = 0
    told: float = 0.0

    def ended(self) -> _End:
        """Wait for the end of the child, pass signals on, and stop it when its time is over."""
        while True:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                return _End(os.waitstatus_to_exitcode(status), self.stopped)
            for number in self.signals.wait(self._left()):
                if number != signal.SIGCHLD:
                    self._stop(number)
            if self._left() == 0:
                self._stop(signal.SIGUSR1)

    def _left(self) -> float | None:
        """Return the seconds until the child is to be stopped, or to be killed if it was told to end."""
        if self.told:
            return max(self.told + _GRACE - time.monotonic(), 0)
        return None if self.seconds is None else max(self.begun + self.seconds - time.monotonic(), 0)

    def _stop(self, number: int) -> None:
        """Tell the child to end; a child that was told and did not is killed."""
        os.kill(self.pid, signal.SIGKILL if self.told else number)
        self.stopped, self.told = self.stopped or number, self.told or time.monotonic()


def _settle(parent: int, trace: int, before: Mapping[signal.Signals, Any]) -> None:
    """Be the child: die with the parent, and leave a trace of where it was stopped.

    A terminal sends its signals to both, and the parent passes them on: the second one is not heard.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(TERMINATED)
    raised: dict[signal.Signals, type[BaseException]] = {
        signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated, signal.SIGUSR1: Stopped,
    }  # fmt: skip

    def end(number: int, _: object) -> None:
        for other in raised:
            signal.signal(other, lambda *_: None)
        raise raised[signal.Signals(number)]

    for number in raised:
        if before.get(number) is not signal.SIG_IGN:
            signal.signal(number, end)
    copy = os.dup(trace)  # it stays open as long as the process
    faulthandler.enable(copy, all_threads=False)
    faulthandler.register(signal.SIGUSR1, copy, all_threads=False, chain=True)


@dataclass(frozen=True)
class _Trace:
    """Where the child was when it crashed or was stopped: file and function, the innermost first."""

    text: str

    @staticmethod
    def read(file: IO[bytes]) -> _Trace:
        """Read what the fault handler wrote."""
        file.seek(0)
        return _Trace(file.read().decode(errors="replace"))

    @property
    def in_runtime(self) -> bool:
        """Tell whether onnxruntime was running."""
        first = _FRAME.search(self.text)
        return first is not None and f"{os.sep}onnxruntime{os.sep}" in first["file"]

    def stage(self) -> str:
        """Say what was being done, in words; empty where that is unknown."""
        package = str(Path(__file__).parents[1]) + os.sep
        inner = [f["file"] for f in _FRAME.finditer(self.text) if f["file"].startswith(package)]
        places = [Path(file).relative_to(package).as_posix() for file in inner]
        found = (words for place in places for start, words in _STAGES if place.startswith(start))
        return next(found, "")


def _judged(end: _End, trace: _Trace, seconds: float | None, verbosity: int) -> int:
    """Say how a child ended that did not come to its own end. Raises ResourceError, UnprovedError."""
    stage = trace.stage()
    where = f" while {stage}" if stage else ""
    if end.stopped == signal.SIGUSR1:
        limit = f"stopped after {seconds:g} s, the limit (--timeout){where}"
        raise ResourceError(f"{limit}; nothing half written stays")
    if end.stopped == signal.SIGINT:
        raise KeyboardInterrupt
    if end.stopped == signal.SIGTERM:
        raise Terminated
    if end.code == -signal.SIGKILL:
        raise ResourceError(
            "killed from outside (SIGKILL): by somebody, or by the kernel for want of memory; use smaller "
            "inputs (--input-shape) or a machine with more"
        )
    name = signal.Signals(-end.code).name
    if name not in _CRASHES:
        return 128 - end.code
    if verbosity >= TRACEBACK:
        click.echo(trace.text.rstrip(), err=True)
    who = "onnxruntime" if trace.in_runtime else "the process"
    raise UnprovedError(
        f"{who} died of {name}{where}; it cannot run this model: try another version of onnxruntime, or "
        "other inputs (--input-shape)"
    )
