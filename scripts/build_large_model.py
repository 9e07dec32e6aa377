"""Build a large model with external data: blocks of an MLP with random weights, for memory measurements.

    python scripts/build_large_model.py FOLDER [--gigabytes 3]

Writes FOLDER/large.onnx and FOLDER/large.data; never more than one weight is in memory.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

ENDS, WIDTH, HIDDEN = 64, 4096, 8192  # a weight of a block takes 134 MB


def build(folder: Path, gigabytes: float) -> Path:
    """Write x [n, 64] -> 4096 -> residual blocks of 4096 -> 8192 -> 4096 -> y [n, 64]."""
    blocks = max(round(gigabytes * 1e9 / (2 * 4 * WIDTH * HIDDEN)), 1)
    shapes = {"inward": (ENDS, WIDTH)}
    nodes = [helper.make_node("MatMul", ["x", "inward"], ["h0"])]
    for i in range(blocks):
        shapes |= {f"up{i}": (WIDTH, HIDDEN), f"down{i}": (HIDDEN, WIDTH)}
        nodes += [
            helper.make_node("MatMul", [f"h{i}", f"up{i}"], [f"u{i}"]),
            helper.make_node("Relu", [f"u{i}"], [f"r{i}"]),
            helper.make_node("MatMul", [f"r{i}", f"down{i}"], [f"d{i}"]),
            helper.make_node("Add", [f"h{i}", f"d{i}"], [f"h{i + 1}"]),
        ]
    shapes["outward"] = (WIDTH, ENDS)
    nodes.append(helper.make_node("MatMul", [f"h{blocks}", "outward"], ["y"]))
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", ENDS]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], _weights(folder / "large.data", shapes))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    path = folder / "large.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def _weights(path: Path, shapes: dict[str, tuple[int, int]]) -> list[onnx.TensorProto]:
    """Write random weights one after the other; return tensors that refer to them."""
    rng = np.random.default_rng(0)
    tensors = []
    with path.open("wb") as file:
        for name, shape in shapes.items():
            values = rng.standard_normal(shape, dtype=np.float32) / np.float32(shape[0] ** 0.5)
            tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=shape)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            entries = {"location": path.name, "offset": file.tell(), "length": values.nbytes}
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=str(value))
            file.write(values.tobytes())
            tensors.append(tensor)
    return tensors


def main() -> None:
    """Build the model."""
    parser = argparse.ArgumentParser(description="Build a large model with external data.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=3.0)
    args = parser.parse_args()
    print(build(args.folder, args.gigabytes))


if __name__ == "__main__":
    main()
