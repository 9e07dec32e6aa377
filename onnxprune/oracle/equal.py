"""Whether two models are the same but for the values of some tensors and our metadata."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx

from onnxprune.errors import UnprovedError
from onnxprune.model.graph import held_tensor
from onnxprune.model.runtime import open_session, run
from onnxprune.model.tensors import raw_bytes
from onnxprune.oracle.prove import Feeds, compare

FUNCTIONS = (
    "the model's functions are written out: onnxruntime has kernels that compute something else than their "
    "bodies; --inline none leaves them in place"
)
BRANCHES = "the branches are back in their nodes"
CONSTANTS = "what is computed from constants is stored: onnxruntime computes something else within the model"


def require_same(
    original: onnx.ModelProto, changed: onnx.ModelProto, cases: Iterable[Feeds], change: str
) -> None:
    """Run both on all inputs and compare the outputs; one that is random is left to the proof.

    change: what was done to the model, and why outputs may differ. Raises UnprovedError for an output that
    differs, and where one of them does not run.
    """
    fed = list(cases)
    before = _ran(original, [*fed, *fed])
    for expected, again, found in zip(before, before[len(fed) :], _ran(changed, fed), strict=False):
        for name, wanted in expected.items():
            if not isinstance(wanted, np.ndarray) or not _equal(wanted, again[name]):
                continue
            difference = compare(name, "", found[name], wanted)
            if not difference.ratio <= 1:
                raise UnprovedError(
                    f"output '{name}' differs by {difference.max_abs_error:.2g} once {change}"
                )


def _ran(model: onnx.ModelProto, cases: Iterable[Feeds]) -> list[dict[str, Any]]:
    session = open_session(model)
    return [run(session, feeds) for feeds in cases]


def _equal(left: np.ndarray, right: np.ndarray) -> bool:
    return np.array_equal(left, right, equal_nan=left.dtype.kind == "f")


OURS = "onnxprune."


def model_differences(
    expected: onnx.ModelProto, found: onnx.ModelProto, repaired: frozenset[str]
) -> tuple[str, ...]:
    """List what differs, one line each.

    repaired: tensors whose values may differ.
    """
    return (
        *_nodes(expected.graph.node, found.graph.node, repaired),
        *_tensors(expected.graph.initializer, found.graph.initializer, repaired),
        *_fields("graph", expected.graph, found.graph, frozenset(("node", "initializer"))),
        *_fields("model", _bare(expected), _bare(found), frozenset(("graph",))),
    )


def _bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without graph and without our own metadata."""
    copy = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name in ("graph", "metadata_props"):
            continue
        if field.is_repeated:
            getattr(copy, field.name).extend(value)
        elif field.message_type is not None:
            getattr(copy, field.name).CopyFrom(value)
        else:
            setattr(copy, field.name, value)
    copy.metadata_props.extend(p for p in model.metadata_props if not p.key.startswith(OURS))
    return copy


def _fields(kind: str, expected: Any, found: Any, compared: frozenset[str]) -> list[str]:
    """Compare the fields of two messages that are not compared in detail."""
    names = {f.name for message in (expected, found) for f, _ in message.ListFields()} - compared
    return [
        f"the {kind}'s {name} differs"
        for name in sorted(names)
        if _parts(getattr(expected, name)) != _parts(getattr(found, name))
    ]


def _parts(value: Any) -> Any:
    if hasattr(value, "SerializeToString"):
        return _bytes(value)
    return [_parts(v) for v in value] if hasattr(value, "extend") else value


def _nodes(
    expected: Iterable[onnx.NodeProto], found: Iterable[onnx.NodeProto], repaired: frozenset[str]
) -> list[str]:
    left, right = list(expected), list(found)
    if len(left) != len(right):
        return [f"expected {len(left)} nodes, got {len(right)}"]
    result = []
    for a, b in zip(left, right, strict=True):
        if (
            a.output == b.output
            and a.output[0] in repaired
            and all(held_tensor(n) is not None for n in (a, b))
        ):
            continue
        if _bytes(a) != _bytes(b):
            result.append(f"node '{a.name or a.output[0]}' ({a.op_type}) differs")
    return result


def _tensors(
    expected: Iterable[onnx.TensorProto], found: Iterable[onnx.TensorProto], repaired: frozenset[str]
) -> list[str]:
    left, right = {t.name: t for t in expected}, {t.name: t for t in found}
    result = [f"tensor '{name}' is missing" for name in left if name not in right]
    result += [f"tensor '{name}' is not expected" for name in right if name not in left]
    for name in left.keys() & right.keys():
        a, b = left[name], right[name]
        if list(a.dims) != list(b.dims) or a.data_type != b.data_type:
            result.append(f"tensor '{name}' has shape {list(b.dims)}, expected {list(a.dims)}")
        elif name not in repaired and bytes(raw_bytes(a)) != bytes(raw_bytes(b)):
            result.append(f"the values of tensor '{name}' differ")
    return sorted(result)


def _bytes(message: Any) -> bytes:
    return bytes(message.SerializeToString(deterministic=True))
