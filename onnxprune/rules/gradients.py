"""Gradients of contractions and of movement, for the rules that name them; those of arithmetic lie beside."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxprune.rules.regressions import sliding
from onnxprune.rules.tape import Gradient, NodeUse, Tape


# -- contractions --------------------------------------------------------------------------------------------
def _convolved(use: NodeUse, tape: Tape, coming: str) -> str:
    attrs, size = use.attributes, use.size[2:]
    made, kernel = (use.piece.shapes[name][2:] for name in (use.made, use.node.input[1]))
    rank = len(size)
    strides, dilations, pads = sliding(attrs, rank)
    covered = [(made[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 for i in range(rank)]
    left = [size[i] - covered[i] + pads[i] + pads[rank + i] for i in range(rank)]
    return tape.emit(
        "ConvTranspose", coming, use.node.input[1], strides=strides, dilations=dilations, pads=pads,
        output_padding=left, group=attrs.get("group", 1),
    )  # fmt: skip


def _pads_by_numbers(use: NodeUse) -> bool:
    return use.attributes.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")


def _dense(use: NodeUse, tape: Tape, coming: str) -> str:
    back = 0 if use.attributes.get("transB", 0) else 1
    return tape.emit("Gemm", coming, use.node.input[1], transB=back, alpha=use.attributes.get("alpha", 1.0))


def _keeps_input(use: NodeUse) -> bool:
    return not use.attributes.get("transA", 0)


def _multiplied(use: NodeUse, tape: Tape, coming: str) -> str:
    return tape.emit("MatMul", coming, tape.emit("Transpose", use.node.input[1], perm=[1, 0]))


def _has_matrix(use: NodeUse) -> bool:
    return len(use.piece.shapes[use.node.input[1]]) == 2 and len(use.size) > 1


CONVOLVED = Gradient(_convolved, when=_pads_by_numbers)
DENSE = Gradient(_dense, when=_keeps_input)
MULTIPLIED = Gradient(_multiplied, when=_has_matrix)


# -- movement ------------------------------------------------------------------------------------------------
def _reshaped(use: NodeUse, tape: Tape, coming: str) -> str:
    return tape.like(coming, use.name)


def _transposed(use: NodeUse, tape: Tape, coming: str) -> str:
    perm = use.attributes.get("perm") or list(reversed(range(len(use.size))))
    return tape.emit("Transpose", coming, perm=[int(i) for i in np.argsort(perm)])


def _joined(use: NodeUse, tape: Tape, coming: str) -> str:
    axis = use.attributes["axis"]
    ends = np.cumsum([0, *(use.piece.shapes[name][axis] for name in use.node.input)])
    limits = (tape.constant([int(end)]) for end in ends[use.place : use.place + 2])
    return tape.emit("Slice", coming, *limits, tape.constant([axis]))


def _sliced(use: NodeUse, tape: Tape, coming: str) -> str:
    for axis, picked in _slices(use).items():
        coming = _put_back(use, tape, coming, (axis, np.arange(use.size[axis])[picked]))
    return coming


def _slices(use: NodeUse) -> dict[int, slice]:
    """Return by axis what a Slice picks."""
    names = [*use.node.input[1:], "", "", "", ""]
    given: list[Any] = [
        use.piece.stored[name].ravel().tolist() if name else use.attributes.get(word)
        for name, word in zip(names[:4], ("starts", "ends", "axes", "steps"), strict=True)
    ]
    starts, ends = given[:2]
    axes = range(len(starts)) if given[2] is None else given[2]
    steps = [1] * len(starts) if given[3] is None else given[3]
    picked = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        before = step < 0 and end < -use.size[axis]  # down to the first and with it
        picked[axis % len(use.size)] = slice(start, None if before else end, step)
    return picked


def _gathered(use: NodeUse, tape: Tape, coming: str) -> str:
    axis = use.attributes.get("axis", 0) % len(use.size)
    return _put_back(use, tape, coming, (axis, use.piece.stored[use.node.input[1]] % use.size[axis]))


def _has_places(use: NodeUse) -> bool:
    return use.fixed and use.piece.stored[use.node.input[1]].ndim == 1


def _put_back(use: NodeUse, tape: Tape, coming: str, picked: tuple[int, np.ndarray]) -> str:
    """Sum what was picked along an axis at the places it came from; picked: the axis and the places."""
    axis, places = picked
    chosen = np.zeros((len(places), use.size[axis]))
    chosen[np.arange(len(places)), places] = 1
    order = list(range(len(use.size)))
    order[axis], order[-1] = order[-1], order[axis]
    turned = tape.emit("Transpose", coming, perm=order)
    return tape.emit("Transpose", tape.emit("MatMul", turned, tape.constant(chosen, np.float32)), perm=order)


def _padded(use: NodeUse, tape: Tape, coming: str) -> str:
    starts = _pads(use)[: len(use.size)]
    ends = [start + n for start, n in zip(starts, use.size, strict=True)]
    axes = list(range(len(use.size)))
    return tape.emit("Slice", coming, tape.constant(starts), tape.constant(ends), tape.constant(axes))


def _pads(use: NodeUse) -> list[int]:
    given = (
        use.piece.stored[use.node.input[1]].tolist() if len(use.node.input) > 1 else use.attributes["pads"]
    )
    return list(given)


def _adds_only(use: NodeUse) -> bool:
    """Tell whether a Pad adds, on all axes, nothing of its input."""
    plain = use.attributes.get("mode", b"constant") == b"constant" and len(use.node.input) < 4
    return use.fixed and plain and min(_pads(use)) >= 0


RESHAPED = Gradient(_reshaped)
TRANSPOSED = Gradient(_transposed)
JOINED = Gradient(_joined, every=True)
SLICED = Gradient(_sliced, when=lambda use: use.fixed)
GATHERED = Gradient(_gathered, when=_has_places)
PADDED = Gradient(_padded, when=_adds_only)
