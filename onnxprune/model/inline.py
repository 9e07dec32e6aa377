"""Writing out the calls of model-local functions, without their weights passing through the inliner."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import onnx
from onnx import inliner

from onnxprune.errors import ModelError
from onnxprune.model.graph import held_tensor, opsets_of, plain
from onnxprune.model.lifting import Lifted, lower
from onnxprune.model.tensors import (
    all_tensors,
    copy_header,
    copy_model,
    graph_nodes,
    is_big,
    is_external,
)

FunctionId = tuple[str, str, str]


@dataclass(frozen=True)
class Inlined:
    """A model without the calls that were written out.

    names: the functions that were, as domain::name, and branches; kept: why others, that were asked for, were
    not, and what else is to be said of it. changed: whether its nodes are others than those of the file.
    lifted: nodes whose branches lie beside each other in it.
    """

    model: onnx.ModelProto
    names: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    changed: bool = False
    lifted: tuple[Lifted, ...] = ()

    def lowered(self, pruned: onnx.ModelProto) -> onnx.ModelProto:
        """Return what came of the model with its branches in their nodes again."""
        return lower(pruned, self.lifted)


def shown(key: FunctionId) -> str:
    """Write a function as domain::name, with its overload where it has one."""
    domain, name, overload = key
    return f"{domain}::{name}" + (f":{overload}" if overload else "")


def inline(model: onnx.ModelProto, wanted: Callable[[FunctionId], bool]) -> Inlined:
    """Write out the calls of functions, nested ones included; the argument is not changed.

    wanted: which functions. One whose operators mean something else at the model's opsets is kept, and
    so is one that is called from a function that is kept. Raises ModelError where onnx's inliner fails.
    """
    functions = {_key(f): f for f in model.functions}
    called = _called(model, functions, wanted)
    opsets = _joined_opsets(model, [functions[k] for k in called])
    foreign = {k: why for k in called if (why := _foreign(functions[k], opsets, functions))}
    kept = tuple(f"function {shown(k)} is not inlined: {why}" for k, why in foreign.items())
    chosen = _called(model, functions, lambda k: wanted(k) and k not in foreign)
    if not chosen:
        return Inlined(model, (), kept)
    weights: list[onnx.TensorProto] = []
    bare = copy_model(model, _stubs(weights))
    rest = _left(functions, set(chosen))
    others = [onnx.FunctionProto.FromString(f.SerializeToString()) for f in bare.functions if _key(f) in rest]
    _prepare(bare, set(chosen), opsets)
    try:
        result = inliner.inline_local_functions(bare)
    except (RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise ModelError(f"the functions cannot be inlined: {text}; run onnx.checker on the model") from error
    result.functions.extend(others)
    _add_opsets(result, opsets)
    _share_constants(result)
    _restore(result, weights)
    return Inlined(result, tuple(sorted(shown(k) for k in chosen)), kept, changed=True)


def _key(function: onnx.FunctionProto) -> FunctionId:
    return function.domain, function.name, function.overload


def _calls(nodes: Iterable[onnx.NodeProto]) -> Iterator[FunctionId]:
    for node in graph_nodes(nodes):
        yield node.domain, node.op_type, node.overload


def _called(
    model: onnx.ModelProto,
    functions: dict[FunctionId, onnx.FunctionProto],
    wanted: Callable[[FunctionId], bool],
) -> list[FunctionId]:
    """The wanted functions that the graph calls, directly or through others that are wanted."""
    found: dict[FunctionId, None] = {}
    waiting = [key for key in _calls(model.graph.node) if key in functions]
    while waiting:
        key = waiting.pop()
        if key not in found and wanted(key):
            found[key] = None
            waiting += [inner for inner in _calls(functions[key].node) if inner in functions]
    return list(found)


def _joined_opsets(model: onnx.ModelProto, functions: Iterable[onnx.FunctionProto]) -> dict[str, int]:
    """The versions that the model has once it holds the bodies: its own, others the functions' highest."""
    own = opsets_of(model)
    added: dict[str, int] = {}
    for function in functions:
        for domain, version in opsets_of(function).items():
            added[domain] = max(version, added.get(domain, 0))
    return added | own


