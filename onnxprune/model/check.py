"""Is a parsed model usable? Interface, tensors, data flow, operators, weights: in this order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
import onnx

from onnxprune.errors import ModelError
from onnxprune.model.flow import check_flow, node_name
from onnxprune.model.graph import opsets_of, plain
from onnxprune.model.tensors import (
    all_nodes,
    all_tensors,
    graph_nodes,
    is_external,
    is_float,
    raw_size,
    typed_count,
    volume,
    weightless,
)

WeightCheck: TypeAlias = Callable[[onnx.ModelProto], tuple[str, ...]]
_MAX_NAMES = 3
_FOREIGN_DOMAIN = "onnxprune.unknown"
_STANDARD = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training")
_HALF_EXPONENT: dict[int, int] = {onnx.TensorProto.FLOAT16: 0x7C00, onnx.TensorProto.BFLOAT16: 0x7F80}


def check(model: onnx.ModelProto, check_weights: WeightCheck) -> tuple[str, ...]:
    """Check a model whose external data is in memory and return warnings, each one line.

    check_weights: whether weights fit, asked of a copy without their bytes; it knows operators. Raises
    ModelError for the first thing that makes the model unusable.
    """
    _check_interface(model)
    warnings = [*_check_tensors(model)]
    check_flow(model)
    _check_domains(model)
    bare = weightless(model)
    warnings += check_weights(bare)
    warnings += _check_rules(bare)
    return tuple(warnings)


def _check_interface(model: onnx.ModelProto) -> None:
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise ModelError("the file holds no graph; it is truncated or no ONNX model, fetch it again")
    if model.ir_version < 1:
        raise ModelError("the model has no ir_version; it is truncated or no ONNX model, fetch it again")
    if model.ir_version > onnx.IR_VERSION:
        known = f"the installed onnx {onnx.__version__} knows up to {onnx.IR_VERSION}"
        raise ModelError(f"got IR version {model.ir_version}, {known}; upgrade onnx")
    if not model.opset_import and model.ir_version >= 3:
        raise ModelError(
            "the model imports no opset; it is truncated or was written wrongly, export it again"
        )
    newest = {"": onnx.defs.onnx_opset_version(), "ai.onnx.ml": onnx.defs.onnx_ml_opset_version()}
    for opset in model.opset_import:
        domain = plain(opset.domain)
        if opset.version > newest.get(domain, opset.version):
            name = f"opset {opset.version} of '{domain or 'ai.onnx'}'"
            known = f"the installed onnx {onnx.__version__} knows up to {newest[domain]}"
            raise ModelError(f"got {name}, {known}; upgrade onnx")


def _check_domains(model: onnx.ModelProto) -> None:
    if model.ir_version < 3:
        return
    _check_declared(graph_nodes(model.graph.node), model.opset_import)
    for function in model.functions:
        _check_declared(graph_nodes(function.node), function.opset_import)


def _check_declared(nodes: Iterable[onnx.NodeProto], opsets: Iterable[onnx.OperatorSetIdProto]) -> None:
    declared = {plain(d.domain) for d in opsets}
    for node in nodes:
        domain = plain(node.domain)
        if domain not in declared:
            where = f"{node_name(node)} belongs to domain '{domain or 'ai.onnx'}'"
            raise ModelError(f"{where}, for which the model imports no opset; export the model again")


def _check_tensors(model: onnx.ModelProto) -> Iterator[str]:
    """Refuse tensors whose data does not fit their dims; report those that are not finite."""
    broken = []
    for tensor in all_tensors(model):
        raw = _checked_data(tensor)
        if is_float(tensor) and not _is_finite(tensor, raw):
            broken.append(tensor.name or "(unnamed)")
    if broken:
        shown = ", ".join(f"'{name}'" for name in broken[:_MAX_NAMES])
        more = f" and {len(broken) - _MAX_NAMES} more" if len(broken) > _MAX_NAMES else ""
        yield f"NaN or Inf in tensor {shown}{more}; the outputs may hold them, too"


def _checked_data(tensor: onnx.TensorProto) -> bytes | None:
    """The raw bytes, if the tensor holds such, after a check that the data fits the dims."""
    where = f"tensor '{tensor.name}'"
    if tensor.data_type not in onnx.TensorProto.DataType.values() or tensor.data_type == 0:
        raise ModelError(f"{where}: element type {tensor.data_type} is unknown; upgrade onnx")
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(
            f"{where}: got dims {list(tensor.dims)}, expected none below zero; export the model again"
        )
    if is_external(tensor):
        return None
    dims, fix = list(tensor.dims), "the model is truncated or damaged, fetch it again"
    if tensor.HasField("raw_data") and tensor.data_type != onnx.TensorProto.STRING:
        raw, expected = tensor.raw_data, raw_size(tensor)
        if len(raw) != expected:
            raise ModelError(f"{where}: got {len(raw)} bytes, expected {expected} for dims {dims}; {fix}")
        return raw
    count, wanted = typed_count(tensor), _typed_expected(tensor)
    if count != wanted:
        raise ModelError(f"{where}: got {count} values, expected {wanted} for dims {dims}; {fix}")
    return None


def _typed_expected(tensor: onnx.TensorProto) -> int:
    elements = volume(tensor.dims)
    if tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128):
        return 2 * elements
    bits = raw_size(onnx.TensorProto(dims=[8], data_type=tensor.data_type))
    return (elements * bits + 7) // 8 if bits < 8 else elements


def _is_finite(tensor: onnx.TensorProto, raw: bytes | None) -> bool:
    exponent = _HALF_EXPONENT.get(tensor.data_type)
    if exponent is not None:
        bits: Any = np.array(tensor.int32_data, np.uint16) if raw is None else np.frombuffer(raw, np.uint16)
        return not bool(((bits & exponent) == exponent).any())
    double = tensor.data_type == onnx.TensorProto.DOUBLE
    kind = np.float64 if double else np.float32
    values: Any = (
        np.frombuffer(raw, kind) if raw is not None else np.array(_typed_floats(tensor, double), kind)
    )
    with np.errstate(over="ignore", invalid="ignore"):
        # The sum is one fast pass; only when it is not finite each element must be looked at.
        return bool(np.isfinite(values.sum()) or np.isfinite(values).all())


def _typed_floats(tensor: onnx.TensorProto, double: bool) -> Any:
    return tensor.double_data if double else tensor.float_data


def _check_rules(bare: onnx.ModelProto) -> Iterator[str]:
    """Run the ONNX checker on a copy without weights, which this changes."""
    for tensor in all_tensors(bare):
        if raw_size(tensor) and not tensor.HasField("raw_data") and not typed_count(tensor):
            del tensor.dims[:]
            tensor.dims.append(0)
    for info in (*bare.graph.input, *bare.graph.output):
        if info.type.HasField("tensor_type"):
            # The checker wants a shape where ONNX itself does not.
            info.type.tensor_type.shape.SetInParent()
    unknown = _set_unknown_aside(bare)
    try:
        onnx.checker.check_model(bare)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        text = " ".join(str(error).split())
        raise ModelError(f"the model breaks the rules of ONNX: {text}; export it again") from error
    if unknown:
        yield (
            f"the ONNX opset of the model has no operator {', '.join(sorted(unknown))}: its use is not "
            "checked, though onnxruntime may run it"
        )


def _is_deprecated(key: tuple[str, str], version: int) -> bool:
    """Tell whether the checker refuses what exporters write and onnxruntime runs: GroupNormalization 18."""
    domain, op = key
    return bool(onnx.defs.get_schema(op, version, domain).deprecated)


def _set_unknown_aside(bare: onnx.ModelProto) -> set[str]:
    """Move standard-domain operators without a schema to a domain that the checker leaves alone.

    Old exporters wrote experimental operators (ImageScaler) and onnxruntime's fusions write their own
    into the standard domain; both run. So do deprecated operators.
    """
    versions = opsets_of(bare)
    functions = {(f.domain, f.name) for f in bare.functions}
    known: dict[tuple[str, str], bool] = {}
    unknown, aside = set(), False
    for node in all_nodes(bare):
        if node.domain not in _STANDARD or (node.domain, node.op_type) in functions:
            continue
        domain = plain(node.domain)
        key = (domain, node.op_type)
        if key not in known:
            known[key] = onnx.defs.has(node.op_type, versions.get(domain, 1), domain)
        if not known[key]:
            unknown.add(node.op_type)
        if not known[key] or _is_deprecated(key, versions.get(domain, 1)):
            node.domain, aside = _FOREIGN_DOMAIN, True
    if aside:
        bare.opset_import.add(domain=_FOREIGN_DOMAIN, version=1)
        for function in bare.functions:
            function.opset_import.add(domain=_FOREIGN_DOMAIN, version=1)
    return unknown
