"""What a rule says of a node by itself: the shapes of what is computed are supposed to fit its constants.

Along which axes a node sums over a weight follows from the weight. So it is known where the trace cannot go:
in subgraphs and functions, and behind operators whose results have no known shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, product

import onnx
from onnx import TensorProto, helper

from onnxprune.analysis.axes import subscript_sizes
from onnxprune.rules import REGISTRY
from onnxprune.rules.signature import Shape, Signature, Site

_FREE = (4096, 2)  # sizes of axes that the constants leave open: larger than any window, below any output
_MOST_AXES = 5


def supposed(
    node: onnx.NodeProto, constants: Sequence[Shape | None], opset: int, whole: bool = False
) -> Signature | None:
    """Ask the rule of one of ONNX's own operators, with a shape of what is computed that fits the constants.

    constants: shapes of the inputs that are constant, None for the others, which get one shape. Optional
    inputs are left out, unless the node is asked as a whole. Returns None where there is no rule or
    nothing fits.
    """
    rule = REGISTRY.find(node.domain, node.op_type, opset)
    if rule is None or not onnx.defs.has(node.op_type, opset, node.domain):
        return None
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    variadic = schema.inputs[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic
    needed = len(node.input) if variadic or whole else schema.min_input
    known = [shape for shape in constants[:needed] if shape]
    for given in _candidates(node, known) if known and None in constants[:needed] else ((),):
        shapes = [given if shape is None else shape for shape in constants[:needed]]
        site = _site(node, shapes, opset)
        try:
            verdict = rule.verdict(site) if site is not None else None
            if site is not None and isinstance(verdict, Signature):
                subscript_sizes(verdict, site.inputs, site.outputs)
                return verdict
        except ValueError:
            continue  # sizes that disagree: not this shape
    return None


def _candidates(node: onnx.NodeProto, constants: Sequence[Shape]) -> Iterator[Shape]:
    """List shapes of which one or two axes have a size of the constants, or that of all groups together."""
    groups = {1, *(a.i for a in node.attribute if a.type == onnx.AttributeProto.INT and a.i > 1)}
    sizes = list(
        dict.fromkeys(n * g for g in sorted(groups) for shape in constants for n in shape if n * g > 1)
    )
    rank = max(len(shape) for shape in constants)
    ranks = sorted(range(1, _MOST_AXES + 1), key=lambda r: abs(r - rank))
    for free, (count, fitting) in product(_FREE, ((1, sizes), (1, [1]), (2, sizes))):
        for rank in ranks:
            for axes in combinations(range(rank), count):
                for chosen in product(fitting, repeat=count):
                    fitted = dict(zip(axes, chosen, strict=True))
                    yield tuple(fitted.get(i, free) for i in range(rank))


def _site(node: onnx.NodeProto, inputs: Sequence[Shape], opset: int) -> Site | None:
    """Describe the node as a rule sees it; None where onnx refuses the shapes."""
    alone = onnx.NodeProto(op_type=node.op_type, attribute=node.attribute)
    alone.input.extend(f"i{n}" for n in range(len(inputs)))
    alone.output.extend(f"o{n}" if name else "" for n, name in enumerate(node.output))
    given = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip(alone.input, inputs, strict=True)
    ]
    graph = helper.make_graph([alone], "alone", given, [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError):
        return None
    made = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in inferred.value_info}
    outputs = tuple(made.get(name) for name in alone.output)
    if any(name and not shape for name, shape in zip(alone.output, outputs, strict=True)):
        return None
    found = {a.name: helper.get_attribute_value(a) for a in node.attribute if not a.ref_attr_name}
    attributes = {k: v.decode(errors="replace") if isinstance(v, bytes) else v for k, v in found.items()}
    none = (None,) * len(inputs)
    return Site(node.op_type, "", opset, node.name, attributes, tuple(inputs), outputs, none, none)
