"""Running a model in onnxruntime on the CPU, as it stands or optimised."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from onnxprune.errors import UnprovedError, shortened
from onnxprune.model.machine import THREADS
from onnxprune.model.mapped import MappedModel, light
from onnxprune.model.save import PROTOBUF_LIMIT, save, serialised
from onnxprune.model.tensors import is_external

_FATAL_ONLY = 4
_CODES = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Non-zero status code returned while running )?")
_NODE = re.compile(r"^(\w+) node\. Name:'([^']*)' Status Message: ")


def open_session(model: onnx.ModelProto | MappedModel, optimised: bool = False) -> Any:
    """Open a session on the model, with optimisation off or at onnxruntime's default level.

    Weights are not copied where onnxruntime can read them where they are; those of a large model are
    mapped from a file, and kernels keep no packed copies of them. Raises UnprovedError where onnxruntime
    has no kernel for an operator or refuses the model.
    """
    given = model if isinstance(model, MappedModel) else light(model)
    return _opened(given, serialised(given.model, PROTOBUF_LIMIT), optimised)


class Sessions:
    """Sessions that stay open as long as this lives: a model that is the same byte for byte has one."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, bytes, bool], tuple[MappedModel, Any]] = {}

    def of(self, model: MappedModel, optimised: bool = False) -> Any:
        """Return the session of a model. Raises UnprovedError as `open_session` does."""
        data = serialised(model.model, PROTOBUF_LIMIT)
        if data is None:
            return _opened(model, None, optimised)
        beside = model.weights if model.folder is None else model.folder
        key = (id(beside), data, optimised)
        if key not in self._open:  # the model is held as well, since ids are of what lives
            self._open[key] = model, _opened(model, data, optimised)
        return self._open[key][1]


class _Session(ort.InferenceSession):
    """A session, and the weights that it reads and does not own."""

    weights: Mapping[str, Any]


def _opened(given: MappedModel, data: bytes | None, optimised: bool) -> Any:
    """Open a session on a model, whose bytes are given where they fit into one message."""
    options = ort.SessionOptions()
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = int(os.environ.get(THREADS, "0"))
    # Idle threads that spin take the processor from whatever else runs, other sessions of ours included.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if given.folder is not None:
        options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        beside = [t.name for t in given.model.graph.initializer if is_external(t) and t.name in given.weights]
        if beside:  # onnxruntime refuses what the model does not name
            options.add_external_initializers(beside, [given.weights[name] for name in beside])
        with ExitStack() as cleanup:
            source: bytes | str | None = data
            if data is None or given.folder is not None:
                source = _written(given, data, cleanup)
            session = _Session(source, options, providers=["CPUExecutionProvider"])
    except runtime_errors() as error:
        raise UnprovedError(f"onnxruntime refuses the model: {one_line(error)}") from error
    session.weights = given.weights
    return session


def _written(given: MappedModel, data: bytes | None, cleanup: ExitStack) -> str:
    """Write a model beside its weights, or one that fits no message into a folder that goes away."""
    if given.folder is None:
        folder = cleanup.enter_context(tempfile.TemporaryDirectory())
    else:
        folder = given.folder.name
    path = Path(folder) / f"{secrets.token_hex(6)}.onnx"
    if data is None:
        save(given.model, path, external_over=PROTOBUF_LIMIT)
    else:
        path.write_bytes(data)
    return str(path)


def runtime_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises; its classes have no common base but Exception."""
    state = ort.capi.onnxruntime_pybind11_state
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented",
             "RuntimeException", "EPFail", "ModelLoaded", "NoModel")  # fmt: skip
    found = tuple(getattr(state, name) for name in names if hasattr(state, name))
    return (*found, RuntimeError, ValueError, TypeError)


def one_line(error: Exception) -> str:
    """The error's text on one line of bearable length, without the runtime's own codes."""
    text = _CODES.sub("", " ".join(str(error).split()))
    return shortened(_NODE.sub(r"\1 '\2': ", text))


def run(session: Any, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Run the session and return all outputs by name. Raises onnxruntime's own errors."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def with_outputs(model: onnx.ModelProto | MappedModel, names: Sequence[str]) -> MappedModel:
    """A copy of the model whose only outputs are the tensors named."""
    source = model if isinstance(model, MappedModel) else light(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(source.model)
    described = {info.name: info for info in (*copy.graph.output, *copy.graph.value_info)}
    outputs = [described.get(name, onnx.ValueInfoProto(name=name)) for name in names]
    kept = [onnx.ValueInfoProto.FromString(info.SerializeToString()) for info in outputs]
    del copy.graph.output[:]
    copy.graph.output.extend(kept)
    return replace(source, model=copy)
