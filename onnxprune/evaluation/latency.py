"""How fast models really are: interleaved onnxruntime runs, medians, and no claim inside the noise."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np
import onnx
from google.protobuf.message import EncodeError

from onnxprune.errors import ModelError, UsageError, nearest
from onnxprune.model.runtime import one_line
from onnxprune.settings.types import check_types

if TYPE_CHECKING:
    import onnxruntime

ModelSource: TypeAlias = bytes | onnx.ModelProto | str | os.PathLike[str]
Feeds: TypeAlias = Mapping[str, np.ndarray]

FEWEST_ROUNDS = 3
# min_runs may take this many times the budget; a model slower than that gets FEWEST_ROUNDS
PATIENCE = 3
# Two sessions of one model differed by up to 0.55 % on an idle machine (96 pairs, 0.02 to 26 ms, 1 and 2
# threads): memory layout is drawn once per session, so no number of runs averages it out.
SESSION_NOISE = 0.01
RESAMPLES = 1000
# an interval from more ratios would be narrower than SESSION_NOISE, and cost 10^8 draws
MOST_RESAMPLED = 1000
# Student's t, 97.5 %, by number of rounds; from 10 rounds on the bootstrap has enough distinct medians
_T_QUANTILE = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306}


@dataclass(frozen=True)
class BenchSettings:
    """How to time: `seconds` per model, at least `min_runs` runs unless those take three times as long.

    Raises UsageError for values that cannot be used.
    """

    provider: str = "CPUExecutionProvider"
    threads: int = 1
    seconds: float = 2.0
    min_runs: int = 10
    warmup: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        if self.threads < 1:
            raise UsageError(f"threads: got {self.threads}, expected 1 or more")
        if not 0 < self.seconds < float("inf"):
            raise UsageError(f"seconds: got {self.seconds}, expected a positive number")
        if self.min_runs < FEWEST_ROUNDS:
            raise UsageError(f"min_runs: got {self.min_runs}, expected {FEWEST_ROUNDS} or more")
        if self.warmup < 0:
            raise UsageError(f"warmup: got {self.warmup}, expected 0 or more")
        if self.seed < 0:
            raise UsageError(f"seed: got {self.seed}, expected 0 or more")


class LatencyRatio(msgspec.Struct, frozen=True):
    """Time of a model relative to the first (below 1 = faster), with its 95 % interval.

    verdict: what the whole interval says: faster or slower; else not faster.
    """

    ratio: float
    low: float
    high: float
    verdict: str

    @classmethod
    def of(cls, ratio: float, low: float, high: float) -> LatencyRatio:
        """Judge an interval."""
        return cls(ratio, low, high, "faster" if high < 1 else "slower" if low > 1 else "not faster")


class Timing(msgspec.Struct, frozen=True):
    """Latency of one model in milliseconds; `versus_first` is None for the first model."""

    name: str
    runs: int
    median_ms: float
    min_ms: float
    p90_ms: float
    versus_first: LatencyRatio | None


class BenchResult(msgspec.Struct, frozen=True):
    """Timings in the order of the models (`models` in JSON), and what they were measured on."""

    timings: tuple[Timing, ...] = msgspec.field(name="models")
    settings: BenchSettings
    onnxruntime: str
    cpu: str
    input_shapes: dict[str, tuple[int, ...]]


def bench(models: Sequence[ModelSource], feeds: Feeds, settings: BenchSettings) -> BenchResult:
    """Time models side by side on the same inputs, each relative to the first.

    Runs alternate model by model, because clock speed and neighbours drift within seconds. A model with
    external data is given by its path. Raises ModelError for a model that onnxruntime cannot load,
    UsageError for a provider that is not installed and for inputs with which a model does not run.
    """
    import onnxruntime

    if not models:
        raise UsageError("nothing to time: got no model, expected one or more")
    check_provider(settings.provider)
    names = [_name(model, index) for index, model in enumerate(models)]
    sessions = [_open(model, name, settings) for model, name in zip(models, names, strict=True)]
    runners = _runners(sessions, names, feeds)
    times = _measure(runners, settings)
    return BenchResult(
        timings=tuple(_timing(name, times, index, settings.seed) for index, name in enumerate(names)),
        settings=settings,
        onnxruntime=onnxruntime.__version__,
        cpu=cpu_name(),
        input_shapes={name: tuple(np.shape(value)) for name, value in feeds.items()},
    )


def check_provider(name: str) -> None:
    """Refuse an execution provider that the installed onnxruntime does not have. Raises UsageError."""
    import onnxruntime

    known = onnxruntime.get_available_providers()
    if name not in known:
        raise UsageError(
            f"execution provider '{name}' is not available{nearest(name, known)}; the installed onnxruntime "
            f"has {', '.join(known)}; name one of these, or install the onnxruntime package that has it"
        )


def compare(first: np.ndarray, other: np.ndarray, seed: int = 0) -> LatencyRatio:
    """Compare two series of times measured in the same rounds, in any unit.

    The ratio is the median over pairs of rounds of time / time of the first model. What slows a whole
    round cancels; and as every second round runs in reverse order, so does what a model gains by running
    after itself. The interval is the percentile bootstrap over these ratios (Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, chapter 13). Below 10 rounds it is Student's t on the logarithms
    of each round's ratio: a bootstrap of 3 values would call one A/A pair in four a difference. Both are
    widened by SESSION_NOISE. Raises UsageError unless the series have one length of at least 2.
    """
    rounds = len(first)
    if rounds != len(other) or rounds < 2:
        raise UsageError(f"cannot compare {len(other)} with {rounds} runs, expected two or more in pairs")
    before, after = np.asarray(first, np.float64), np.asarray(other, np.float64)
    if rounds in _T_QUANTILE:
        ratios = after / before
        logs = np.log(ratios)
        reach = _T_QUANTILE[rounds] * logs.std(ddof=1) / np.sqrt(rounds)
        low, high = np.exp(logs.mean() - reach), np.exp(logs.mean() + reach)
    else:
        even = rounds // 2 * 2
        ratios = after[:even].reshape(-1, 2).sum(axis=1) / before[:even].reshape(-1, 2).sum(axis=1)
        low, high = np.quantile(_resampled_medians(ratios, seed), (0.025, 0.975))
    middle = float(np.median(ratios))
    low, high = min(float(low), middle), max(float(high), middle)
    return LatencyRatio.of(middle, low * (1 - SESSION_NOISE), high * (1 + SESSION_NOISE))


def _resampled_medians(ratios: np.ndarray, seed: int) -> np.ndarray:
    """Medians of bootstrap resamples, of MOST_RESAMPLED ratios where there are more."""
    generator = np.random.default_rng(seed)
    if len(ratios) > MOST_RESAMPLED:
        ratios = generator.choice(ratios, MOST_RESAMPLED, replace=False)
    picks = generator.integers(len(ratios), size=(RESAMPLES, len(ratios)))
    return np.median(ratios[picks], axis=1)


def cpu_name() -> str:
    """Name of the processor, as the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    return platform.processor() or platform.machine()


