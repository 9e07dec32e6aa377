"""Small graphs around one operator, and what half of their channels leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

import onnxprune
from onnxprune import PruneSettings

HALF = PruneSettings(ratio=0.5, align=1, bench=False)


def drawn(*shape: int) -> np.ndarray:
    """Weights of the size that keeps what they make near one."""
    fan = max(int(np.prod(shape[1:])), 1)
    values = np.random.default_rng(sum(shape)).standard_normal(shape) / np.sqrt(fan)
    return values.astype(np.float32)


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int | str, ...]],
    params: Mapping[str, object],
    opset: int = 21,
    integers: Sequence[str] = (),
) -> onnx.ModelProto:
    """Build a model whose output is y; a tuple of sizes in `params` is drawn."""
    infos = [
        helper.make_tensor_value_info(name, 7 if name in integers else 1, list(shape))
        for name, shape in inputs.items()
    ]
    held = {k: drawn(*v) if isinstance(v, tuple) else np.asarray(v) for k, v in params.items()}
    made = helper.make_graph(
        list(nodes), "g", infos, [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(array, name) for name, array in held.items()],
    )  # fmt: skip
    domains = {node.domain for node in nodes if node.domain}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in sorted(domains))]
    return helper.make_model(made, opset_imports=opsets, ir_version=10)


def halved(model: onnx.ModelProto) -> tuple[onnxprune.PruneResult, dict[str, np.ndarray]]:
    """Cut every group in half, which must be proved; return the result and its stored tensors."""
    result = onnxprune.prune(model, HALF)
    assert result.report.verification.status == "proved"
    assert not result.report.dropped
    return result, {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}


def reasons(model: onnx.ModelProto) -> set[tuple[str, str]]:
    """Return the operators that freeze channels, with their reasons."""
    return {(pin.op, pin.reason) for pin in onnxprune.inspect(model).pinned}
