"""Concrete shapes and types of every tensor of a model: inferred, or read off a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnxprune.errors import UsageError
from onnxprune.model.feeds import feeds_for, find_feeds
from onnxprune.model.graph import InputSpec, ValueInfo, input_specs
from onnxprune.model.inference import Inference
from onnxprune.model.mapped import MappedModel, light
from onnxprune.model.runtime import one_line, open_session, run, runtime_errors, with_outputs
from onnxprune.model.sizes import default_sizes


class ShapeReader:
    """Finds the shapes of one model at any number of input sizes.

    It infers them on one copy without weights; where inference stops, it runs the model, in one session
    with optimisation off that stays open until it is closed.
    """

    def __init__(self, model: onnx.ModelProto | MappedModel) -> None:
        self.model = model if isinstance(model, MappedModel) else light(model)
        self._inference = Inference(self.model.model)
        self.source = model
        self._session: Any = None
        self._exposed: tuple[str, ...] = ()
        self._last: tuple[Mapping[str, np.ndarray], dict[str, Any]] | None = None
        self.outputs = [output.name for output in self.model.model.graph.output]

    def infer(self, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, ValueInfo]:
        """Infer shape and type of every tensor of the main graph, the inputs having the given sizes.

        Shape is None where inference stops. Raises UsageError where a size contradicts the declared
        rank, ModelError where inference fails altogether.
        """
        result = self._inference.at(sizes)
        _add_missing(self._inference.graph, result)
        return result

    def all(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] = ()) -> dict[str, ValueInfo]:
        """Infer what can be inferred at the sizes of the feeds, and run the model for the rest.

        outputs: tensors that must come out of a run, whatever is known of them. Raises as `infer` and `read`.
        """
        return self.complete(
            self.infer({name: tuple(array.shape) for name, array in feeds.items()}), feeds, outputs
        )

    def complete(
        self, found: dict[str, ValueInfo], feeds: Mapping[str, np.ndarray], outputs: Sequence[str] = ()
    ) -> dict[str, ValueInfo]:
        """Add to what was inferred at the sizes of the feeds what only a run can tell.

        outputs: tensors that must come out of a run, whatever is known of them. Raises as `read`.
        """
        unknown = [name for name, value in found.items() if value.shape is None]
        if not unknown and not outputs:
            return found
        ran = self.read(feeds, [*unknown, *outputs])
        return found | {name: ran[name] for name in unknown if name in ran}

    def read(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, ValueInfo]:
        """Run the model and read off shape and type of the tensors named.

        Names that no node of the main graph makes are left out. Raises UsageError where the model does
        not run with these feeds, UnprovedError where no session can be opened.
        """
        graph = self.model.model.graph
        constants = _constants(graph)
        result = {name: constants[name] for name in names if name in constants}
        result |= {name: _of_array(feeds[name]) for name in names if name in feeds}
        made = {output for node in graph.node for output in node.output}
        wanted = [name for name in dict.fromkeys(names) if name in made and name]
        if not wanted:
            return result
        self.expose(wanted)
        try:
            outputs = self.run(feeds)
        except runtime_errors() as error:
            raise UsageError(f"the model does not run with the given inputs: {one_line(error)}") from error
        for name in wanted:
            value = outputs[name]
            result[name] = _of_array(value) if isinstance(value, np.ndarray) else ValueInfo(0, None)
        return result

    def expose(self, names: Sequence[str] = ()) -> None:
        """Open a session with the outputs of the model and, behind them, the tensors named.

        Raises UnprovedError where onnxruntime refuses the model.
        """
        exposed = dict.fromkeys([*self.outputs, *self._exposed, *names])
        if self._session is None or len(exposed) > len(self.outputs) + len(self._exposed):
            self._exposed = tuple(exposed)[len(self.outputs) :]
            self._session = open_session(
                with_outputs(self.model, list(exposed)) if self._exposed else self.model
            )
            self._last = None

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return what comes out for inputs that do not change later; it is kept until others come.

        Raises UnprovedError as `expose` does, and onnxruntime's own errors.
        """
        if self._last is None or self._last[0] is not feeds:
            self.expose()
            accepted = {i.name for i in self._session.get_inputs()}
            made = run(self._session, {name: array for name, array in feeds.items() if name in accepted})
            self._last = feeds, made
        return self._last[1]

    def close(self) -> None:
        """Let the session go, and what came out of it; it is opened again where it is needed."""
        self._session, self._last = None, None


def infer(model: onnx.ModelProto, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, ValueInfo]:
    """Infer shapes once, as `ShapeReader.infer` does."""
    return ShapeReader(model).infer(sizes)


def all_shapes(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, ValueInfo]:
    """Find all shapes once, as `ShapeReader.all` does."""
    return ShapeReader(model).all(feeds)


def _add_missing(graph: onnx.GraphProto, found: dict[str, ValueInfo]) -> None:
    found.update(_constants(graph))
    for node in graph.node:
        for name in node.output:
            if name and name not in found:
                found[name] = ValueInfo(onnx.TensorProto.UNDEFINED, None)


def _constants(graph: onnx.GraphProto) -> dict[str, ValueInfo]:
    result = {t.name: ValueInfo(t.data_type, tuple(t.dims)) for t in graph.initializer}
    for sparse in graph.sparse_initializer:
        result[sparse.values.name] = ValueInfo(sparse.values.data_type, tuple(sparse.dims))
    return result


def run_shapes(
    model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], names: Sequence[str]
) -> dict[str, ValueInfo]:
    """Run the model once and read off shapes, as `ShapeReader.read` does."""
    return ShapeReader(model).read(feeds, names)


def _of_array(array: np.ndarray) -> ValueInfo:
    dtype = (
        onnx.TensorProto.STRING
        if array.dtype == object
        else onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    )
    return ValueInfo(int(dtype), tuple(array.shape))


__all__ = [
    "InputSpec",
    "ShapeReader",
    "ValueInfo",
    "all_shapes",
    "default_sizes",
    "feeds_for",
    "find_feeds",
    "infer",
    "input_specs",
    "run_shapes",
]
