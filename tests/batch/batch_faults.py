"""Faults for batches: kills at random moments, and system calls that fail, in processes of their own."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.batch import batch_invariants as invariants

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ("mobilenet", "resnet", "shuffle", "transformer")
OPTIONS = ("--ratio", "0.5", "--align", "1", "--no-bench", "--jobs", "2")
FAULTY = '''
"""Makes the n-th call that changes files fail: FAULT is `run|worker:errno:n`."""
import os

where, code, place = os.environ["FAULT"].split(":")
line = open("/proc/self/cmdline", "rb").read()
server = b"batches.server" in line
me, left = os.getpid(), int(place)


def failing(call):
    def made(*args, **more):
        global left
        mine = (where == "run" and not server and b"batch" in line) or (
            where == "worker" and server and os.getpid() != me)
        if mine:
            left -= 1
            if left == 0:
                with open(os.environ["FAULT_MARK"], "w") as mark:
                    mark.write(call.__name__)
                raise OSError(int(code), os.strerror(int(code)))
        return call(*args, **more)
    made.__name__ = call.__name__
    return made


for name in ("write", "fsync", "replace", "mkdir"):
    setattr(os, name, failing(getattr(os, name)))
'''


@dataclass
class Bench:
    """A zoo of small models, what a calm run makes of it, and a folder to break."""

    source: Path
    reference: Path
    output: Path
    before: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        return set(self.before)

    def line(self, *more: object) -> list[str]:
        given = [self.source, "-o", self.output, *OPTIONS, *more]
        return [sys.executable, "-m", "onnxprune", "batch", *map(str, given)]

    def fresh(self) -> None:
        shutil.rmtree(self.output, ignore_errors=True)

    def finish(self, *more: object) -> None:
        """Give the command until the end, and require the models of the calm run."""
        done = subprocess.run(
            self.line(*more), cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stderr
        records = invariants.check_finished(self.output, self.names)
        assert {r["status"] for r in records.values()} == {"done"}
        invariants.check_same_models(self.output, self.reference)
        invariants.check_inputs(self.before, self.source)


def prepared(folder: Path, names: Sequence[str] = DIGITS) -> Bench:
    """Make a zoo of digits models and run it once, undisturbed."""
    source = folder / "zoo"
    source.mkdir(parents=True)
    for name in names:
        shutil.copy(ROOT / "models" / f"digits_{name}.onnx", source / f"{name}.onnx")
    return undisturbed(folder, source)


def undisturbed(folder: Path, source: Path) -> Bench:
    """Run a zoo once."""
    bench = Bench(source, folder / "reference", folder / "reference", invariants.hashes(source))
    bench.finish()
    return Bench(source, folder / "reference", folder / "out", bench.before)


@contextmanager
def started(bench: Bench, *more: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the command with a mark that its processes carry; at the end nothing of it may be left."""
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        bench.line(*more), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, invariants.MARK: mark},
    )  # fmt: skip
    try:
        yield process, mark
    finally:
        process.kill()
        process.communicate()
    invariants.check_no_orphans(mark)


def workers(mark: str, run: int) -> list[int]:
    """The processes that prune: children of the fork server, which is the run's only child."""
    above = {pid: parent(pid) for pid in invariants.processes(mark)}
    return [pid for pid in above if above[pid] != run and above.get(above[pid]) == run]


def parent(pid: int) -> int:
    """The process that started another, 0 where that has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def kill_workers(bench: Bench, count: int, rng: random.Random) -> int:
    """Kill workers of one run at random moments; what ended as killed is then asked for again."""
    bench.fresh()
    killed = 0
    with started(bench) as (process, mark):
        while process.poll() is None and killed < count:
            time.sleep(rng.uniform(0.0, 0.4))
            victims = workers(mark, process.pid)
            if victims:
                os.kill(rng.choice(victims), signal.SIGKILL)
                killed += 1
        process.communicate(timeout=240)
    records = invariants.check_finished(bench.output, bench.names)
    assert {r["status"] for r in records.values()} <= {"done", "killed"}
    assert process.returncode == (7 if any(r["status"] == "killed" for r in records.values()) else 0)
    assert all(r["attempts"] == 2 for r in records.values() if r["status"] == "killed")
    invariants.check_inputs(bench.before, bench.source)
    bench.finish("--retry-failed")
    return killed


def stop_run(bench: Bench, number: int, rng: random.Random, longest: float) -> bool:
    """Send a signal to the run at a random moment; tell whether it hit. The folder stays as it is then."""
    with started(bench) as (process, _):
        try:
            process.wait(rng.uniform(0.0, longest))
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        _, told = process.communicate(timeout=60)
    hit = process.returncode != 0
    if hit and number != signal.SIGKILL:
        assert process.returncode in (128 + number, -number), told  # the latter while Python itself starts
        if process.returncode > 0:
            assert told.splitlines()[-1] in ("interrupted", "terminated"), told
            assert not (bench.output / ".work").exists()
    if bench.output.exists():
        invariants.check_always(bench.output)
    invariants.check_inputs(bench.before, bench.source)
    return hit


def stop_twice(bench: Bench, number: int, rng: random.Random) -> None:
    """Stop a run, and the one that goes on from there; one that ends before it is hit begins anew."""
    hits = 0
    while hits < 2:
        if stop_run(bench, number, rng, 2.0):
            hits += 1
        else:
            bench.fresh()


def fail_call(bench: Bench, folder: Path, where: str, code: int, place: int) -> str:
    """Let one system call fail in the run or in a worker; return its name, nothing where none was reached."""
    bench.fresh()
    (folder / "faulty").mkdir(exist_ok=True)
    (folder / "faulty" / "sitecustomize.py").write_text(FAULTY)
    mark = folder / "fired"
    mark.unlink(missing_ok=True)
    paths = os.pathsep.join([str(folder / "faulty"), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": paths, "FAULT": f"{where}:{code}:{place}", "FAULT_MARK": str(mark)}
    done = subprocess.run(
        bench.line(), cwd=ROOT, capture_output=True, text=True, timeout=240, check=False, env=env
    )
    if not mark.exists():
        assert done.returncode == 0, done.stderr
        return ""
    assert "Traceback" not in done.stderr, done.stderr
    assert "internal error" not in done.stderr, done.stderr
    if bench.output.exists():
        invariants.check_always(bench.output)
    invariants.check_inputs(bench.before, bench.source)
    if where == "worker" and done.returncode != 0:
        assert done.returncode == 7, done.stderr
        records = invariants.check_finished(bench.output, bench.names)
        assert {r["status"] for r in records.values()} <= {"done", "disk-full", "usage", "failed"}
    bench.finish("--retry-failed")
    return mark.read_text()
