"""What a target is: an amount of the model that may remain, or a quality that decides how much may go.

Amounts are priced as terms of the widths. Targets register themselves in `onnxprune.registries.TARGETS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeAlias

import onnx

from onnxprune.analysis.axes import Block
from onnxprune.analysis.labels import Cluster
from onnxprune.analysis.trace import Step, Trace
from onnxprune.analysis.units import Units
from onnxprune.data.read import Validation
from onnxprune.errors import UsageError
from onnxprune.evaluation.metrics import Answers
from onnxprune.evaluation.validation import Judge
from onnxprune.model.graph import Stored
from onnxprune.quantities import count, parse_amount
from onnxprune.registries import TARGETS

FACTORS = 6  # of a term

Factors: TypeAlias = list[tuple[int, int]]  # a block's number; 1: times its share, -1: divided by it
Term: TypeAlias = tuple[float, Factors]


class CostTerms:
    """Tells of nodes and tensors with which blocks of labels they shrink; blocks are numbered as they come.

    overhead: bytes of the file beside its tensors.
    """

    def __init__(self, units: Units, overhead: int) -> None:
        self.units, self.overhead = units, overhead
        self.blocks: dict[bytes, tuple[int, Block]] = {}

    @property
    def traced(self) -> Trace:
        """Return the trace: its steps, and the subscripts and sizes that each met."""
        return self.units.traced

    def factors(self, step: Step, subscripts: Iterable[str]) -> Factors:
        """Return the blocks with which a product over some subscripts of a node shrinks."""
        return [] if step.met is None else self._factors(step.met.clusters, set(subscripts))

    @cached_property
    def tensors(self) -> tuple[tuple[Stored, Factors], ...]:
        """Return the stored tensors; one whose uses keep different channels is copied, so each use counts."""
        return tuple(self._tensors())

    def _tensors(self) -> Iterator[tuple[Stored, Factors]]:
        traced = self.traced
        by_name: dict[str, list[Factors]] = {}
        for step in traced.steps:
            for slot in step.met.slots if step.met is not None else ():
                if slot.stored.is_parameter:
                    factors = self.factors(step, (x for axis in slot.axes for x in axis))
                    known = by_name.setdefault(slot.stored.name, [])
                    if factors not in known:
                        known.append(factors)
        for name, labelled in traced.shared.items():
            by_name[name] = [
                [(self._block(Block((f"a{f.axes[0]}",), f.labels)), 1) for f in labelled.factors]
            ]
        for name, stored in traced.network.stored.items():
            yield from ((stored, factors) for factors in by_name.get(name) or [[]])
        yield from ((stored, []) for stored in traced.network.inner)

    def _factors(self, clusters: Sequence[Cluster], subscripts: set[str]) -> Factors:
        factors: Factors = []
        for cluster in clusters:
            seen: set[str] = set()
            for top in cluster.tops:
                own = set(top.subscripts) & subscripts
                if not own:
                    continue
                block = top if own == set(top.subscripts) else _parent(cluster, own)
                if block is not None:
                    factors.append((self._block(block), 1))
                common = own & seen
                shared = _parent(cluster, common) if common else None
                if shared is not None:
                    factors.append((self._block(shared), -1))
                seen |= own
        return factors[:FACTORS]

    def _block(self, block: Block) -> int:
        key = self.units.of[block.labels].tobytes()
        if key not in self.blocks:
            self.blocks[key] = (len(self.blocks) + 1, block)
        return self.blocks[key][0]


def _parent(cluster: Cluster, subscripts: set[str]) -> Block | None:
    return next((b for b in cluster.parents if set(b.subscripts) == subscripts), None)


LEAST = 1000  # of an absolute amount: between 1 and this a number was probably meant as a share


@dataclass(frozen=True)
class Target(ABC):
    """What --target takes, by a name. example: a value, for help texts, and what it is of."""

    name: str
    summary: str
    example: str

    searched: ClassVar[bool] = False

    @abstractmethod
    def read(self, text: str) -> float:
        """Read a value as the command line and manifests write it. Raises UsageError."""

    @abstractmethod
    def shown(self, value: float) -> str:
        """Print a value."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the settings of which one must name data to measure it on; none where it needs no data."""
        return ()

    def check(self, value: float) -> None:
        """Refuse a value that makes no sense. Raises UsageError."""
        if not value > 0:
            raise UsageError(f"target {self.name} must be above 0: got {value:g}")


