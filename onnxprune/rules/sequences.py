"""Sequences of tensors: written out as Split, Concat and Identity where what they hold is known.

What stays is looked up at run time, so that nothing can be said of its axes.

Specification: https://onnx.ai/onnx/operators/, one page for each (onnx__SequenceAt.html,
onnx__SplitToSequence.html, onnx__ConcatFromSequence.html).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxprune.model.graph import STANDARD, held_tensor, opsets_of
from onnxprune.model.tensors import graph_nodes, weightless
from onnxprune.rules.registry import rows
from onnxprune.rules.signature import Facets, Pinned, Site, Verdict

LOOKED_UP = "keeps tensors in a sequence, which are looked up at run time"
SMALL = 1024  # elements of a position or of sizes that are read
FACETS = Facets(opaque=LOOKED_UP)
OPERATORS = (
    "ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase",
    "SequenceInsert", "SequenceLength", "SplitToSequence",
)  # fmt: skip


@rows(dict.fromkeys(OPERATORS, FACETS), since=11)
def sequence(_site: Site) -> Verdict:
    """Freezes what goes into a sequence that is not known before the model runs."""
    return Pinned(LOOKED_UP)


def without_sequences(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Write out the sequences of the main graph whose tensors are known; the argument is not changed.

    Returns the model itself and 0 where there are none, else a copy and the number of nodes written out.
    """
    if not any(node.op_type in OPERATORS and node.domain in STANDARD for node in model.graph.node):
        return model, 0
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy, _Writer(copy).run()


class _Writer:
    """Follows the sequences of a graph: the tensors that each holds, in order."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph, self.opset = model.graph, opsets_of(model).get("", 1)
        self.held: dict[str, tuple[str, ...]] = {}
        nodes = list(graph_nodes(self.graph.node))
        self.names = {name for node in nodes for name in (*node.input, *node.output)}
        self.names |= {t.name for t in self.graph.initializer} | {i.name for i in self.graph.input}
        made = {node.output[0]: held_tensor(node) for node in self.graph.node if node.output}
        self.values = {name: tensor for name, tensor in made.items() if tensor is not None}
        self.values |= {t.name: t for t in self.graph.initializer}
        self.shapes = _shapes(model)

    def run(self) -> int:
        """Write out what is known, and return how many nodes were."""
        nodes: list[onnx.NodeProto] = []
        loose: set[int] = set()
        count = 0
        for node in list(self.graph.node):
            own = node.domain in STANDARD
            if own and node.op_type in _MAKERS:
                pieces = _MAKERS[node.op_type](self, node)
                nodes += [*pieces, node]
                loose |= {id(made) for made in (*pieces, node) if node.output[0] in self.held}
                continue
            read = _READERS[node.op_type](self, node) if own and node.op_type in _READERS else None
            nodes += [node] if read is None else read
            count += read is not None
        kept = self._needed(nodes, loose)
        del self.graph.node[:]
        self.graph.node.extend(kept)
        return count

    def _needed(self, nodes: list[onnx.NodeProto], loose: set[int]) -> list[onnx.NodeProto]:
        """Leave out makers of sequences that nobody reads any more."""
        used = {output.name for output in self.graph.output}
        kept: list[onnx.NodeProto] = []
        for node in reversed(nodes):
            if id(node) in loose and not used & set(node.output):
                continue
            kept.append(node)
            used |= {name for inner in graph_nodes([node]) for name in inner.input}
        return [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)]

    def fresh(self, kind: str) -> str:
        """Return a name that the graph does not use."""
        number = 0
        while (name := f"{kind}_{number}") in self.names:
            number += 1
        self.names.add(name)
        return name

    def ints(self, node: onnx.NodeProto, place: int) -> np.ndarray | None:
        """Return a stored value of integers; None where it is left out or computed."""
        tensor = self.values.get(node.input[place]) if len(node.input) > place else None
        if tensor is None or int(np.prod(tensor.dims, dtype=np.int64)) > SMALL:
            return None
        return np.asarray(numpy_helper.to_array(tensor), np.int64)

    def stored(self, kind: str, values: Iterable[int] | int) -> str:
        """Store integers, and return their name."""
        name = self.fresh(kind)
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.int64), name))
        return name

    def node(
        self, op: str, inputs: Iterable[str], outputs: Iterable[str], **attributes: Any
    ) -> onnx.NodeProto:
        """Make a node with a name of its own."""
        return helper.make_node(op, list(inputs), list(outputs), self.fresh(f"sequence_{op}"), **attributes)

    def along(
        self, op: str, data: str, output: Iterable[str], key: str, values: list[int], **more: Any
    ) -> onnx.NodeProto:
        """Make a node whose list of integers is an attribute before opset 13 and an input from then on."""
        if self.opset < 13:
            return self.node(op, [data], output, **{key: values}, **more)
        return self.node(op, [data, self.stored(key, values)], output, **more)

    def place(self, node: onnx.NodeProto, index: int, count: int, default: int | None = None) -> int | None:
        """Return a stored position, counted from the front; None where it is unknown or outside."""
        if len(node.input) <= index or not node.input[index]:
            return default
        value = self.ints(node, index)
        if value is None or value.size != 1 or not -count <= int(value.item()) < count:
            return None
        return int(value.item()) % count


def _shapes(model: onnx.ModelProto) -> dict[str, list[int | None]]:
    """Infer sizes as far as the model's own inputs say them."""
    try:
        inferred = onnx.shape_inference.infer_shapes(weightless(model))
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return {}
    return {
        info.name: [d.dim_value if d.HasField("dim_value") else None for d in info.type.tensor_type.shape.dim]
        for info in (*inferred.graph.input, *inferred.graph.value_info)
        if info.type.tensor_type.HasField("shape")
    }


