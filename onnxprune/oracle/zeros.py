"""Masking one input of a node: removed elements read the neutral element, which of codes is their zero.

The masked original of a quantised model must be fused as the pruned one is, or both round differently:
QuantizeLinear, DequantizeLinear and the operator between have to stay next to each other. So the codes of
a weight are masked in the file, and what it is multiplied with needs no mask, since decoded codes are
finite; elsewhere codes are masked in front of DequantizeLinear or DynamicQuantizeLinear, and what comes
out of these reads zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto, helper

from onnxprune.analysis.labels import View
from onnxprune.analysis.readers import stored_param
from onnxprune.analysis.trace import Step, Trace
from onnxprune.oracle.restricted import Builder
from onnxprune.rules.signature import Axes, Signature

WITHOUT_WHERE = ("int8", "int16", "uint16")  # onnxruntime 1.31 has no kernel for these on the CPU


class Decoding:
    """Where DequantizeLinear stands: which of its inputs must be masked, and which need not."""

    def __init__(self, traced: Trace) -> None:
        self.decoders: dict[str, Step] = {}
        self.readers: dict[str, list[Step]] = {}
        for step in traced.steps:
            how = step.facets.quantisation
            if how is not None and how.decodes and step.met is not None:
                self.decoders[step.node.outputs[0].name] = step
            for operand in step.operands:
                if operand is not None and operand.stored is None:
                    self.readers.setdefault(operand.tensor, []).append(step)

    def wanted(self, step: Step) -> bool:
        """Tell whether what a node decodes must read zero; True for other nodes."""
        name = step.node.outputs[0].name
        if name not in self.decoders or _is_stored(step):
            return True
        return any(
            view.operand == place and _consumed(reader, view) and not self.spared(reader, view)
            for reader in self.readers.get(name, ())
            for place, operand in enumerate(reader.operands)
            if operand is not None and operand.tensor == name
            for view in (reader.met.views if reader.met is not None else ())
        )

    def spared(self, step: Step, view: View) -> bool:
        """Tell whether decoded codes are multiplied with a stored weight that is masked itself."""
        source = step.operands[view.operand]
        signature = step.verdict
        if source is None or source.tensor not in self.decoders or not isinstance(signature, Signature):
            return False
        if not signature.macs or not (gone := _consumed(step, view)):
            return False
        for place, operand in enumerate(step.operands):
            decoder = None if operand is None else self.decoders.get(operand.tensor)
            if place == view.operand or decoder is None or not _is_stored(decoder):
                continue
            if gone <= {subscript for axis in signature.inputs[place] or () for subscript in axis}:
                return True
        return False


def _is_stored(step: Step) -> bool:
    operand = step.operands[0]
    return operand is not None and operand.stored is not None


def _consumed(step: Step, view: View) -> set[str]:
    """Return the subscripts of a view that the node sums or reduces over."""
    signature = step.verdict
    assert isinstance(signature, Signature)
    return signature.ending_subscripts().intersection(view.block.subscripts)


class Zeros:
    """Masks inputs, each tensor once for each mask, and remembers what reads zero already."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self.masks: dict[tuple[str, bytes], str] = {}
        self.zeroed: dict[str, str] = {}

    def mask(self, step: Step, place: int, mask: np.ndarray) -> list[NodeProto]:
        """Mask an input of a node; return the nodes that do it.

        mask: booleans that broadcast to the input.
        """
        signature = step.verdict
        assert isinstance(signature, Signature)
        assert signature.neutral is not None
        inputs = self.builder.patch.node(step.number).input
        source, zero = inputs[place], _zero_at(signature, inputs, place)
        reads_zero = place in signature.codes or signature.neutral == 0
        if reads_zero and self.zeroed.get(source) == zero:
            return []
        key = (source, mask.tobytes() + bytes(str((mask.shape, signature.neutral, zero)), "utf-8"))
        made: list[NodeProto] = []
        if key not in self.masks:
            filler, made = self._filler(step, place, signature)
            self.masks[key], more = self._where(source, mask, filler)
            made += more
        self.builder.patch.set_input(step.number, place, self.masks[key])
        return made

    def mask_stored(self, step: Step, mask: np.ndarray) -> None:
        """Mask the first input of a node, which is a constant."""
        operand, signature = step.operands[0], step.verdict
        assert operand is not None
        assert operand.stored is not None
        assert isinstance(signature, Signature)
        values = np.asarray(operand.stored.values)
        zero = stored_param(step, 0, signature.codes[0].zero) if 0 in signature.codes else None
        filler = np.zeros((), values.dtype) if zero is None else zero.astype(values.dtype)
        masked = self.builder.constant("codes", np.where(mask, values, filler))
        self.builder.patch.set_input(step.number, 0, masked)

    def note(self, step: Step) -> None:
        """Note that what comes out of a quantising node reads zero where its input does."""
        signature = step.verdict
        if isinstance(signature, Signature) and signature.inputs[0] == signature.outputs[0]:
            outputs = step.node.outputs
            how = step.facets.quantisation
            chosen = None if how is None else how.zero
            self.zeroed[outputs[0].name] = "" if chosen is None else outputs[chosen].name

    def _filler(self, step: Step, place: int, signature: Signature) -> tuple[str, list[NodeProto]]:
        """Return what a removed element reads: the neutral element, or the zero point."""
        inputs = self.builder.patch.node(step.number).input
        dtype = self.builder.dtype(inputs[place])
        code = signature.codes.get(place)
        if code is None:
            assert signature.neutral is not None
            return self.builder.constant("neutral", filler_of(signature.neutral, dtype)), []
        if code.zero is None:
            return self.builder.constant("neutral", np.zeros((), dtype)), []
        known = stored_param(step, place, code.zero)
        if known is not None:
            return self.builder.constant("zero", np.ascontiguousarray(known).astype(dtype)), []
        own, target = signature.inputs[code.zero], signature.inputs[place]
        assert own is not None
        assert target is not None
        return self._broadcast(inputs[code.zero], own, target, dtype)

    def _broadcast(self, zero: str, own: Axes, target: Axes, dtype: np.dtype) -> tuple[str, list[NodeProto]]:
        """Give a vector of computed zero points the rank of the tensor that it belongs to."""
        if len(own) != 1 or not own[0]:
            return zero, []
        shape = np.asarray([-1 if axis == own[0] else 1 for axis in target], np.int64)
        result = self.builder.variable("zero", dtype)
        return result, [self.builder.node("Reshape", [zero, self.builder.constant("shape", shape)], result)]

    def _where(self, source: str, mask: np.ndarray, filler: str) -> tuple[str, list[NodeProto]]:
        dtype = self.builder.dtype(source)
        if self.builder.opset < 9:
            return self._product(source, mask, filler, dtype)
        if dtype.name in WITHOUT_WHERE:
            return self._through_int32(source, mask, filler, dtype)
        result = self.builder.variable("masked", dtype)
        inputs = [self.builder.constant("mask", mask), source, filler]
        return result, [self.builder.node("Where", inputs, result)]

    def _through_int32(
        self, source: str, mask: np.ndarray, filler: str, dtype: np.dtype
    ) -> tuple[str, list[NodeProto]]:
        wide = np.dtype(np.int32)
        data, fill, chosen = (self.builder.variable("wide", wide) for _ in range(3))
        result = self.builder.variable("masked", dtype)
        return result, [
            self._cast(source, data, wide),
            self._cast(filler, fill, wide),
            self.builder.node("Where", [self.builder.constant("mask", mask), data, fill], chosen),
            self._cast(chosen, result, dtype),
        ]

    def _cast(self, source: str, result: str, dtype: np.dtype) -> NodeProto:
        return self.builder.node("Cast", [source], result, to=int(helper.np_dtype_to_tensor_dtype(dtype)))

    def _product(
        self, source: str, mask: np.ndarray, filler: str, dtype: np.dtype
    ) -> tuple[str, list[NodeProto]]:
        """Mask before opset 9, which has no Where: x * mask + neutral * (1 - mask)."""
        product, result = (self.builder.variable("masked", dtype) for _ in range(2))
        fill = self.builder.patch.added[filler]
        offset = np.where(mask, np.zeros((), dtype), fill).astype(dtype)
        shown = self.builder.constant("mask", mask.astype(dtype))
        return result, [
            self.builder.node("Mul", [source, shown], product),
            self.builder.node("Add", [product, self.builder.constant("neutral", offset)], result),
        ]


def _zero_at(signature: Signature, inputs: Sequence[str], place: int) -> str:
    """Return the name of the zero point of an input, nothing where zero is 0."""
    code = signature.codes.get(place)
    return "" if code is None or code.zero is None else inputs[code.zero]


def filler_of(neutral: float, dtype: np.dtype) -> np.ndarray:
    """Return the neutral element in a type; an infinity becomes the type's extreme finite value."""
    if np.isfinite(neutral):
        return np.asarray(neutral, dtype=dtype)
    limits = np.finfo(dtype) if np.issubdtype(dtype, np.floating) else np.iinfo(dtype)
    return np.asarray(limits.min if neutral < 0 else limits.max, dtype=dtype)
