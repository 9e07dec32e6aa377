"""Do the weights fit the tensors that meet them? onnx's own inference does not ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx

from onnxprune.errors import ModelError
from onnxprune.model.flow import node_name

Dims = list["int | None"]
Shapes = dict[str, Dims]


def check_channels(bare: onnx.ModelProto) -> tuple[str, ...]:
    """Check the channels of Conv, Gemm, MatMul and normalisations of a model without weight bytes.

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
    constants.update(o for n in bare.graph.node if n.op_type == "Constant" for o in n.output)
    for node in bare.graph.node:
        rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if rule is not None:
            _refuse_empty(node, constants, shapes)
            for tensor, finding in rule(node, shapes):
                raise ModelError(f"{node_name(node)}: tensor '{tensor}' {finding}; export the model again")
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


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _dims(node: onnx.NodeProto, index: int, shapes: Shapes) -> Dims | None:
    return shapes.get(node.input[index]) if index < len(node.input) and node.input[index] else None


def _differ(first: int | None, second: int | None) -> bool:
    return first is not None and second is not None and first != second


def _conv(node: onnx.NodeProto, shapes: Shapes) -> Iterator[tuple[str, str]]:
    data, weight, bias = (_dims(node, i, shapes) for i in range(3))
    if weight is None or len(weight) < 3 or None in weight:
        return
    group = _attribute(node, "group", 1)
    out, inner = int(weight[0] or 0), int(weight[1] or 0) * group
    if group < 1 or out % group:
        yield node.input[1], f"has {out} output channels, expected a multiple of group {group}"
    if data is not None and len(data) == len(weight) and _differ(data[1], inner):
        yield node.input[1], f"takes {inner} input channels, but its input '{node.input[0]}' has {data[1]}"
    if bias is not None and len(bias) == 1 and _differ(bias[0], out):
        yield node.input[2], f"has {bias[0]} biases, expected {out}"


def _conv_transpose(node: onnx.NodeProto, shapes: Shapes) -> Iterator[tuple[str, str]]:
    data, weight, bias = (_dims(node, i, shapes) for i in range(3))
    if weight is None or len(weight) < 3 or None in weight:
        return
    group = _attribute(node, "group", 1)
    inner, out = int(weight[0] or 0), int(weight[1] or 0) * group
    if group < 1 or inner % group:
        yield node.input[1], f"takes {inner} input channels, expected a multiple of group {group}"
    if data is not None and len(data) == len(weight) and _differ(data[1], inner):
        yield node.input[1], f"takes {inner} input channels, but its input '{node.input[0]}' has {data[1]}"
    if bias is not None and len(bias) == 1 and _differ(bias[0], out):
        yield node.input[2], f"has {bias[0]} biases, expected {out}"


def _gemm(node: onnx.NodeProto, shapes: Shapes) -> Iterator[tuple[str, str]]:
    left, right, bias = (_dims(node, i, shapes) for i in range(3))
    if left is None or right is None or len(left) != 2 or len(right) != 2:
        return
    inner = left[0 if _attribute(node, "transA", 0) else 1]
    transposed = bool(_attribute(node, "transB", 0))
    if _differ(inner, right[1 if transposed else 0]):
        found = right[1 if transposed else 0]
        yield node.input[1], f"takes {found} input channels, but its input '{node.input[0]}' has {inner}"
    out = right[0 if transposed else 1]
    if bias and bias[-1] != 1 and _differ(bias[-1], out):
        yield node.input[2], f"has {bias[-1]} biases, expected {out}"


def _matmul(node: onnx.NodeProto, shapes: Shapes) -> Iterator[tuple[str, str]]:
    left, right = (_dims(node, i, shapes) for i in range(2))
    if not left or not right:
        return
    inner, found = left[-1], right[-2] if len(right) > 1 else right[0]
    if _differ(inner, found):
        yield node.input[1], f"takes {found} input channels, but its input '{node.input[0]}' has {inner}"


def _normalization(node: onnx.NodeProto, shapes: Shapes) -> Iterator[tuple[str, str]]:
    data = _dims(node, 0, shapes)
    if data is None or len(data) < 2:
        return
    for index in range(1, len(node.input)):
        vector = _dims(node, index, shapes)
        if vector is not None and len(vector) == 1 and _differ(vector[0], data[1]):
            yield (
                node.input[index],
                f"has {vector[0]} channels, but its input '{node.input[0]}' has {data[1]}",
            )


_RULES: dict[str, Callable[[onnx.NodeProto, Shapes], Iterator[tuple[str, str]]]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _normalization,
    "InstanceNormalization": _normalization,
}
