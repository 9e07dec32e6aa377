"""One model in two forms: as the file has it and as it is labelled; as it is proved and as it is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from onnxprune.model.inline import Inlined
from onnxprune.model.tensors import graph_nodes
from tests.laws.counting import count_all_params, run_once
from tests.laws.generator import Case

DRAWS = 3  # inputs of every size, so that conditions come out both ways
APART = 16  # from the salts of other inputs
MAY_STAY = {"if_branches", "shape.computed", "dynamic_spatial", "dynamic_batch", "initializers_as_inputs"}


def feeds_of(case: Case, shapes: Mapping[str, tuple[int, ...]], salt: int) -> dict[str, np.ndarray]:
    return case.feeds(shapes, np.random.default_rng([case.seed, salt]))


def near(left: np.ndarray, right: np.ndarray, case: Case) -> bool:
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    if left.dtype.kind != "f":
        return np.array_equal(left, right)
    half = {"float16", "half_precision"} & case.features
    scale = float(np.abs(right).max(initial=0.0, where=np.isfinite(right)))
    return np.allclose(left, right, rtol=0.0, atol=(1e-2 if half else 1e-5) * scale + 1e-6, equal_nan=True)


@dataclass(frozen=True)
class Pair:
    """Two forms of one model; `runs` is how often they are run beside each other."""

    case: Case
    left: onnx.ModelProto
    right: onnx.ModelProto

    @property
    def runs(self) -> int:
        return DRAWS * len(self.case.input_shapes)

    def differences(self) -> Iterator[str]:
        for number, shapes in enumerate(self.case.input_shapes):
            for salt in range(number, number + DRAWS * APART, APART):
                feeds = feeds_of(self.case, shapes, salt)
                a, b = run_once(self.left, feeds), run_once(self.right, feeds)
                if apart := [key for key in a if not near(a[key], b[key], self.case)]:
                    yield f"{len(apart)} outputs differ at {shapes}: {apart[:3]}"


def ifs_left(model: onnx.ModelProto) -> list[str]:
    return [node.output[0] for node in model.graph.node if node.op_type == "If"]


def misplaced(written_out: Inlined, pruned: onnx.ModelProto, lowered: onnx.ModelProto) -> Iterator[str]:
    """Say what is wrong with a pruned model whose branches are in their nodes again."""
    outputs = {one.node.output[0] for one in written_out.lifted}
    inside = {n.output[0] for n in graph_nodes(lowered.graph.node) if n.op_type == "If"}
    if outputs - inside:
        yield f"branches are not in their nodes: {sorted(outputs - inside)}"
    counted = count_all_params(lowered), count_all_params(pruned)
    if counted[0] != counted[1]:
        yield f"{counted[0]} parameters with branches in their nodes, {counted[1]} beside each other"
