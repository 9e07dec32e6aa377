"""A model of three nodes, and pools without processes: one prunes in this one, one plays a script."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxprune.batches import worker
from onnxprune.batches.job import Job, ResourceLimits, Stage, WorkerOutcome, WorkerResult

TINY = {"ratio": 0.5, "align": 1, "bench": False}


class Here:
    """A pool that runs jobs in this process, for tests that need many runs."""

    def __init__(self, jobs: int, limits: ResourceLimits) -> None:
        self._outcomes: deque[WorkerOutcome] = deque()

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        tempfile.tempdir = None

    def free(self) -> int:
        return 1 - len(self._outcomes)

    def submit(self, job: Job) -> None:
        told: dict[str, object] = {}
        told |= worker.carried_out(job, told.update)
        Path(job.log).touch()
        self._outcomes.append(WorkerOutcome(job.number, msgspec.convert(told, WorkerResult), 0, 0.0, None))

    def wait(self) -> Iterator[WorkerOutcome]:
        while self._outcomes:
            yield self._outcomes.popleft()


class Scripted:
    """A pool in which jobs end as a function says, `slots` of them at once, the last submitted first."""

    def __init__(self, slots: int, play: Callable[[Job], Iterable[Stage | WorkerOutcome]]) -> None:
        self.slots, self.play = slots, play
        self.jobs: list[Job] = []
        self.under_way: list[Job] = []

    def free(self) -> int:
        return self.slots - len(self.under_way)

    def submit(self, job: Job) -> None:
        assert self.free() > 0
        self.jobs.append(job)
        self.under_way.append(job)

    def wait(self) -> Iterator[Stage | WorkerOutcome]:
        if self.under_way:
            yield from self.play(self.under_way.pop())


def tiny(path: Path, seed: int = 0) -> None:
    """x [n, 4] -> 8 hidden -> [n, 2]."""
    rng = np.random.default_rng(seed)
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("w", (4, 8)), ("v", (8, 2)))
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", size])
        for name, size in (("x", 4), ("y", 2))
    ]
    graph = helper.make_graph(nodes, "tiny", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
