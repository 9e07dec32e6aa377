"""Which functions are written out: those without a rule, since a call of theirs freezes what reaches it."""

from __future__ import annotations

import onnx

from onnxprune.errors import UsageError
from onnxprune.model.inline import FunctionId, Inlined, inline, opsets_of, shown
from onnxprune.rules import REGISTRY, load_plugins
from onnxprune.settings import PruneSettings
from onnxprune.settings.option import options_of


def inlined(model: onnx.ModelProto, which: str = "auto") -> Inlined:
    """Write out calls of model-local functions on a copy; a model without such is returned as it is.

    which: auto, those whose operator has no rule; all; none. Raises as `model.inlining.inline`.
    """
    options_of(PruneSettings)["inline"].kind.check("--inline", which)
    if which == "none" or not model.functions:
        return Inlined(model)
    load_plugins()
    opsets = opsets_of(model)

    def wanted(key: FunctionId) -> bool:
        return which == "all" or REGISTRY.find(key[0], key[1], opsets.get(key[0], 1)) is None

    return inline(model, wanted)


def inlined_again(model: onnx.ModelProto, names: list[str]) -> Inlined:
    """Write out the functions that a plan names.

    Raises UsageError where the model does not call them.
    """
    if not names:
        return Inlined(model)
    result = inline(model, lambda key: shown(key) in names)
    missing = sorted(set(names) - set(result.names))
    if missing:
        raise UsageError(f"the plan inlines function '{missing[0]}', which this model does not call")
    return result