def _foreign(
    function: onnx.FunctionProto, opsets: dict[str, int], functions: dict[FunctionId, onnx.FunctionProto]
) -> str:
    """Why the body would mean something else at these versions; nothing where it would not."""
    own = opsets_of(function)
    for node in graph_nodes(function.node):
        domain = plain(node.domain)
        mine, theirs = own.get(domain, 1), opsets.get(domain, 1)
        if mine != theirs and (node.domain, node.op_type, node.overload) not in functions:
            since = [_since(node.op_type, version, domain) for version in (mine, theirs)]
            if not since[0] or since[0] != since[1]:
                name = domain or "ai.onnx"
                return f"its {node.op_type} is of opset {mine} of {name}, and the model's is {theirs}"
    return ""


def _since(op: str, version: int, domain: str) -> int:
    try:
        return int(onnx.defs.get_schema(op, version, domain).since_version)
    except onnx.defs.SchemaError:
        return 0


def _left(functions: dict[FunctionId, onnx.FunctionProto], chosen: set[FunctionId]) -> set[FunctionId]:
    """The functions that stay: those not chosen, and what these call."""
    left = set(functions) - chosen
    waiting = list(left)
    while waiting:
        for key in _calls(functions[waiting.pop()].node):
            if key in functions and key not in left:
                left.add(key)
                waiting.append(key)
    return left


def _stubs(weights: list[onnx.TensorProto]) -> Callable[[onnx.TensorProto, onnx.TensorProto], None]:
    """A tensor copy that leaves a number in the place of a big tensor's bytes."""

    def stub(source: onnx.TensorProto, target: onnx.TensorProto) -> None:
        if not is_big(source):
            target.CopyFrom(source)
            return
        copy_header(source, target)
        target.data_location = onnx.TensorProto.EXTERNAL
        target.external_data.add(key="location", value=str(len(weights)))
        weights.append(source)

    return stub


def _prepare(bare: onnx.ModelProto, chosen: set[FunctionId], opsets: dict[str, int]) -> None:
    """Leave the chosen functions only, at the model's opsets, with the defaults of their attributes given.

    onnx's inliner stops at any function of another opset, and drops the defaults (seen with 1.23).
    """
    functions = [f for f in bare.functions if _key(f) in chosen]
    for function in functions:
        for entry in function.opset_import:
            entry.version = opsets[plain(entry.domain)]
    kept = {_key(f): onnx.FunctionProto.FromString(f.SerializeToString()) for f in functions}
    del bare.functions[:]
    bare.functions.extend(kept.values())
    for nodes in (bare.graph.node, *(f.node for f in bare.functions)):
        for node in graph_nodes(nodes):
            function = kept.get((node.domain, node.op_type, node.overload))
            given = {a.name for a in node.attribute}
            for default in function.attribute_proto if function is not None else ():
                if default.name not in given:
                    node.attribute.add().CopyFrom(default)


def _add_opsets(model: onnx.ModelProto, opsets: dict[str, int]) -> None:
    """Import what only the functions imported."""
    own = opsets_of(model)
    used = {plain(n.domain) for n in graph_nodes(model.graph.node)}
    for domain in sorted(used - own.keys()):
        model.opset_import.add(domain=domain, version=opsets.get(domain, 1))


def _share_constants(model: onnx.ModelProto) -> None:
    """Let every further copy of a function's weight name the first, so that the model does not grow."""
    first: dict[str, str] = {}
    for node in model.graph.node:
        stub = held_tensor(node)
        if stub is None or not is_external(stub):
            continue
        made = first.setdefault(stub.external_data[0].value, node.output[0])
        if made != node.output[0]:
            node.op_type = "Identity"
            node.input.append(made)
            del node.attribute[:]


def _restore(model: onnx.ModelProto, weights: list[onnx.TensorProto]) -> None:
    for tensor in all_tensors(model):
        if is_external(tensor):
            source, name = weights[int(tensor.external_data[0].value)], tensor.name
            tensor.CopyFrom(source)
            tensor.name = name
