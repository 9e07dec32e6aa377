"""Nodes and their attributes, written with the original at hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from math import isnan
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from onnxprune.errors import ModelError
from onnxprune.model.carry_values import write_tensor
from onnxprune.model.tensors import copy_except, subgraphs

SubgraphWriter = Callable[[gs.Graph, onnx.GraphProto, onnx.GraphProto], None]
_Attribute = onnx.AttributeProto
_FIELD = {
    _Attribute.FLOAT: "f", _Attribute.INT: "i", _Attribute.STRING: "s", _Attribute.TENSOR: "t",
    _Attribute.GRAPH: "g", _Attribute.FLOATS: "floats", _Attribute.INTS: "ints",
    _Attribute.STRINGS: "strings",
}  # fmt: skip


def domains(graph: onnx.GraphProto) -> Iterator[str]:
    """Operator domains of all nodes, subgraphs included."""
    for node in graph.node:
        yield node.domain
        for inner in subgraphs(node):
            yield from domains(inner)


def importable(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself, or a copy without the attributes that the IR cannot read.

    onnx-graphsurgeon decodes every string attribute; binary ones (engine plug-ins) make it fail.
    """
    if all(_decodes(a) for a in _attributes(model)):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for nodes in _node_lists(copy):
        for node in nodes:
            for index in reversed(range(len(node.attribute))):
                if not _decodes(node.attribute[index]):
                    del node.attribute[index]
    return copy


def _node_lists(model: onnx.ModelProto) -> Iterator[Any]:
    waiting: list[Any] = [model.graph.node, *(f.node for f in model.functions)]
    while waiting:
        nodes = waiting.pop()
        yield nodes
        waiting.extend(inner.node for node in nodes for inner in subgraphs(node))


def _attributes(model: onnx.ModelProto) -> Iterator[onnx.AttributeProto]:
    for nodes in _node_lists(model):
        for node in nodes:
            yield from node.attribute


def _decodes(attribute: onnx.AttributeProto) -> bool:
    if attribute.type not in (_Attribute.STRING, _Attribute.STRINGS):
        return True
    return all(_is_text(s) for s in (attribute.s, *attribute.strings))


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _carried(attribute: onnx.AttributeProto) -> bool:
    """Whether the IR holds this attribute; the others are always put back."""
    return bool(attribute.ref_attr_name) or (attribute.type in _FIELD and _decodes(attribute))


def write_nodes(
    nodes: Iterable[gs.Node], originals: Iterable[onnx.NodeProto], result: Any, subgraph: SubgraphWriter
) -> None:
    """Write nodes in graph order, each on the base of the original with the same first output.

    Raises ModelError where an attribute value cannot be written as ONNX.
    """
    waiting: dict[tuple[str, str], list[onnx.NodeProto]] = defaultdict(list)
    for proto in originals:
        waiting[_key(proto.op_type, proto.output)].append(proto)
    for node in nodes:
        candidates = waiting.get(_key(node.op, (t.name for t in node.outputs)))
        base = candidates.pop(0) if candidates else onnx.NodeProto()
        _write_node(node, base, result.add(), subgraph)


def _key(op_type: str, outputs: Iterable[str]) -> tuple[str, str]:
    return op_type, next((name for name in outputs if name), "")


def _write_node(
    node: gs.Node, base: onnx.NodeProto, result: onnx.NodeProto, subgraph: SubgraphWriter
) -> None:
    copy_except(base, result, frozenset(("input", "output", "attribute")))
    result.input.extend(t.name for t in node.inputs)
    result.output.extend(t.name for t in node.outputs)
    for field, value in (("op_type", node.op), ("name", node.name or ""), ("domain", node.domain or "")):
        if getattr(result, field) != value:
            setattr(result, field, value)
    known = {a.name: a for a in base.attribute}
    for attribute in base.attribute:
        if not _carried(attribute):
            result.attribute.add().CopyFrom(attribute)
        elif attribute.name in node.attrs:
            _write_attribute(node, attribute.name, attribute, (result.attribute.add(), subgraph))
    for name in node.attrs:
        if name not in known:
            _write_attribute(node, name, onnx.AttributeProto(), (result.attribute.add(), subgraph))


def _write_attribute(
    node: gs.Node, name: str, base: onnx.AttributeProto, target: tuple[onnx.AttributeProto, SubgraphWriter]
) -> None:
    result, subgraph = target
    value = node.attrs[name]
    if isinstance(value, gs.Node.AttributeRef) or base.ref_attr_name:
        unchanged = isinstance(value, gs.Node.AttributeRef) and value.name == base.ref_attr_name
        result.CopyFrom(base if unchanged else _exported(node, name))
    elif isinstance(value, gs.Graph):
        copy_except(base, result, frozenset(("g",)))
        result.name, result.type = name, _Attribute.GRAPH
        result.g.SetInParent()
        subgraph(value, base.g, result.g)
    elif isinstance(value, gs.Constant):
        copy_except(base, result, frozenset(("t",)))
        result.name, result.type = name, _Attribute.TENSOR
        result.t.SetInParent()
        write_tensor(value, base.t if base.HasField("t") else None, result.t)
    elif base.name and _same(value, base):
        result.CopyFrom(base)
    else:
        result.CopyFrom(_exported(node, name, base))


def _same(value: Any, attribute: onnx.AttributeProto) -> bool:
    held = getattr(attribute, _FIELD[attribute.type])
    if attribute.type == _Attribute.STRING:
        return bool(value == held.decode() or value == held)
    if attribute.type == _Attribute.STRINGS:
        return not isinstance(value, str) and [_bytes(v) for v in value] == list(held)
    if attribute.type in (_Attribute.INTS, _Attribute.FLOATS):
        return hasattr(value, "__len__") and not isinstance(value, str) and _equal(list(value), list(held))
    return not hasattr(value, "__len__") and _equal([value], [held])


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _equal(values: list[Any], held: list[Any]) -> bool:
    """Equality in which NaN equals NaN and an int never equals a float."""
    if len(values) != len(held):
        return False
    pairs = zip(values, held, strict=True)
    return all(
        isinstance(v, float) == isinstance(h, float)
        and (v == h or (isinstance(v, float) and isnan(v) and isnan(h)))
        for v, h in pairs
    )


def _exported(node: gs.Node, name: str, base: onnx.AttributeProto | None = None) -> onnx.AttributeProto:
    value = node.attrs[name]
    try:
        if hasattr(value, "__len__") and not isinstance(value, (str, bytes)) and len(value) == 0:
            kind = base.type if base is not None and base.type else _Attribute.INTS
            result = onnx.AttributeProto(name=name, type=kind)
        else:
            result = OnnxExporter.export_attributes({name: value})[0]
    except (TypeError, ValueError) as error:
        message = f"node '{node.name}' ({node.op}): attribute '{name}' cannot be written: {error}"
        raise ModelError(message) from error
    if base is not None and base.doc_string:
        result.doc_string = base.doc_string
    return result


def write_constant(tensor: gs.Constant, result: onnx.NodeProto) -> None:
    """Write a Constant node that makes the tensor, where a level has no initializers."""
    result.op_type = "Constant"
    result.output.append(tensor.name)
    attribute = result.attribute.add(name="value", type=_Attribute.TENSOR)
    attribute.t.SetInParent()
    write_tensor(tensor, None, attribute.t)