def _axis(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


# -- what makes a sequence -------------------------------------------------------------------------------
def _construct(writer: _Writer, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    writer.held[node.output[0]] = tuple(node.input)
    return []


def _empty(writer: _Writer, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    writer.held[node.output[0]] = ()
    return []


def _insert(writer: _Writer, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    held = writer.held.get(node.input[0])
    place = None if held is None else writer.place(node, 2, len(held) + 1, len(held))
    if held is not None and place is not None:
        writer.held[node.output[0]] = (*held[:place], node.input[1], *held[place:])
    return []


def _erase(writer: _Writer, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    held = writer.held.get(node.input[0])
    place = None if held is None else writer.place(node, 1, len(held), len(held) - 1)
    if held is not None and place is not None:
        writer.held[node.output[0]] = (*held[:place], *held[place + 1 :])
    return []


def _split(writer: _Writer, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Cut along an axis into pieces whose sizes are stored, or follow from the size of the axis."""
    axis, keep = _axis(node, "axis", 0), bool(_axis(node, "keepdims", 1))
    shape = writer.shapes.get(node.input[0])
    size = shape[axis] if shape and -len(shape) <= axis < len(shape) else None
    given = len(node.input) > 1 and bool(node.input[1])
    width = writer.ints(node, 1) if given else np.asarray(1)
    if width is None or (width.ndim == 0 and size is None):
        return []
    step = int(width.item()) if width.ndim == 0 else 0
    sizes = [min(step, size - start) for start in range(0, size, step)] if step and size else width.tolist()
    pieces = [writer.fresh("sequence_piece") for _ in sizes]
    made = [writer.along("Split", node.input[0], pieces, "split", sizes, axis=axis)]
    if not given and not keep:
        squeezed = [writer.fresh("sequence_piece") for _ in sizes]
        made += [
            writer.along("Squeeze", piece, [name], "axes", [axis])
            for piece, name in zip(pieces, squeezed, strict=True)
        ]
        pieces = squeezed
    writer.held[node.output[0]] = tuple(pieces)
    return made


# -- what reads one --------------------------------------------------------------------------------------
def _at(writer: _Writer, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    held = writer.held.get(node.input[0])
    place = None if held is None else writer.place(node, 1, len(held))
    if held is None or place is None:
        return None
    return [writer.node("Identity", [held[place]], node.output)]


def _length(writer: _Writer, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    held = writer.held.get(node.input[0])
    if held is None:
        return None
    return [writer.node("Identity", [writer.stored("sequence_length", len(held))], node.output)]


def _join(writer: _Writer, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    held, axis = writer.held.get(node.input[0]), _axis(node, "axis", 0)
    if not held:
        return None
    if not _axis(node, "new_axis", 0):
        return [writer.node("Concat", held, node.output, axis=axis)]
    wide = [writer.fresh("sequence_piece") for _ in held]
    made = [
        writer.along("Unsqueeze", piece, [name], "axes", [axis])
        for piece, name in zip(held, wide, strict=True)
    ]
    return [*made, writer.node("Concat", wide, node.output, axis=axis)]


_MAKERS: Mapping[str, Callable[[_Writer, onnx.NodeProto], list[onnx.NodeProto]]] = {
    "SequenceConstruct": _construct,
    "SequenceEmpty": _empty,
    "SequenceErase": _erase,
    "SequenceInsert": _insert,
    "SplitToSequence": _split,
}
_READERS: Mapping[str, Callable[[_Writer, onnx.NodeProto], list[onnx.NodeProto] | None]] = {
    "ConcatFromSequence": _join,
    "SequenceAt": _at,
    "SequenceLength": _length,
}
