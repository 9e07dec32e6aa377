"""Workers on this machine: one process per model, below a fork server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing import Pipe

from onnxprune.batches.job import Job, ResourceLimits, Stage, Started, WorkerOutcome, WorkerResult
from onnxprune.errors import OnnxPruneError, UsageError, printable
from onnxprune.model.machine import THREAD_COUNTS

_MOMENT = 0.05  # seconds
_RESTARTS = 5  # servers that may die one after the other without an outcome
_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from onnxprune.batches.server import main; main(int(sys.argv[1]))"
)


class _Server:
    """The fork server's process and the connection to it."""

    def __init__(self, limits: ResourceLimits) -> None:
        self.link, other = Pipe()
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  closed with the link
        # One thread each: many models run side by side, and sums of several threads differ in the last bit.
        environment = {**os.environ, **dict.fromkeys(THREAD_COUNTS, "1")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CODE, str(other.fileno()), json.dumps(sys.path)],
            pass_fds=(other.fileno(),), stdin=subprocess.DEVNULL, stdout=self.errors, stderr=self.errors,
            env=environment, start_new_session=True,
        )  # fmt: skip
        other.close()
        self.send(limits)

    def send(self, message: Job | ResourceLimits) -> None:
        """Tell the server; one that is gone is noticed on reading."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.link.send(message)

    def receive(self) -> Started | Stage | WorkerOutcome | None:
        """Return what has arrived within a moment. Raises EOFError, OSError where the server is gone."""
        return self.link.recv() if self.link.poll(_MOMENT) else None

    def close(self) -> None:
        """End the server and, by that, its workers."""
        self.link.close()
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
        self._running: dict[int, Started | None] = {}
        self._deaths = 0
        self._server = _Server(limits)

    def __enter__(self) -> Workers:
        """Return the workers."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill all workers and end the server."""
        self._server.close()

    def free(self) -> int:
        """Return how many more jobs may be submitted now."""
        return self._jobs - len(self._running)

    def submit(self, job: Job) -> None:
        """Start a job."""
        self._running[job.number] = None
        self._server.send(job)

    def wait(self) -> list[Stage | WorkerOutcome]:
        """Wait for a moment and return what was heard of the workers. Raises OnnxPruneError."""
        try:
            event = self._server.receive()
        except (EOFError, OSError):
            return [*self._lost()]
        if isinstance(event, Started):
            self._running[event.number] = event
            return []
        if isinstance(event, WorkerOutcome):
            del self._running[event.number]
            self._deaths = 0
        return [] if event is None else [event]

    def _lost(self) -> list[WorkerOutcome]:
        """Start another server where the one there was died, and give its workers up."""
        words = self._server.last_words()
        self._deaths += 1
        self._server.close()
        if self._deaths > _RESTARTS:
            raise OnnxPruneError(f"the process that starts the workers died {self._deaths} times: {words}")
        lost, self._running = self._running, {}
        for started in filter(None, lost.values()):  # they died with the server; what they started did not
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(started.pid, signal.SIGKILL)
        self._server = _Server(self._limits)
        return [_without_end(number, started) for number, started in lost.items()]


def _without_end(number: int, started: Started | None) -> WorkerOutcome:
    seconds = 0.0 if started is None else round(time.monotonic() - started.begun, 3)
    return WorkerOutcome(number, WorkerResult(), -signal.SIGKILL, seconds, None, lost=True)
