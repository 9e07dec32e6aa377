"""Reading a model that is to be analysed: its weights must fit what meets them, as the rules say."""

from __future__ import annotations

import os

import onnx

from onnxprune.errors import ModelError
from onnxprune.model import load as files
from onnxprune.model.flow import node_name
from onnxprune.model.inline import opsets_of
from onnxprune.model.structure import is_constant
from onnxprune.rules.fits import Dims, Meeting
from onnxprune.rules.registry import facets_of

Shapes = dict[str, Dims]


def load(given: str | os.PathLike[str] | bytes | onnx.ModelProto) -> files.Loaded:
    """Read a model from a path, from bytes or from a ModelProto, which is not changed.

    Raises ModelError for a file or model that cannot be used.
    """
    return files.load(given, check_weights)


def check_weights(bare: onnx.ModelProto) -> tuple[str, ...]:
    """Check the weights of a model without their bytes against the sizes of what they meet.

    Returns what shape inference has to say of other operators, as warnings. Raises ModelError for the
    first weight that does not fit or has no channels. Clears the model's stored shapes.
    """
    bare.graph.ClearField("value_info")
    for info in bare.graph.output:
        if info.type.HasField("tensor_type"):
            info.type.tensor_type.ClearField("shape")
    warning: tuple[str, ...] = ()
    try:
        inferred = onnx.shape_inference.infer_shapes(bare, strict_mode=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError) as error:
        warning = (f"shape inference: {' '.join(str(error).split())}",)
        inferred = _lenient(bare)
    shapes = _shapes(inferred)
    constants = {t.name for t in bare.graph.initializer}
    constants.update(o for n in bare.graph.node if is_constant(n.op_type, n.domain) for o in n.output)
    opsets = opsets_of(bare)
    for node in bare.graph.node:
        fits = facets_of(node, opsets).fits
        if fits is not None:
            _refuse_empty(node, constants, shapes)
            for place, finding in fits(Meeting(node, shapes)):
                where = f"{node_name(node)}: tensor '{node.input[place]}'"
                raise ModelError(f"{where} {finding}; export the model again")
    return warning


def _lenient(bare: onnx.ModelProto) -> onnx.GraphProto:
    try:
        return onnx.shape_inference.infer_shapes(bare).graph
    except (onnx.shape_inference.InferenceError, RuntimeError):
        # What strict inference said of it is the warning; the stored shapes remain to check against.
        return bare.graph


def _shapes(graph: onnx.GraphProto) -> Shapes:
    shapes: Shapes = {}
    for info in (*graph.input, *graph.output, *graph.value_info):
        kind = info.type.tensor_type
        if kind.HasField("shape"):
            shapes[info.name] = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    for tensor in graph.initializer:
        shapes[tensor.name] = list(tensor.dims)
    return shapes


def _refuse_empty(node: onnx.NodeProto, constants: set[str], shapes: Shapes) -> None:
    for name in node.input:
        if name in constants and 0 in shapes.get(name, ()):
            got = f"tensor '{name}' has dims {shapes[name]}, expected at least one channel"
            raise ModelError(f"{node_name(node)}: {got}; export the model again")