def round_order(count: int, index: int) -> list[int]:
    """Order of the models in a round: each place and each neighbour equally often."""
    shift = index // 2 % count
    order = [(shift + i) % count for i in range(count)]
    return order[::-1] if index % 2 else order


class _Runner:
    """One session with its inputs."""

    def __init__(
        self, session: onnxruntime.InferenceSession, name: str, feeds: dict[str, np.ndarray]
    ) -> None:
        self.session = session
        self.name = name
        self.feeds = feeds

    def run(self) -> int:
        """Run once; return nanoseconds."""
        start = time.perf_counter_ns()
        try:
            self.session.run(None, self.feeds)
        except Exception as error:  # onnxruntime's errors share no other base class
            raise UsageError(f"{self.name}: onnxruntime cannot run it: {one_line(error)}") from error
        return time.perf_counter_ns() - start


def _measure(runners: list[_Runner], settings: BenchSettings) -> np.ndarray:
    """Run rounds until the budget is spent; return nanoseconds by round and model."""
    budget = settings.seconds * 1e9 * len(runners)
    spent = 0
    for index in range(settings.warmup):
        spent += sum(runners[i].run() for i in round_order(len(runners), index))
        if spent > budget:
            break
    times, spent, rounds = array("q"), 0, 0
    while not _enough(rounds, spent / budget, settings.min_runs):
        row = [0] * len(runners)
        for i in round_order(len(runners), rounds):
            row[i] = runners[i].run()
        times.extend(row)
        spent += sum(row)
        rounds += 1
    return np.array(times, np.int64).reshape(rounds, len(runners))


