"""From a file to units: functions inlined, weights checked, shapes, trace, groups."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from onnxprune.analysis.branches import (
    is_branch,
    with_branches,
    with_branches_of,
    with_decided_branches,
    with_lifted_branches,
)
from onnxprune.analysis.cost import with_codes
from onnxprune.analysis.trace import trace
from onnxprune.analysis.units import Units, build_units
from onnxprune.analysis.varying import Varying, varying_of
from onnxprune.errors import ModelError, UnprovedError, UsageError
from onnxprune.model import load as files
from onnxprune.model.collection import uncollected
from onnxprune.model.feeds import find_feeds
from onnxprune.model.flow import node_name
from onnxprune.model.fold import FoldedTensor
from onnxprune.model.graph import is_constant, network, opsets_of
from onnxprune.model.imported import to_graph
from onnxprune.model.inline import FunctionId, Inlined, inline, shown
from onnxprune.model.mapped import MappedModel, light
from onnxprune.model.shapes import ShapeReader
from onnxprune.model.sizes import default_sizes
from onnxprune.model.upcast import runnable
from onnxprune.rules import REGISTRY, load_plugins
from onnxprune.rules.fits import Dims, Meeting
from onnxprune.rules.registry import facets_of
from onnxprune.rules.sequences import without_sequences
from onnxprune.settings import PruneSettings
from onnxprune.settings.option import options_of


def inlined(model: onnx.ModelProto, which: str = "auto") -> Inlined:
    """Write out calls of model-local functions and branches that are always taken; lay out others, on a copy.

    which: auto, functions whose operator has no rule; all; none, and no branches. Raises as
    `model.inline.inline`.
    """
    options_of(PruneSettings)["inline"].kind.check("--inline", which)
    if which == "none":
        return _plain(Inlined(model))
    load_plugins()
    result = _plain(_functions_inlined(model, which))
    chosen, names = with_decided_branches(result.model)
    laid_out, lifted = with_lifted_branches(chosen)
    changed = result.changed or laid_out is not result.model
    return replace(result, model=laid_out, names=(*result.names, *names), changed=changed, lifted=lifted)


def _functions_inlined(model: onnx.ModelProto, which: str) -> Inlined:
    if not model.functions:
        return Inlined(model)
    opsets = opsets_of(model)

    def wanted(key: FunctionId) -> bool:
        return which == "all" or REGISTRY.find(key[0], key[1], opsets.get(key[0], 1)) is None

    return inline(model, wanted)


def _plain(inlined: Inlined) -> Inlined:
    """Write out sequences, too: all that can be, so that a plan need not say it."""
    model, count = without_sequences(inlined.model)
    if not count:
        return inlined
    line = f"{count} readers of sequences are written out as plain operators"
    return replace(inlined, model=model, kept=(*inlined.kept, line), changed=True)


def inlined_again(model: onnx.ModelProto, names: list[str], lifted: list[str]) -> Inlined:
    """Write out the functions and branches that a plan names, and lay out the nodes that it lifted.

    Raises UsageError where the model does not have them.
    """
    functions = [name for name in names if not is_branch(name)]
    result = _plain(inline(model, lambda key: shown(key) in functions) if functions else Inlined(model))
    missing = sorted(set(functions) - set(result.names))
    if missing:
        raise UsageError(f"the plan inlines function '{missing[0]}', which this model does not call")
    chosen, left = with_branches(result.model, names)
    if left:
        raise UsageError(f"the plan writes out branch '{left[0]}', which this model does not have")
    laid_out, again = with_branches_of(chosen, lifted)
    changed = result.changed or laid_out is not result.model
    return replace(result, model=laid_out, names=tuple(names), changed=changed, lifted=again)


MeetingShapes = dict[str, Dims]


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


def _shapes(graph: onnx.GraphProto) -> MeetingShapes:
    shapes: MeetingShapes = {}
    for info in (*graph.input, *graph.output, *graph.value_info):
        kind = info.type.tensor_type
        if kind.HasField("shape"):
            shapes[info.name] = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    for tensor in graph.initializer:
        shapes[tensor.name] = list(tensor.dims)
    return shapes


def _refuse_empty(node: onnx.NodeProto, constants: set[str], shapes: MeetingShapes) -> None:
    for name in node.input:
        if name in constants and 0 in shapes.get(name, ()):
            got = f"tensor '{name}' has dims {shapes[name]}, expected at least one channel"
            raise ModelError(f"{node_name(node)}: {got}; export the model again")


Shapes = Mapping[str, "tuple[int | None, ...]"]


@dataclass(frozen=True)
class Analysis:
    """A model, its units, the element types of its tensors, and the input sizes it was read at.

    feeds: inputs that run the model, where it had to be run to learn its shapes; reader: of what runs, the
    model or a copy in fp32; varying: which dims follow the sizes of the inputs; folded: tensors that are
    stored in it and that the file computes from constants.
    """

    model: onnx.ModelProto
    units: Units
    dtypes: Mapping[str, int]
    sizes: Mapping[str, tuple[int, ...]]
    feeds: dict[str, np.ndarray] | None
    reader: ShapeReader
    varying: Varying
    folded: tuple[FoldedTensor, ...] = ()

    @cached_property
    def light(self) -> MappedModel:
        """Return the model as it is run: its weights lie beside it as long as this lives."""
        return self.reader.model if self.reader.source is self.model else light(self.model)


@uncollected
def analyse(
    model: onnx.ModelProto, shapes: Shapes | None = None, values: Mapping[str, Any] | None = None
) -> Analysis:
    """Label a model and find its groups; it is run once only where shape inference stops.

    shapes: sizes of inputs, None for dimensions to choose; values: input values to run it with.
    What onnxruntime refuses stays unknown, and pins. Raises UsageError where it must be run and no
    input is found that runs, and where the rules of an installed plugin cannot be loaded.
    """
    load_plugins()
    given = {n: tuple(np.shape(v)) for n, v in (values or {}).items() if np.ndim(v)}
    sizes = default_sizes(model, given | dict(shapes or {}))[0]
    reader = ShapeReader(model)
    info = reader.infer(sizes)
    unknown = [name for name, value in info.items() if value.shape is None]
    feeds = None
    if unknown:
        try:
            ready, wide = runnable(model)
            reader = ShapeReader(ready) if wide else reader
            reader.expose(unknown)
            feeds = find_feeds(reader.model, shapes, values, runner=reader.run)
        except UnprovedError:
            feeds = None
        else:
            sizes = {name: tuple(array.shape) for name, array in feeds.items()}
            info = reader.all(feeds)
    net = with_codes(network(to_graph(model), {o.domain: o.version for o in model.opset_import}))
    near = {name: value.shape for name, value in info.items()}
    varying = varying_of(reader, near, sizes)
    units = build_units(trace(net, near, varying=varying))
    dtypes = {name: value.dtype for name, value in info.items()}
    return Analysis(model, units, dtypes, sizes, feeds, reader, varying)


__all__ = ["Analysis", "UsageError", "analyse"]
