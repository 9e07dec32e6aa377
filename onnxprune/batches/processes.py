"""Workers on this machine: one process per model, watched for time and resident memory."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from onnxprune.batches.job import STAGE, Job, ResourceLimits, WorkerOutcome
from onnxprune.errors import OnnxPruneError, UsageError, printable
from onnxprune.model.machine import THREAD_COUNTS

GLANCE = 0.05  # seconds between two looks at the memory of the workers
_CHUNK = 1 << 20
_RESTARTS = 5  # servers that may die one after the other without an outcome
_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from onnxprune.batches.server import main; main(int(sys.argv[1]))"
)


@dataclass
class _Running:
    """A job with the server. begun: when its worker started, None before; stage: not passed on yet."""

    job: Job
    begun: float | None = None
    process: psutil.Process | None = None
    stopped: str = ""
    stage: str = ""
    peak: int = 0


class _Link:
    """The fork server's process and the socket to it."""

    def __init__(self) -> None:
        mine, other = socket.socketpair()
        self.socket, self.buffer = mine, bytearray()
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  closed with the link
        # One thread each: many models run side by side, and sums of several threads differ in the last bit.
        environment = {**os.environ, **dict.fromkeys(THREAD_COUNTS, "1")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CODE, str(other.fileno()), json.dumps(sys.path)],
            pass_fds=(other.fileno(),), stdin=subprocess.DEVNULL, stdout=self.errors, stderr=self.errors,
            env=environment, start_new_session=True,
        )  # fmt: skip
        other.close()

    def send(self, request: Mapping[str, Any]) -> None:
        """Ask the server; one that is gone is noticed on reading."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(json.dumps(request).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]] | None:
        """Return the events that have arrived, None where the server is gone."""
        try:
            data = self.socket.recv(_CHUNK)
        except ConnectionResetError:
            data = b""
        if not data:
            return None
        self.buffer += data
        *lines, rest = bytes(self.buffer).split(b"\n")
        self.buffer = bytearray(rest)
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """End the server and, by that, its workers."""
        self.socket.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()

    def last_words(self) -> str:
        """Return the last line that the server wrote."""
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return printable(lines[-1]) if lines else "no message"


class Workers:
    """Runs jobs, each in a process of its own, as many at once as are submitted."""

    def __init__(self, jobs: int, limits: ResourceLimits) -> None:
        """Start the fork server. Raises UsageError where processes cannot be forked."""
        if not hasattr(os, "fork"):
            raise UsageError("batch needs a system that forks processes, such as Linux or macOS")
        self._jobs, self._limits = jobs, limits
        self._running: dict[int, _Running] = {}
        self._deaths = 0
        self._link = _Link()

    def __enter__(self) -> Workers:
        """Return the workers."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill all workers and end the server."""
        self._link.close()

    def free(self) -> int:
        """Return how many more jobs may be submitted now."""
        return self._jobs - len(self._running)

    def submit(self, job: Job) -> None:
        """Start a job."""
        self._running[job.number] = _Running(job)
        self._link.send({"run": asdict(job)})

    def stages(self) -> dict[int, str]:
        """Return how far jobs are that have said so since the last call, by number."""
        said = {number: running.stage for number, running in self._running.items() if running.stage}
        for number in said:
            self._running[number].stage = ""
        return said

    def wait(self) -> list[WorkerOutcome]:
        """Watch the workers for a moment and return those that have ended."""
        result: list[WorkerOutcome] = []
        with selectors.DefaultSelector() as selector:
            selector.register(self._link.socket, selectors.EVENT_READ)
            ready = selector.select(GLANCE)
        if ready:
            events = self._link.receive()
            if events is None:
                return self._orphaned()
            result += [o for o in map(self._handled, events) if o is not None]
        for running in self._running.values():
            self._watch(running)
        return result

    def _handled(self, event: Mapping[str, Any]) -> WorkerOutcome | None:
        if "started" in event:
            running = self._running[event["started"]]
            running.begun = time.monotonic()
            with suppress(psutil.NoSuchProcess):
                running.process = psutil.Process(event["pid"])
        if "at" in event:
            self._running[event["at"]].stage = event[STAGE]
        if "ended" not in event:
            return None
        self._deaths = 0
        running = self._running.pop(event["ended"])
        return _outcome(running, event)

    def _watch(self, running: _Running) -> None:
        """Kill a worker that is over a limit, once."""
        if running.begun is None or running.process is None or running.stopped:
            return
        try:
            running.peak = max(running.peak, running.process.memory_info().rss)
        except psutil.Error:
            return  # it has just ended
        if self._limits.memory is not None and running.peak > self._limits.memory:
            running.stopped = "out-of-memory"
        elif self._limits.seconds is not None and time.monotonic() - running.begun > self._limits.seconds:
            running.stopped = "timeout"
        if running.stopped:
            self._link.send({"kill": running.job.number})

    def _orphaned(self) -> list[WorkerOutcome]:
        """Start another server where the one there was died, and give its workers up."""
        words = self._link.last_words()
        self._deaths += 1
        self._link.close()
        if self._deaths > _RESTARTS:
            raise OnnxPruneError(f"the process that starts the workers died {self._deaths} times: {words}")
        lost, self._running = self._running, {}
        self._link = _Link()
        return [
            _outcome(running, {"code": -signal.SIGKILL, "peak": None, "result": {}}, lost=True)
            for running in lost.values()
        ]


def _outcome(running: _Running, event: Mapping[str, Any], lost: bool = False) -> WorkerOutcome:
    seconds = 0.0 if running.begun is None else time.monotonic() - running.begun
    peak = None if event["peak"] is None else max(running.peak, event["peak"])
    result = event["result"]
    stopped = "" if "status" in result else running.stopped
    return WorkerOutcome(running.job.number, result, event["code"], round(seconds, 3), peak, stopped, lost)
