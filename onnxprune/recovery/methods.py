"""The methods that repair a pruned model, by name. A package may add its own: one object, in one file.

Names are asked for before anything is loaded, so what a method calls is imported when it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from onnxprune.errors import OnnxPruneError
from onnxprune.registries import RECOVERIES

if TYPE_CHECKING:
    import onnx

    from onnxprune.recovery.context import RecoveryContext

    Repair: TypeAlias = Callable[[RecoveryContext, onnx.ModelProto], onnx.ModelProto]


@dataclass(frozen=True)
class RecoveryMethod:
    """A repair: it takes a model and returns a copy in which stored tensors have other values.

    repair: None where weights stay as they are. starts_from: the method whose result it begins with, else
    the pruned model. needs_data: it fits to activations, so calibration data must be given. walks: it
    keeps activations of every batch at a time, so that `--memory-limit` bounds the batches. at_end: of
    several steps it follows the last one only, and it begins with the best of what came before, not with
    the last; for what costs much.
    """

    name: str
    summary: str
    repair: Repair | None = None
    starts_from: str = ""
    needs_data: bool = True
    walks: bool = True
    at_end: bool = False


def methods_up_to(name: str) -> tuple[RecoveryMethod, ...]:
    """Return the methods that repair something on the way to one, in their order, this one last.

    Raises UsageError for a name that nobody registered, OnnxPruneError where methods start from each other.
    """
    return tuple(reversed([method for method in _backwards(name) if method.repair is not None]))


def _backwards(name: str) -> Iterator[RecoveryMethod]:
    seen: set[str] = set()
    while name:
        if name in seen:
            raise OnnxPruneError(f"recovery method '{name}' starts from itself: change its starts_from")
        seen.add(name)
        method = RECOVERIES.get(name)
        yield method
        name = method.starts_from


def _bias(context: RecoveryContext, pruned: onnx.ModelProto) -> onnx.ModelProto:
    from onnxprune.recovery.refit import refitted

    return refitted(context, pruned, ())


def _least_squares(context: RecoveryContext, pruned: onnx.ModelProto) -> onnx.ModelProto:
    from onnxprune.recovery.least_squares import folded

    return folded(context, pruned)


def _refit(context: RecoveryContext, pruned: onnx.ModelProto) -> onnx.ModelProto:
    from onnxprune.recovery.refit import refitted

    return refitted(context, pruned)


def _joint(context: RecoveryContext, pruned: onnx.ModelProto) -> onnx.ModelProto:
    from onnxprune.recovery.joint import fitted_jointly

    return fitted_jointly(context, pruned)


RECOVERIES.add(RecoveryMethod("none", "weights stay as they are", needs_data=False, walks=False))
RECOVERIES.add(RecoveryMethod("bias", "biases only", _bias))
RECOVERIES.add(RecoveryMethod("ls", "weights by least squares between channels", _least_squares, walks=False))
# The regression shrinks towards the weights it begins with: those of least squares are better ones.
RECOVERIES.add(RecoveryMethod("refit", "every layer fitted to the original's outputs", _refit, "ls"))
RECOVERIES.add(RecoveryMethod("joint", "layers fitted together after refit", _joint, "refit", at_end=True))
