"""Constants stored in sparse form, where that is smaller and onnxruntime takes it."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from onnxprune.model.constant import Constant
from onnxprune.model.graph import opsets_of

SPARSE_IR = 6  # the IR version that brought sparse initializers
SPARSE_CONSTANT_OPSET = 11  # the opset that brought Constant's sparse_value


def encode(model: onnx.ModelProto, constants: Sequence[Constant]) -> list[tuple[str, str]]:
    """Store constants of a model as sparse where that is smaller; return encoding and note of each.

    onnxruntime makes them dense again at load, so this saves bytes and no time. Every model written
    this way has been loaded there.
    """
    forms = {constant: constant.as_sparse() for constant in constants if not constant.is_sparse}
    notes = {constant: _unfit(model, constant, form) for constant, form in forms.items()}
    fit = [(constant, form) for constant, form in forms.items() if not notes[constant]]
    notes |= _settled(model, fit) if fit else {}
    return [("dense" if notes.get(c) else "sparse", notes.get(c, "")) for c in constants]


def _unfit(model: onnx.ModelProto, constant: Constant, form: onnx.SparseTensorProto) -> str:
    """Why a constant stays dense, or nothing."""
    if form.ByteSize() >= constant.tensor.ByteSize():
        return "smaller dense than sparse"
    if model.ir_version < SPARSE_IR:
        return f"kept dense: sparse tensors need IR version {SPARSE_IR}, the model has {model.ir_version}"
    if constant.in_function:
        # onnxruntime 1.31 crashes the process at load, and not every time
        return "kept dense: onnxruntime cannot take a sparse constant in a function"
    opset = opsets_of(model).get("", 0)
    if isinstance(constant.home, onnx.AttributeProto) and opset < SPARSE_CONSTANT_OPSET:
        return f"kept dense: a sparse Constant needs opset {SPARSE_CONSTANT_OPSET}, the model has {opset}"
    return ""


def _settled(
    model: onnx.ModelProto, swaps: Sequence[tuple[Constant, onnx.SparseTensorProto]]
) -> dict[Constant, str]:
    """Put in as many sparse forms as onnxruntime accepts; return the reason for each of the others."""
    places = [constant.exchange(form) for constant, form in swaps]
    reason = _refusal(model)
    if not reason:
        return {}
    for (constant, _), place in zip(reversed(swaps), reversed(places), strict=True):
        constant.restore(place)
    why = "does not load it as sparse"
    if _refusal(model):
        why = "loads the model neither way, so this cannot be checked"
    elif len(swaps) > 1:
        half = len(swaps) // 2
        return _settled(model, swaps[:half]) | _settled(model, swaps[half:])
    return {constant: f"kept dense: onnxruntime {why}: {reason}" for constant, _ in swaps}


def _refusal(model: onnx.ModelProto) -> str:
    """What onnxruntime has against the model, or nothing where it loads."""
    from onnxprune.model.runtime import one_line, open_session

    try:
        open_session(model, optimised=True)
    except Exception as error:  # noqa: BLE001  onnxruntime runs out of memory on some, as on bad ones
        return one_line(Exception(error.__cause__ or error))
    return ""
