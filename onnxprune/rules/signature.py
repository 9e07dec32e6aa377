"""What a rule says of a node: data about axes, in the manner of einsum and einops.

Every axis of every input and output is a tuple of *subscripts*, outermost first; an axis of size 1
has none. Letters that occur in two places are the same index: an element-wise op repeats them, a
contraction leaves them out of its outputs, a reshape regroups them, a grouped convolution splits
its channel axis into `("g", "c")`. One interpreter reads signatures to tie labels, to replay a
plan, to slice weights, to count MACs and to mask the oracle.

The idea of axis factors follows OpenXLA Shardy and PyTorch DTensor; the notation is einops's
(Rogozhnikov, ICLR 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, TypeAlias

import numpy as np

from onnxprune.rules.active_ranges import ActiveRange
from onnxprune.rules.fits import Fits
from onnxprune.rules.regressions import MakeRegression
from onnxprune.rules.tape import Gradient
from onnxprune.rules.values import DYNAMIC, Evaluate, FromShape

Axis: TypeAlias = tuple[str, ...]
Axes: TypeAlias = tuple[Axis, ...]
Shape: TypeAlias = tuple[int, ...]

NO_RULE = "no rule for this operator"
ARRIVING = "arriving"
INDEXED = "indexed"


@dataclass(frozen=True)
class Site:
    """A node as its rule sees it: attributes, concrete shapes, and small values where known.

    `marks` says of every element of a known value whether it comes from a Shape at run time, and whether it
    changes with the sizes of the model's inputs (`rules/values.py`).
    """

    op: str
    domain: str
    opset: int
    name: str
    attrs: Mapping[str, Any]
    inputs: tuple[Shape | None, ...]
    outputs: tuple[Shape | None, ...]
    values: tuple[np.ndarray | None, ...]
    marks: tuple[np.ndarray | None, ...]

    def value(self, index: int) -> np.ndarray | None:
        """Return the known value of an input, or None."""
        return self.values[index] if index < len(self.values) else None

    def listed(self, index: int) -> np.ndarray | None:
        """Return the value of an input if the file holds it; None where it is computed, be it from shapes."""
        value, marks = self.value(index), self.marks[index] if index < len(self.marks) else None
        return None if value is None or marks is None or marks.any() else value

    def dynamic(self, index: int) -> np.ndarray:
        """Tell for each element of a known input whether it changes with the sizes of the model's inputs."""
        marks = self.marks[index] if index < len(self.marks) else None
        return np.zeros(0, bool) if marks is None else np.ravel(marks & DYNAMIC) > 0

    def has(self, index: int) -> bool:
        """Tell whether an optional input is present."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def shape(self, index: int = 0) -> Shape:
        """Return the concrete shape of an input that is present."""
        shape = self.inputs[index]
        assert shape is not None, f"{self.op} '{self.name}' lacks input {index}"
        return shape

    def out(self, index: int = 0) -> Shape:
        """Return the concrete shape of an output."""
        shape = self.outputs[index]
        assert shape is not None, f"{self.op} '{self.name}' lacks output {index}"
        return shape

    def ints(self, attr: str, index: int | None = None) -> list[int] | None:
        """Read a list of integers that is an attribute in old opsets and an input in new ones."""
        if attr in self.attrs:
            found = self.attrs[attr]
            return [int(found)] if isinstance(found, int) else [int(v) for v in found]
        value = self.value(index) if index is not None else None
        return None if value is None else [int(v) for v in np.ravel(value)]


@dataclass(frozen=True)
class Take:
    """An output subscript whose elements are taken from the concatenation of source subscripts.

    `index` holds, for each element of the output subscript, its place in the concatenation, or -1
    for an element that the node creates. `order` says who decides the order after a removal:
    ARRIVING, the elements as they come in (Concat, Split, Slice, Pad); INDEXED, a repaired index
    (Gather).
    """

    sources: tuple[str, ...]
    index: np.ndarray
    order: str = ARRIVING
    step: int = 1


@dataclass(frozen=True)
class Fix:
    """A value that a node must get after a removal: an attribute, or the input of that number.

    An attribute whose value is None goes away. An array is stored with its own shape.
    """

    where: str | int
    value: int | float | tuple[int, ...] | tuple[float, ...] | np.ndarray | None

    def listed(self) -> Any:
        """Return the value with lists in place of tuples and arrays."""
        if isinstance(self.value, np.ndarray):
            return self.value.tolist()
        return list(self.value) if isinstance(self.value, tuple) else self.value


@dataclass(frozen=True)
class Shrunk:
    """What a repair may read: sizes of subscripts, shapes of outputs, and places that a Take picks."""

    sizes: Mapping[str, int]
    inputs: tuple[Shape | None, ...]
    outputs: tuple[Shape | None, ...]
    picked: Mapping[str, np.ndarray]

    def size(self, axis: Axis) -> int:
        """Return the size of an axis made of these subscripts."""
        return int(np.prod([self.sizes[subscript] for subscript in axis], dtype=np.int64))


Repair: TypeAlias = Callable[[Site, Shrunk], list[Fix]]


@dataclass(frozen=True)
class Code:
    """The inputs that say which real numbers the codes of another input stand for.

    A code q stands for (q - zero) * scale; None stands for a zero of 0, or a scale of 1.
    """

    scale: int | None = None
    zero: int | None = None


@dataclass(frozen=True)
class Normalisation:
    """How a node normalises along `normalised` subscripts, so that it can be written over kept channels only.

    y = (x - mean) / sqrt(mean of squares + epsilon) * scale + bias, the means over these subscripts; without
    `centred` no mean is taken off. scale, bias: inputs, whose axes the signature names as those of others.
    x is input 0, or, where the node makes a sum first, what the output `summed` holds. mean, inverse: outputs
    that hold the mean and one over the root.
    """

    epsilon: float
    centred: bool = True
    scale: int | None = None
    bias: int | None = None
    summed: int | None = None
    mean: int | None = None
    inverse: int | None = None


@dataclass(frozen=True)
class Signature:
    """The axes of one node, and what happens along them.

    sizes: sizes of subscripts that share an axis with others; the rest are read off the shapes.
    pins: subscripts along which nothing may be removed, with the reason; an empty reason marks axes
        that hold no channels (the taps of a kernel) and is not reported.
    tied: subscripts whose slices live and die together (the phases of DepthToSpace).
    together: subscripts that number one set of channels though no axis joins them (the hidden units of
        the directions of an LSTM).
    whole: subscripts along which channels differ but that do not shrink, with the reason (these directions).
    fed_back: subscripts along which the node consumes what it produced itself, with the subscript that it
        produced (the hidden units as an LSTM's R reads them).
    takes: output subscripts assembled from others by index.
    placed: input subscripts whose elements are written to places of another subscript, as a take of it says
        (the part that ScatterND overwrites): these live and die with what is there.
    created: output subscripts whose elements the node creates (Expand, ConstantOfShape).
    normalised: subscripts over which a statistic is taken and that stay in the output.
    normalisation: how; without it nothing may be removed along them.
    inner: subscripts that are summed over inside the node although an output may hold them: the head
        dimension of attention in one node. What is removed along them must read 0 in every input.
    neutral: what a removed element must read so that a reduction over it ignores it.
    ranged: subscripts that stay in the output, but along which a removed element must read `neutral` too:
        it sets the range of a quantisation, or the codes are masked before they are decoded.
    codes: inputs that hold codes of real numbers, with their scale and zero; there `neutral` is the zero.
    counted: the number of reduced elements enters the result (a mean).
    macs: subscripts whose sizes multiply to the node's MACs.
    more_macs: further products of sizes that add to them.
    repair: what attributes and shape inputs become after a removal.
    """

    inputs: tuple[Axes | None, ...]
    outputs: tuple[Axes | None, ...]
    sizes: Mapping[str, int] = field(default_factory=dict)
    pins: Mapping[str, str] = field(default_factory=dict)
    tied: frozenset[str] = frozenset()
    together: tuple[Axis, ...] = ()
    whole: Mapping[str, str] = field(default_factory=dict)
    fed_back: Mapping[str, str] = field(default_factory=dict)
    takes: Mapping[str, Take] = field(default_factory=dict)
    placed: Mapping[str, Take] = field(default_factory=dict)
    created: frozenset[str] = frozenset()
    normalised: frozenset[str] = frozenset()
    normalisation: Normalisation | None = None
    inner: frozenset[str] = frozenset()
    neutral: float | None = 0.0
    ranged: frozenset[str] = frozenset()
    codes: Mapping[int, Code] = field(default_factory=dict)
    counted: bool = False
    macs: Axis = ()
    more_macs: tuple[Axis, ...] = ()
    repair: Repair | None = None

    @property
    def products(self) -> tuple[Axis, ...]:
        """Return the products of sizes that add up to the node's MACs."""
        return tuple(subscripts for subscripts in (self.macs, *self.more_macs) if subscripts)

    def ending_subscripts(self) -> set[str]:
        """Return the subscripts that the node sums or reduces over."""
        subscripts = {x for axes in self.inputs if axes for axis in axes for x in axis}
        return (subscripts - self.kept_subscripts()) | self.inner

    def kept_subscripts(self) -> set[str]:
        """Return the subscripts that live on in an output, by place or by a take."""
        subscripts = {subscript for axes in self.outputs if axes for axis in axes for subscript in axis}
        return subscripts.union(self.placed, *(take.sources for take in self.takes.values()))


@dataclass(frozen=True)
class Pinned:
    """A node that freezes every label that reaches it, with a reason that a person can read."""

    reason: str
    macs: int = 0


Verdict: TypeAlias = Signature | Pinned


def named(shape: Shape, subscripts: str | list[str]) -> Axes:
    """Give each axis of a shape its subscript; axes of size 1 get none."""
    return tuple((subscript,) if size > 1 else () for size, subscript in zip(shape, subscripts, strict=True))


def numbered(shape: Shape, prefix: str = "x", start: int = 0) -> Axes:
    """Give the axes of a shape the subscripts x0, x1, …; axes of size 1 get none."""
    return tuple((f"{prefix}{start + i}",) if size > 1 else () for i, size in enumerate(shape))


def packed(**sizes: int) -> Axis:
    """Make a composite axis of the subscripts whose size is above 1."""
    return tuple(subscript for subscript, size in sizes.items() if size > 1)


def positive(axis: int, rank: int) -> int:
    """Count an axis from the front."""
    return axis + rank if axis < 0 else axis


def attr_size(attr: str, axis: Axis) -> Repair:
    """Repair an attribute that holds the size of an axis, such as Conv's `group`."""

    def repair(_site: Site, shrunk: Shrunk) -> list[Fix]:
        return [Fix(attr, shrunk.size(axis))]

    return repair


def ints_fix(site: Site, attr: str, index: int, values: list[int]) -> Fix:
    """Place repaired integers where this opset keeps them: in an attribute or an input."""
    return Fix(attr if attr in site.attrs or not site.has(index) else index, tuple(values))


class Arithmetic(Enum):
    """What an operator of plain arithmetic computes: of two operands, or of the elements of one."""

    SUM = auto()
    PRODUCT = auto()
    QUOTIENT = auto()
    TOTAL = auto()


@dataclass(frozen=True)
class Quantisation:
    """The first input becomes codes, or codes become real numbers; the first output holds them.

    zero: the output that holds the zero point, where the node chooses it by the range of its input.
    """

    decodes: bool
    zero: int | None = None


@dataclass(frozen=True)
class Statistics:
    """The inputs of a normalisation by stored statistics, one value for each channel of its first input."""

    scale: int
    mean: int
    variance: int


@dataclass(frozen=True)
class Branching:
    """The node does what one of two attributes holds, by its first input.

    attributes: the one for a true condition, and the other. chooser: the operator that chooses between the
    results of both by the condition.
    """

    attributes: tuple[str, str]
    chooser: str


@dataclass(frozen=True)
class Facets:
    """The cells of an operator's row; what is left out is not known, or does not concern it.

    evaluate: its outputs where all its inputs are known before the model runs.
    from_shape: its output as far as only the shape of its input matters (Shape, Size).
    moves: every element of its first input is an element of its output, as it is.
    arithmetic: what it computes, where that is plain arithmetic.
    coded: inputs at which a constant of integers is a weight or bias, and counts as parameters.
    quantisation: whether it makes codes or reads them.
    element_type: the attribute that holds the element type that it casts to.
    tables: for an input of ids the input of which they number the rows (axis 0).
    statistics: inputs that hold the stored statistics it normalises by.
    fits: which of its weights contradict the sizes of what they meet.
    gradient: how the gradient of its output becomes that of an input.
    active_range: which values of its first input it tells apart.
    regression: how it is a linear regression of its output on its input.
    branching: that it takes one of two branches.
    outer: where it sums over no index it is an outer product, as of positions and frequencies, and no layer.
    opaque: why it freezes all that reaches it, whatever the shapes, which may be unknown.
    """

    evaluate: Evaluate | None = None
    from_shape: FromShape | None = None
    moves: bool = False
    arithmetic: Arithmetic | None = None
    coded: tuple[int, ...] = ()
    quantisation: Quantisation | None = None
    element_type: str = ""
    tables: Mapping[int, int] = field(default_factory=dict)
    statistics: Statistics | None = None
    fits: Fits | None = None
    gradient: Gradient | None = None
    active_range: ActiveRange | None = None
    regression: MakeRegression | None = None
    branching: Branching | None = None
    outer: bool = False
    opaque: str = ""


NOTHING = Facets()
