"""The fork server: a process that has imported everything and opened no session, and forks the workers.

It speaks JSON lines over one socket. In: `{"run": JOB}` and `{"kill": NUMBER}`. Out: `{"ready": true}`,
`{"started": NUMBER, "pid": PID}`, `{"at": NUMBER, "stage": TEXT}` on the way, and `{"ended": NUMBER,
"code": C, "peak": BYTES, "result": R}`, R being the other parts that the worker told, laid together. When the
socket closes the server kills its workers, with all that these started, and ends: nothing outlives the run.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

import psutil

from onnxprune.batches.job import STAGE, Job

_CHUNK = 1 << 16
_SET_PARENT_DEATH_SIGNAL = 1  # of prctl, Linux
_FIRST_TO_GO = "500"  # when memory runs out the kernel takes a worker, not the run


@dataclass
class _Child:
    """A forked worker: what it runs, and the pipe on which it tells the result in parts."""

    number: int
    pipe: int
    told: bytearray = field(default_factory=bytearray)
    result: dict[str, Any] = field(default_factory=dict)

    def hear(self, data: bytes) -> str:
        """Take up what the worker told; return the stage that it said it is at, if it did."""
        self.told += data
        if b"\n" not in data:
            return ""
        *lines, rest = bytes(self.told).split(b"\n")
        self.told = bytearray(rest)
        for line in lines:
            self.result |= json.loads(line)
        return str(self.result.pop(STAGE, ""))


class _Server:
    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.asked = bytearray()
        self.children: dict[int, _Child] = {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(link, selectors.EVENT_READ)
        self.woken, waking = os.pipe()
        os.set_blocking(waking, False)
        self.selector.register(self.woken, selectors.EVENT_READ)
        signal.set_wakeup_fd(waking)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Work until the socket closes."""
        self.tell({"ready": True})
        try:
            while self.step():
                pass
        except (BrokenPipeError, ConnectionResetError):
            return  # the run is gone; what it asked for ends in `finally`
        finally:
            for pid in self.children:
                killed(pid)

    def step(self) -> bool:
        """Handle what has arrived; False where the socket is closed."""
        for key, _ in self.selector.select():
            if key.fileobj is self.link:
                data = self.link.recv(_CHUNK)
                if not data:
                    return False
                self.asked += data
            elif key.fd == self.woken:
                os.read(self.woken, _CHUNK)
            else:
                child = self.children[key.data]
                if stage := child.hear(os.read(key.fd, _CHUNK)):
                    self.tell({"at": child.number, STAGE: stage})
        while b"\n" in self.asked:
            line, _, rest = bytes(self.asked).partition(b"\n")
            self.asked = bytearray(rest)
            self.answer(json.loads(line))
        for pid in list(self.children):
            self.reap(pid)
        return True

    def answer(self, request: dict[str, Any]) -> None:
        """Start a worker, or kill one."""
        if "run" in request:
            self.start(Job(**request["run"]))
            return
        for pid, child in self.children.items():
            if child.number == request["kill"]:
                killed(pid)

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
        self.children[pid] = _Child(job.number, reading)
        self.selector.register(reading, selectors.EVENT_READ, pid)
        self.tell({"started": job.number, "pid": pid})

    def reap(self, pid: int) -> None:
        """Tell of a worker that has ended, and end what it started; until then its number is not reused."""
        if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            return
        killed(pid)
        child = self.children.pop(pid)
        self.selector.unregister(child.pipe)
        with suppress(BlockingIOError):
            while data := os.read(child.pipe, _CHUNK):
                child.hear(data)
        os.close(child.pipe)
        _, status, used = os.wait4(pid, 0)
        unit = 1 if sys.platform == "darwin" else 1024
        code = os.waitstatus_to_exitcode(status)
        self.tell(
            {"ended": child.number, "code": code, "peak": used.ru_maxrss * unit, "result": child.result}
        )

    def tell(self, event: dict[str, Any]) -> None:
        self.link.sendall(json.dumps(event).encode() + b"\n")


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
    import faulthandler

    faulthandler.enable(open(2, "w", closefd=False))  # noqa: SIM115  it stays open as long as the process


def main(descriptor: int) -> None:
    """Serve on an inherited socket."""
    from onnxprune.batches import worker  # noqa: F401  everything that a model needs, once
    from onnxprune.rules import registry  # noqa: F401

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with the run, not before
    gc.freeze()
    _Server(socket.socket(fileno=descriptor)).serve()