@dataclass(frozen=True)
class Measured:
    """A model whose amounts are asked for: the file, and the trace with the sizes of its subscripts.

    nbytes: of the file with its external data; sizes: after a removal, by node; None before.
    """

    model: onnx.ModelProto
    nbytes: int
    traced: Trace
    sizes: Mapping[int, Mapping[str, int]] | None = None


@dataclass(frozen=True)
class Amount(Target):
    """How much of something a model has: what may remain of it, a share of the original up to 1, or absolute.

    measure: the amount of a model; terms: the same as products of widths, by which steps are priced (only
    what changes with the widths has to be right); parse: a number with a unit.
    """

    measure: Callable[[Measured], float]
    terms: Callable[[CostTerms], Iterable[Term]]
    parse: Callable[[str], float]
    show: Callable[[float], str] = count

    def read(self, text: str) -> float:
        """Read a share, which has no unit, or an amount such as 500M. Raises UsageError."""
        number, unit = parse_amount(text)
        if not unit:
            return number
        amount = float(self.parse(text))
        if amount <= 1:
            raise UsageError(
                f"{self.name} of {text} is less than any model has; shares have no unit: {self.name}=0.5"
            )
        return amount

    def shown(self, value: float) -> str:
        """Print an amount with its unit."""
        return self.show(value)

    def check(self, value: float) -> None:
        """Refuse what is neither a share nor an amount. Raises UsageError."""
        super().check(value)
        if 1 < value < LEAST:
            raise UsageError(
                f"target {self.name}={value:g}: a share is at most 1, an amount at least {LEAST}, e.g. 1.5M"
            )

    def limit(self, value: float, whole: float) -> float:
        """Return what may remain of a whole."""
        return value * whole if value <= 1 else value


@dataclass(frozen=True)
class QualityData:
    """What there is to measure a quality on: a judge with validation data, else calibration data.

    held_out: calibration data that nothing is fitted to, and what the unpruned model gives on it.
    """

    judged: Judge | None
    held_out: tuple[Validation, Answers] | None


@dataclass(frozen=True)
class Quality(Target):
    """How much worse a model may get; the fewest MACs at which it holds are searched for.

    judge: returns what measures it; its `drop` is compared with the value.
    only_validation: calibration data will not do; zero: that nothing is lost can be asked for.
    """

    judge: Callable[[QualityData], Judge]
    only_validation: bool = False
    zero: bool = False

    searched: ClassVar[bool] = True

    def read(self, text: str) -> float:
        """Read a number. Raises UsageError where it has a unit."""
        number, unit = parse_amount(text)
        if unit:
            raise UsageError(f"got '{text}', expected a number without a unit: {self.name}=0.05")
        return number

    def shown(self, value: float) -> str:
        """Print three digits."""
        return f"{value:.3g}"

    def check(self, value: float) -> None:
        """Refuse what is not above zero. Raises UsageError."""
        if not (self.zero and value == 0):
            super().check(value)

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the settings of which one must name data to measure it on."""
        return ("validate",) if self.only_validation else ("calib", "validate")


def amount_of(name: str) -> Amount:
    """Return a target that is an amount. Raises UsageError for another name."""
    return _of(name, Amount)


def quality_of(name: str) -> Quality:
    """Return a target that is a quality. Raises UsageError for another name."""
    return _of(name, Quality)


def _of(name: str, kind: type[Any]) -> Any:
    found = TARGETS.get(name)
    if not isinstance(found, kind):
        known = ", ".join(t.name for t in TARGETS if isinstance(t, kind))
        raise UsageError(f"target '{name}' is no {kind.__name__.lower()}, expected one of {known}")
    return found