def _enough(rounds: int, share: float, min_runs: int) -> bool:
    """Whether to stop after this many rounds, which took this share of the budget."""
    return share >= (1 if rounds >= min_runs else PATIENCE) and rounds >= FEWEST_ROUNDS


def _timing(name: str, times: np.ndarray, index: int, seed: int) -> Timing:
    own = times[:, index] / 1e6
    return Timing(
        name=name,
        runs=len(own),
        median_ms=float(np.median(own)),
        min_ms=float(own.min()),
        p90_ms=float(np.quantile(own, 0.9)),
        versus_first=compare(times[:, 0], times[:, index], seed) if index else None,
    )


def _name(model: ModelSource, index: int) -> str:
    return os.fspath(model) if isinstance(model, str | os.PathLike) else f"model {index + 1}"


def profiled(
    model: ModelSource, feeds: Feeds, settings: BenchSettings, runs: int, seconds: float
) -> list[Mapping[str, Any]]:
    """Run a model under onnxruntime's profiler, and return what it noted: events with `dur` in microseconds.

    runs, seconds: when to stop, whichever comes first, after two runs at least. Raises as `bench` does.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = _open(model, "the model", settings, profile=str(Path(folder) / "profile"))
        (runner,) = _runners([session], ["the model"], feeds)
        spent = runner.run() + runner.run()
        for _ in range(runs - 2):
            spent += runner.run() if spent < seconds * 1e9 else 0
        events: list[Mapping[str, Any]] = json.loads(Path(session.end_profiling()).read_bytes())
    return events


def _open(
    model: ModelSource, name: str, settings: BenchSettings, profile: str = ""
) -> onnxruntime.InferenceSession:
    """Open a session; profile: where its events go, "" for none. Raises ModelError where it is refused."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    # the pool of an idle session would spin on the cores that the next model is timed on
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    except EncodeError as error:
        raise ModelError(
            f"{name}: over 2 GiB in memory; save it with external data and give the path"
        ) from error
    try:
        session = onnxruntime.InferenceSession(source, options, providers=[settings.provider])
    except Exception as error:  # onnxruntime's errors share no other base class
        raise ModelError(f"{name}: onnxruntime cannot load it: {one_line(error)}") from error
    started = session.get_providers()
    if settings.provider not in started:
        raise UsageError(f"{name}: {settings.provider} did not start, got {', '.join(started)} in its place")
    return session


def _runners(
    sessions: Sequence[onnxruntime.InferenceSession], names: Sequence[str], feeds: Feeds
) -> list[_Runner]:
    """Give each session those inputs it takes. Raises UsageError where one is missing, or used by none."""
    unused = set(feeds)
    runners = []
    for session, name in zip(sessions, names, strict=True):
        required = [i.name for i in session.get_inputs()]
        missing = [i for i in required if i not in feeds]
        if missing:
            raise UsageError(
                f"{name}: no value for input {', '.join(missing)}; got {', '.join(feeds) or 'none'}, as "
                "models are timed on the inputs of the first"
            )
        optional = [i.name for i in session.get_overridable_initializers() if i.name in feeds]
        runners.append(_Runner(session, name, {i: feeds[i] for i in (*required, *optional)}))
        unused.difference_update(required, optional)
    if unused:
        raise UsageError(f"no model has an input {', '.join(sorted(unused))}")
    return runners
