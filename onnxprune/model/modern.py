"""Old files, written as onnx and onnxruntime read them today: on a copy, and said."""

from __future__ import annotations

import onnx
from onnx import AttributeProto, version_converter

from onnxprune.errors import UnprovedError
from onnxprune.model.graph import STANDARD, opsets_of, plain
from onnxprune.model.runtime import open_session
from onnxprune.model.tensors import all_nodes

RUNS_FROM = 7  # the first opset of which onnxruntime has all kernels
IMPORTS = 3  # the IR version from which a model says its opsets
_TYPES = {
    "f": AttributeProto.FLOAT,
    "i": AttributeProto.INT,
    "s": AttributeProto.STRING,
    "t": AttributeProto.TENSOR,
    "g": AttributeProto.GRAPH,
    "floats": AttributeProto.FLOATS,
    "ints": AttributeProto.INTS,
    "strings": AttributeProto.STRINGS,
    "tensors": AttributeProto.TENSORS,
    "graphs": AttributeProto.GRAPHS,
}
_SUPPLIED = {"com.microsoft": 1, "ai.onnx.ml": onnx.defs.onnx_ml_opset_version()}


def modern(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return a model of today and what was done to it; the argument is returned where nothing was.

    Attributes get the type of the one field that they hold, as files of IR version 1 leave it out. Domains
    that onnxruntime supplies by itself are imported. Below opset 7 what onnxruntime refuses goes through
    onnx's version converter; where that fails the model stays as it is.
    """
    untyped = any(_untyped(node) for node in all_nodes(model))
    missing = _missing_domains(model)
    old = _opset(model) < RUNS_FROM
    if not (untyped or missing or old):
        return model, ()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in all_nodes(copy):
        for attribute in _untyped(node):
            attribute.type = _TYPES[_held(attribute)[0]]
    for domain in missing:
        copy.opset_import.add(domain=domain, version=_SUPPLIED[domain])
    said = [f"the model uses domain '{d}' without an opset: version {_SUPPLIED[d]} is taken" for d in missing]
    if old:
        copy, line = _converted(copy)
        said += [line] if line else []
    return copy, tuple(said)


def _untyped(node: onnx.NodeProto) -> list[AttributeProto]:
    return [a for a in node.attribute if a.type == AttributeProto.UNDEFINED and len(_held(a)) == 1]


def _held(attribute: AttributeProto) -> list[str]:
    return [field.name for field, _ in attribute.ListFields() if field.name in _TYPES]


def _missing_domains(model: onnx.ModelProto) -> list[str]:
    declared = opsets_of(model)
    used = {plain(node.domain) for node in all_nodes(model)}
    return sorted(domain for domain in used - declared.keys() if domain in _SUPPLIED)


def _opset(model: onnx.ModelProto) -> int:
    """Return the opset of ONNX's own operators; one that is not said is refused elsewhere, from IR 3 on."""
    said = [o.version for o in model.opset_import if o.domain in STANDARD]
    return max(said, default=1 if 0 < model.ir_version < IMPORTS else RUNS_FROM)


def _converted(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """Convert a copy to the first opset that onnxruntime runs, unless it runs as it is."""
    opset = _opset(model)
    if not model.opset_import:
        model.opset_import.add(domain="", version=opset)
    model.ir_version = max(model.ir_version, IMPORTS)
    if _runs(model):
        return model, ""
    made = model
    try:
        for version in range(opset + 1, RUNS_FROM + 1):  # one by one: shapes are inferred anew at each
            made = version_converter.convert_version(made, version)
    except (RuntimeError, ValueError) as error:
        return model, f"opset {opset} could not be converted to {RUNS_FROM}: {' '.join(str(error).split())}"
    line = (
        f"opset {opset} was converted to {RUNS_FROM} by onnx, since onnxruntime does not run it: what is "
        "pruned and proved is the converted model"
    )
    return made, line


def _runs(model: onnx.ModelProto) -> bool:
    try:
        open_session(model)
    except UnprovedError:
        return False
    return True
