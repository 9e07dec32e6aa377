"""The same workers under Dask: every task runs one model below a fork server of its Dask worker.

Paths travel, not bytes: the Dask workers read the originals and write into the output folder's scratch, so
both must lie on a file system that they share with the run. Back comes what a worker told (status, report,
hashes); the run itself gives files their names and keeps the journal.
"""

from __future__ import annotations

import os
import queue
import secrets
import signal
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import onnxprune
from onnxprune.batches.job import Job, ResourceLimits, WorkerOutcome, WorkerResult
from onnxprune.batches.processes import Workers
from onnxprune.errors import OnnxPruneError, UsageError

try:
    from distributed import Client, LocalCluster, get_worker
    from distributed.diagnostics.plugin import WorkerPlugin
    from distributed.scheduler import KilledWorker
except ImportError as missing:
    raise UsageError("--dask needs the package distributed: pip install 'onnxprune[dask]'") from missing

if TYPE_CHECKING:
    from distributed import Future

LOCAL = "local"
_MOMENT = 0.2  # seconds
_PATIENCE = 30.0  # seconds to reach a scheduler
_SILENT = 50  # of logging: CRITICAL


class _Servers(WorkerPlugin):
    """The fork servers of one Dask worker, one for each of its threads that has run a model."""

    def __init__(self) -> None:
        self.idle: queue.SimpleQueue[Workers] | None = None

    def setup(self, worker: Any) -> None:  # noqa: ARG002  Dask's interface, as below
        """Begin without servers; this runs in the Dask worker."""
        self.idle = queue.SimpleQueue()

    def teardown(self, worker: Any) -> None:  # noqa: ARG002
        """End the servers."""
        with suppress(queue.Empty):
            while self.idle is not None:
                self.idle.get_nowait().__exit__()

    def run(self, job: Job, limits: ResourceLimits) -> WorkerOutcome:
        """Run one job. One whose scratch folder is gone, since the run is, is given up."""
        assert self.idle is not None
        try:
            workers = self.idle.get_nowait()
        except queue.Empty:
            workers = Workers(1, limits)
        with ExitStack() as broken:
            broken.push(workers)
            workers.submit(job)
            ended: list[WorkerOutcome] = []
            while not ended:
                if not os.path.isdir(job.scratch):
                    raise UsageError(
                        f"'{job.scratch}' is not there for a Dask worker; both need one file system"
                    )
                ended = [event for event in workers.wait() if isinstance(event, WorkerOutcome)]
            broken.pop_all()
        self.idle.put(workers)
        return ended[0]


def isolated(plugin: str, job: Job, limits: ResourceLimits) -> WorkerOutcome:
    """Run one job in a Dask worker."""
    servers: _Servers = get_worker().plugins[plugin]
    return servers.run(job, limits)


class DaskWorkers:
    """Runs jobs on the workers of a Dask cluster, as many at once as these have threads."""

    def __init__(self, address: str, jobs: int, limits: ResourceLimits) -> None:
        """Connect to a scheduler, or start a local cluster of `jobs` workers.

        Raises UsageError where nobody answers, and for workers with another version.
        """
        self._limits, self._name = limits, f"onnxprune-{secrets.token_hex(4)}"
        self._running: dict[str, tuple[int, Future]] = {}
        self._ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
        with ExitStack() as held:
            place: Any = address
            if address == LOCAL:
                place = held.enter_context(
                    LocalCluster(
                        n_workers=jobs, threads_per_worker=1, memory_limit=0, dashboard_address=None,
                        silence_logs=_SILENT,
                    )
                )  # fmt: skip
            try:
                self._client = held.enter_context(Client(place, timeout=_PATIENCE, set_as_default=False))
            except (OSError, ValueError) as error:
                raise UsageError(f"no Dask scheduler answers at '{address}': {error}") from error
            self._check_versions()
            self._client.register_plugin(_Servers(), name=self._name)
            self._held = held.pop_all()

    def _check_versions(self) -> None:
        for worker, version in self._client.run(_version).items():
            if version != onnxprune.__version__:
                mine = onnxprune.__version__
                raise UsageError(
                    f"Dask worker {worker} has onnxprune {version}, the run {mine}; install the same"
                )

    def __enter__(self) -> DaskWorkers:
        """Return the workers."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give up what runs, and end our servers in the Dask workers."""
        with self._held, suppress(OSError, RuntimeError):
            self._client.cancel([future for _, future in self._running.values()])
            self._client.unregister_worker_plugin(self._name)

    def free(self) -> int:
        """Return how many more jobs may be submitted now; workers come and go."""
        return sum(self._client.nthreads().values()) - len(self._running)

    def submit(self, job: Job) -> None:
        """Start a job."""
        key = f"{self._name}-{job.number}"
        future = self._client.submit(isolated, self._name, job, self._limits, key=key, pure=False)
        self._running[future.key] = job.number, future
        future.add_done_callback(self._ended.put)

    def wait(self) -> list[WorkerOutcome]:
        """Return what has ended within a moment; a task of Dask tells only how it ended."""
        try:
            future = self._ended.get(timeout=_MOMENT)
        except queue.Empty:
            return []
        number, _ = self._running.pop(future.key)
        try:
            outcome: WorkerOutcome = future.result()
            return [outcome]
        except KilledWorker:  # several Dask workers died with this job
            return [WorkerOutcome(number, WorkerResult(), -signal.SIGKILL, 0.0, None, lost=True)]
        except OnnxPruneError:
            raise
        except Exception as error:
            raise OnnxPruneError(f"Dask: {type(error).__name__}: {error}") from error


def _version() -> str:
    return onnxprune.__version__
