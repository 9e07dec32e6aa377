"""Build a deep model of small widths: layers of decomposed attention and an MLP, for time measurements.

python scripts/build_deep_model.py FOLDER [--layers 250]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

WIDTH, HEADS, HIDDEN, TOKENS = 32, 4, 64, 8


class _Writer:
    """Collects nodes and weights."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        values = self.rng.standard_normal(shape).astype(np.float32) / np.float32(shape[0] ** 0.5)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def constant(self, values: object) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op, list(inputs), [name], name=f"n{len(self.nodes)}", **attributes)
        )
        return name

    def linear(self, x: str, inner: int, outer: int) -> str:
        return self.node("Add", self.node("MatMul", x, self.weight(inner, outer)), self.weight(outer))

    def norm(self, x: str) -> str:
        """LayerNormalization in primitive operators."""
        mean = self.node("ReduceMean", x, axes=[-1])
        centred = self.node("Sub", x, mean)
        square = self.node("Pow", centred, self.constant(np.float32(2)))
        spread = self.node("Sqrt", self.node("Add", self.node("ReduceMean", square, axes=[-1]), self.eps))
        scaled = self.node("Mul", self.node("Div", centred, spread), self.weight(WIDTH))
        return self.node("Add", scaled, self.weight(WIDTH))

    @property
    def eps(self) -> str:
        return self.constant(np.float32(1e-5))

    def heads(self, x: str) -> str:
        shaped = self.node("Reshape", x, self.constant([0, TOKENS, HEADS, WIDTH // HEADS]))
        return self.node("Transpose", shaped, perm=[0, 2, 1, 3])

    def attention(self, x: str) -> str:
        q, k, v = (self.heads(self.linear(x, WIDTH, WIDTH)) for _ in range(3))
        scores = self.node("MatMul", q, self.node("Transpose", k, perm=[0, 1, 3, 2]))
        scaled = self.node("Div", scores, self.constant(np.float32((WIDTH // HEADS) ** 0.5)))
        mixed = self.node("MatMul", self.node("Softmax", scaled, axis=-1), v)
        joined = self.node("Transpose", mixed, perm=[0, 2, 1, 3])
        return self.linear(self.node("Reshape", joined, self.constant([0, TOKENS, WIDTH])), WIDTH, WIDTH)

    def mlp(self, x: str) -> str:
        """Linear, Gelu in primitive operators, linear."""
        h = self.linear(x, WIDTH, HIDDEN)
        erf = self.node("Erf", self.node("Div", h, self.constant(np.float32(2**0.5))))
        gate = self.node("Add", erf, self.constant(np.float32(1)))
        halved = self.node("Mul", self.node("Mul", h, gate), self.constant(np.float32(0.5)))
        return self.linear(halved, HIDDEN, WIDTH)


def build(layers: int) -> onnx.ModelProto:
    """Make x [n, 8, 16] -> 32 -> residual layers of 40 nodes -> y [n, 8, 16]."""
    writer = _Writer()
    h = writer.linear("x", 16, WIDTH)
    for _ in range(layers):
        h = writer.node("Add", h, writer.attention(writer.norm(h)))
        h = writer.node("Add", h, writer.mlp(writer.norm(h)))
    last = writer.linear(h, WIDTH, 16)
    writer.nodes[-1].output[0] = "y"
    assert last
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", TOKENS, 16]) for n in ("x", "y")]
    graph = helper.make_graph(writer.nodes, "deep", ends[:1], ends[1:], writer.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def main() -> None:
    """Build the model."""
    parser = argparse.ArgumentParser(description="Build a deep model of small widths.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=250)
    args = parser.parse_args()
    model = build(args.layers)
    onnx.save(model, args.folder / "deep.onnx")
    print(f"{args.folder / 'deep.onnx'}: {len(model.graph.node)} nodes")


if __name__ == "__main__":
    main()
