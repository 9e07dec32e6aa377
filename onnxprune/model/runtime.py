"""Running a model once in onnxruntime, as it stands: no optimisation, on the CPU."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from onnxprune.errors import UnprovedError, shortened
from onnxprune.model.machine import THREADS
from onnxprune.model.mapped import MappedModel, light
from onnxprune.model.save import PROTOBUF_LIMIT, save, serialised

_FATAL_ONLY = 4
_CODES = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Non-zero status code returned while running )?")
_NODE = re.compile(r"^(\w+) node\. Name:'([^']*)' Status Message: ")


def open_session(model: onnx.ModelProto | MappedModel, optimised: bool = False) -> Any:
    """Open a session on the model, with optimisation off or at onnxruntime's default level.

    A large model's weights are mapped from a file, and kernels keep no packed copies of them. Raises
    UnprovedError where onnxruntime has no kernel for an operator or refuses the model.
    """
    options = ort.SessionOptions()
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = int(os.environ.get(THREADS, "0"))
    # Idle threads that spin take the processor from whatever else runs, other sessions of ours included.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    given = model if isinstance(model, MappedModel) else light(model)
    try:
        data = serialised(given.model, PROTOBUF_LIMIT)
        if given.folder is not None and data is not None:
            options.add_session_config_entry("session.disable_prepacking", "1")
            path = Path(given.folder.name) / f"{secrets.token_hex(6)}.onnx"
            path.write_bytes(data)
            return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        if data is not None:
            return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            save(given.model, path, external_over=PROTOBUF_LIMIT)
            return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except runtime_errors() as error:
        raise UnprovedError(f"onnxruntime refuses the model: {one_line(error)}") from error


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
    return MappedModel(copy, source.folder)
