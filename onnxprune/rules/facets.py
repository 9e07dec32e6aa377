"""What is known of an operator besides its axes: the further cells of its row.

A signature is made for each node; a facet is said once, where the rule is registered. Whoever needs it reads
it there (`Registry.facets`), so that no other table of operators exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from onnxprune.rules.active_ranges import ActiveRange
from onnxprune.rules.fits import Fits
from onnxprune.rules.regressions import MakeRegression
from onnxprune.rules.tape import Gradient
from onnxprune.rules.values import Evaluate, FromShape


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
    outer: where it sums over no index it is an outer product, as of positions and frequencies, and no layer.
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
    outer: bool = False


NOTHING = Facets()
