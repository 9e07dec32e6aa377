"""From a loaded model to units: shapes, trace, groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from onnxprune.analysis.parameters import with_codes
from onnxprune.analysis.trace import trace
from onnxprune.analysis.units import Units, build_units
from onnxprune.errors import UnprovedError, UsageError
from onnxprune.model.collection import uncollected
from onnxprune.model.feeds import find_feeds
from onnxprune.model.graph import network
from onnxprune.model.imported import to_graph
from onnxprune.model.mapped import MappedModel, light
from onnxprune.model.shapes import ShapeReader, default_sizes
from onnxprune.model.upcast import runnable
from onnxprune.rules import load_plugins

Shapes = Mapping[str, "tuple[int | None, ...]"]


@dataclass(frozen=True)
class Analysis:
    """A model, its units, the element types of its tensors, and the input sizes it was read at.

    feeds: inputs that run the model, where it had to be run to learn its shapes; reader: of what runs, the
    model or a copy in fp32.
    """

    model: onnx.ModelProto
    units: Units
    dtypes: Mapping[str, int]
    sizes: Mapping[str, tuple[int, ...]]
    feeds: dict[str, np.ndarray] | None
    reader: ShapeReader

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
    units = build_units(trace(net, {name: value.shape for name, value in info.items()}))
    return Analysis(model, units, {name: value.dtype for name, value in info.items()}, sizes, feeds, reader)


__all__ = ["Analysis", "UsageError", "analyse"]
