"""Variations over a finished graph: how parameters and nodes are stored, not what is computed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from .core import Net


def read_inside(net: Net) -> set[str]:
    """Names that the bodies of nodes read: they stay as they are."""
    bodies = [attribute.g for node in net.nodes for attribute in node.attribute if attribute.HasField("g")]
    found: set[str] = set()
    while bodies:
        body = bodies.pop()
        for node in body.node:
            found.update(node.input)
            bodies += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return found


def floats(net: Net) -> list[str]:
    return [name for name, array in net.params.items() if array.dtype == net.style.dtype and array.ndim]


def uses(net: Net) -> dict[str, list[tuple[NodeProto, int]]]:
    result: dict[str, list[tuple[NodeProto, int]]] = {}
    for node in net.nodes:
        for i, name in enumerate(node.input):
            result.setdefault(name, []).append((node, i))
    return result


def deduplicated(net: Net) -> bool:
    """Equal constants become one, as some exporters do."""
    first: dict[tuple, str] = {}
    renamed = {}
    inside = read_inside(net)
    for name, array in list(net.params.items()):
        if name in inside:
            continue
        key = (array.dtype.str, array.shape, array.tobytes())
        if key in first:
            renamed[name] = first[key]
            del net.params[name]
        else:
            first[key] = name
    for node in net.nodes:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
    return bool(renamed)


def aliased(net: Net) -> bool:
    """Some uses of parameters go through one or two Identity nodes."""
    where = uses(net)
    made = []
    for name in floats(net):
        for node, i in where.get(name, []):
            if not net.chance(0.3):
                continue
            alias = name
            for _ in range(2 if net.chance(0.2) else 1):
                output = net.fresh("Identity")
                made.append(helper.make_node("Identity", [alias], [output], name=f"alias_{output}"))
                alias = output
            node.input[i] = alias
    net.nodes[:0] = made
    return bool(made)


def constant_nodes(net: Net) -> bool:
    """All, half or only the integer parameters move into Constant nodes, in front or before their use."""
    which = net.pick(["all", "half", "integers"])
    early = net.chance(0.5)
    first: dict[int, list[NodeProto]] = {}
    at = dict.fromkeys(read_inside(net), 0)
    for position, node in enumerate(net.nodes):
        for name in node.input:
            at.setdefault(name, position)
    for name, array in list(net.params.items()):
        if (which == "integers" and array.dtype != np.int64) or (which == "half" and net.chance(0.5)):
            continue
        node = helper.make_node(
            "Constant", [], [name], name=f"Constant_{name}", value=numpy_helper.from_array(array)
        )
        first.setdefault(0 if early else at.get(name, 0), []).append(node)
        del net.params[name]
    ordered = []
    for position, node in enumerate(net.nodes):
        ordered += first.get(position, [])
        ordered.append(node)
    net.nodes[:] = ordered
    return bool(first)


def unnamed_nodes(net: Net) -> bool:
    """All or half of the nodes lose their names."""
    share = net.pick([1.0, 0.5])
    for node in net.nodes:
        if net.chance(share):
            node.ClearField("name")
    return True


def dead_nodes(net: Net) -> bool:
    """Nodes nobody reads and a parameter nobody reads."""
    for _ in range(net.between(1, 3)):
        x = net.pick(net.live)
        net.node(net.pick(["Relu", "Neg", "Identity"]), [x])
        if x.form == "vec":
            weight = net.param(net.normal(x.c, 3), "unread")
            net.node("MatMul", [x, weight])
    net.param(net.normal(4), "unread")
    return True


# name of the feature: (share of models, change); a change tells whether it found something to do
PASSES: dict[str, tuple[float, Callable[[Net], bool]]] = {
    "dead_nodes": (0.15, dead_nodes),
    "deduplicated": (0.2, deduplicated),
    "aliased": (0.2, aliased),
    "constant_nodes": (0.3, constant_nodes),
    "unnamed_nodes": (0.25, unnamed_nodes),
}


def initializers_as_inputs(net: Net) -> list[ValueInfoProto]:
    """Initializers listed as graph inputs: all of them in IR version 3, sometimes up to 6."""
    version = net.style.ir_version
    if version > 6 or not (version == 3 or net.chance(0.4)):
        return []
    # from version 4 on a listed initializer is a default that the caller may override: not for the scalars,
    # whose values onnxruntime 1.31 loses when it fuses a normalisation around such a one
    listed = [name for name, a in net.params.items() if version == 3 or (a.ndim and net.chance(0.8))]
    if listed:
        net.note("initializers_as_inputs")
    kinds = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float16): TensorProto.FLOAT16,
             np.dtype(np.int64): TensorProto.INT64, np.dtype(bool): TensorProto.BOOL}  # fmt: skip
    return [helper.make_tensor_value_info(n, kinds[net.params[n].dtype], net.params[n].shape) for n in listed]
