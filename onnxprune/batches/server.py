"""The fork server: a process that has imported everything and opened no session, and forks the workers.

It speaks with the run over one connection. In: the limits, then jobs. Out: `Started`, `Stage` on the way,
and `WorkerOutcome`. It looks at its workers' clocks and resident memory itself, since the number of a
process is nobody else's before its parent has asked how it ended. When the connection closes the server
kills its workers, with all that these started, and ends: nothing outlives the run.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn

import msgspec
import psutil

from onnxprune.batches.job import STAGE, Job, ResourceLimits, Stage, Started, WorkerOutcome, WorkerResult

_GLANCE = 0.05  # seconds between two looks at the workers
_CHUNK = 1 << 16
_SET_PARENT_DEATH_SIGNAL = 1  # of prctl, Linux
_FIRST_TO_GO = "500"  # when memory runs out the kernel takes a worker, not the run


@dataclass
class Child:
    """A forked worker: the job it runs, and the pipe on which it tells the result in parts."""

    number: int
    process: psutil.Process
    pipe: int
    begun: float = field(default_factory=time.monotonic)
    closed: bool = False
    told: bytearray = field(default_factory=bytearray)
    result: dict[str, Any] = field(default_factory=dict)
    stopped: str = ""
    peak: int = 0

    def hear(self, data: bytes) -> str:
        """Take up what the worker told; return the stage that it said it is at, if it did."""
        self.told += data
        if b"\n" not in data:
            return ""
        *lines, self.told = self.told.split(b"\n")
        for line in lines:
            self.result |= json.loads(line)
        return str(self.result.pop(STAGE, ""))

    def watch(self, limits: ResourceLimits) -> None:
        """Kill the worker where it is over a limit, once."""
        if self.stopped:
            return
        with suppress(psutil.Error):  # it has just ended
            self.peak = max(self.peak, self.process.memory_info().rss)
        if limits.memory is not None and self.peak > limits.memory:
            self.stopped = "out-of-memory"
        elif limits.seconds is not None and time.monotonic() - self.begun > limits.seconds:
            self.stopped = "timeout"
        if self.stopped:
            killed(self.process.pid)

    def reaped(self) -> WorkerOutcome:
        """End what the worker, a zombie, started, and say how it ended."""
        killed(self.process.pid)
        with suppress(BlockingIOError):
            while data := os.read(self.pipe, _CHUNK):
                self.hear(data)
        os.close(self.pipe)
        _, status, used = os.wait4(self.process.pid, 0)
        unit = 1 if sys.platform == "darwin" else 1024
        result = msgspec.convert(self.result, WorkerResult)
        return WorkerOutcome(
            self.number, result, os.waitstatus_to_exitcode(status),
            round(time.monotonic() - self.begun, 3), max(self.peak, used.ru_maxrss * unit),
            "" if result.status else self.stopped,
        )  # fmt: skip


class _Server:
    def __init__(self, link: Connection) -> None:
        self.link = link
        self.limits: ResourceLimits = link.recv()
        self.children: list[Child] = []
        self.woken, waking = os.pipe()
        os.set_blocking(waking, False)
        signal.set_wakeup_fd(waking)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Work until the connection closes."""
        try:
            while True:
                self.step()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # the run is gone; what it asked for ends in `finally`
        finally:
            for child in self.children:
                killed(child.process.pid)

    def step(self) -> None:
        """Handle what arrives within a moment, and look at the workers. Raises EOFError, OSError."""
        pipes = {child.pipe: child for child in self.children if not child.closed}
        for ready in wait([self.link, self.woken, *pipes], _GLANCE):
            if ready is self.link:
                self.start(self.link.recv())
            elif ready == self.woken:
                os.read(self.woken, _CHUNK)
            elif isinstance(ready, int):
                child = pipes[ready]
                data = os.read(ready, _CHUNK)
                child.closed = not data
                if stage := child.hear(data):
                    self.link.send(Stage(child.number, stage))
        for child in list(self.children):
            if child.process.status() != psutil.STATUS_ZOMBIE:
                child.watch(self.limits)
                continue
            self.children.remove(child)
            self.link.send(child.reaped())

    def start(self, job: Job) -> None:
        """Fork a worker."""
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(reading)
            self.link.close()
            _work(job, writing)
        os.close(writing)
        os.set_blocking(reading, False)
        child = Child(job.number, psutil.Process(pid), reading)
        self.children.append(child)
        self.link.send(Started(job.number, pid, child.begun))


def killed(pid: int) -> None:
    """Kill a worker and whatever it started. It leads a session of its own, once it has come so far."""
    for kill in (os.kill, os.killpg):
        with suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _work(job: Job, writing: int) -> NoReturn:
    """Be a worker: run one job, tell its result in parts, and leave without the runtime's farewell."""
    code = 1

    def tell(part: Mapping[str, Any]) -> None:
        data = memoryview(json.dumps(part).encode() + b"\n")
        while data:
            data = data[os.write(writing, data) :]

    try:
        _settle()
        from onnxprune.batches.worker import carried_out, failure, redirected

        try:
            redirected(job)
            tell(carried_out(job, tell))
        except OSError as error:
            tell(failure(error))
        sys.stdout.flush()
        code = 0
    finally:
        os._exit(code)


def _settle() -> None:
    """Become a process of its own that dies with the server."""
    server = os.getppid()
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write(_FIRST_TO_GO)
    if os.getppid() != server:
        os._exit(1)
    faulthandler.enable(open(2, "w", closefd=False))  # noqa: SIM115  it stays open as long as the process


def main(descriptor: int) -> None:
    """Serve on an inherited connection."""
    from onnxprune.batches import worker  # noqa: F401  everything that a model needs, once
    from onnxprune.reports import model_page  # noqa: F401  `prune` imports it late

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with the run, not before
    gc.freeze()
    _Server(Connection(descriptor)).serve()
